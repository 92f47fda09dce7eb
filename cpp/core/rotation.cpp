#include "core/rotation.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace torchpool {
namespace {

bool may_go(const Ready& ready) noexcept {
  return ready.share->deficit > Duration::zero();
}

double rounds_until_positive(const FairShare& share) noexcept {
  const auto owed = static_cast<double>(1 - share.deficit.count());
  return std::ceil(owed / (share.weight * static_cast<double>(Rotation::kQuantum.count())));
}

}  // namespace

void Rotation::top_up() {
  double rounds = 0;
  for (const Ready& ready : items_) {
    const double needed = rounds_until_positive(*ready.share);
    rounds = rounds == 0 ? needed : std::min(rounds, needed);
  }
  ++round_;
  for (const Ready& ready : items_) {
    FairShare& share = *ready.share;
    const std::pair<const void*, std::uint64_t> now{this, round_};
    if (std::exchange(share.topped_up, now) == now) continue;
    const double quantum = share.weight * static_cast<double>(kQuantum.count());
    share.deficit += Duration(static_cast<Duration::rep>(std::ceil(rounds * quantum)));
  }
}

Ready Rotation::take(const FairShare* warm, int takers) {
  if (std::none_of(items_.begin(), items_.end(), may_go)) top_up();
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
