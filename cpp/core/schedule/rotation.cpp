#include "core/schedule/rotation.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace torchpool {
namespace {

bool may_go(const Ready& ready) noexcept {
  return ready.share->deficit > Duration::zero();
}

// Of a round, in nanoseconds.
double time_of(const FairShare& share) noexcept {
  return share.weight * static_cast<double>(Rotation::kQuantum.count());
}

}  // namespace

void Rotation::credit(FairShare& share) const noexcept {
  const double rounds = rounds_->passed - share.credited;
  // Of a small weight that had the workers to itself so many pass that a large one's time would overflow.
  constexpr double kMostTime = 1e18;
  share.deficit += Duration(static_cast<Duration::rep>(std::ceil(std::min(rounds * time_of(share), kMostTime))));
  share.credited = rounds_->passed;
}

void Rotation::push(Ready ready) {
  FairShare& share = *ready.share;
  credit(share);
  share.deficit = std::min(share.deficit, Duration(static_cast<Duration::rep>(time_of(share))));
  items_.push_back(std::move(ready));
}

// As many as it takes until one may go.
void Rotation::pass_rounds() {
  double least = -1;
  for (const Ready& ready : items_) {
    const FairShare& share = *ready.share;
    const double rounds = std::ceil(static_cast<double>(1 - share.deficit.count()) / time_of(share));
    least = least < 0 ? rounds : std::min(least, rounds);
  }
  rounds_->passed += least;
  for (const Ready& ready : items_) credit(*ready.share);
}

Ready Rotation::take(const FairShare* warm, int takers) {
  for (const Ready& ready : items_) credit(*ready.share);  // rounds may have passed in another rotation
  if (std::none_of(items_.begin(), items_.end(), may_go)) pass_rounds();
  auto chosen = items_.end();
  int going = 0;
  for (auto item = items_.begin(); item != items_.end() && going < std::max(1, takers); ++item) {
    if (!may_go(*item)) continue;
    if (chosen == items_.end()) chosen = item;
    ++going;
    if (item->share.get() != warm) continue;
    chosen = item;
    break;
  }
  Ready ready = std::move(*chosen);
  items_.erase(chosen);
  ready.charged = ready.share->typical;
  ready.share->deficit -= ready.charged;
  return ready;
}

void Rotation::settle(FairShare& share, Duration charged, Duration took) noexcept {
  share.deficit += charged - took;
  share.typical = share.typical == Duration::zero() ? took : share.typical + (took - share.typical) / 8;
}

}  // namespace torchpool
