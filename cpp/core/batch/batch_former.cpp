#include "core/batch/batch_former.h"

#include <algorithm>
#include <cstdlib>

namespace torchpool {
namespace {

using Waiting = std::span<const RequestInfo* const>;

// Rows, padding and time of a batch while it grows.
class Fill {
 public:
  Fill(const BatchLimits& limits, const Outlook& outlook)
      : limits_(limits), outlook_(outlook), max_rows_(row_limit(limits)) {}

  void add(const RequestInfo& info) {
    rows_ += info.rows;
    extent_ = std::max(extent_, info.extent);
    items_ += info.rows * info.extent;
    padding_is_free_ = padding_is_free_ && info.padding_is_free;
    deadline_ = std::min(deadline_, info.deadline);
    if (info.length == 0) return;
    padded_rows_ += info.rows;
    used_ += info.rows * info.length;
    longest_ = std::max(longest_, info.length);
  }
  bool fits(const RequestInfo& info) const {
    if (rows_ + info.rows > max_rows_) return false;
    Fill grown = *this;
    grown.add(info);
    return grown.may_be_padded() && grown.finishes_in_time();
  }
  bool full() const { return rows_ >= max_rows_; }

 private:
  bool may_be_padded() const {
    if (padding_is_free_) return true;
    const std::int64_t area = padded_rows_ * longest_;
    const std::int64_t padding = area - used_;
    return padding <= padded_rows_ * limits_.free_padding ||
           static_cast<double>(padding) <= limits_.max_padding * static_cast<double>(area);
  }
  bool finishes_in_time() const {
    if (deadline_ == kNever || outlook_.cost == nullptr) return true;
    const std::int64_t length = padding_is_free_ ? mean_length(items_, rows_) : extent_;
    return outlook_.now + with_margin(outlook_.cost->estimate(rows_, length)) <= deadline_;
  }

 public:
  // What a batch takes varies; one in a few takes so much more.
  static Duration with_margin(Duration time) { return time + time / 8; }

 private:
  const BatchLimits& limits_;
  const Outlook& outlook_;
  std::int64_t max_rows_;
  std::int64_t rows_ = 0;
  std::int64_t extent_ = 1;
  std::int64_t items_ = 0;
  bool padding_is_free_ = true;  // for all of them
  TimePoint deadline_ = kNever;
  std::int64_t padded_rows_ = 0;
  std::int64_t used_ = 0;
  std::int64_t longest_ = 0;
};

// The first that a whole batch would finish in time, where more waits than that; else the first. Under overload all
// that run are near their deadlines, and a batch that takes longer than expected would miss all of them: of a CNN's
// calls at 120 % load one in ten ran in vain with a margin of an eighth.
std::size_t pick_seed(Waiting waiting, const BatchLimits& limits, const Outlook& outlook) {
  const std::int64_t most = row_limit(limits);
  if (outlook.cost == nullptr || outlook.waiting_rows <= most) return 0;
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    const RequestInfo& info = *waiting[i];
    if (info.deadline == kNever) return i;
    const Duration takes = outlook.cost->estimate(most, info.extent);
    if (outlook.now + takes + takes / 2 <= info.deadline) return i;
  }
  return 0;
}

}  // namespace

std::int64_t row_limit(const BatchLimits& limits) {
  const std::int64_t most = std::max<std::int64_t>(1, limits.max_rows);
  return limits.share_rows > 0 ? std::min(most, limits.share_rows) : most;
}

std::int64_t overtaking_limit(const BatchLimits& limits) {
  return 8 * std::max<std::int64_t>(8, limits.max_rows);
}

std::vector<std::size_t> form_batch(Waiting waiting, const BatchLimits& limits, const Outlook& outlook) {
  if (waiting.empty()) return {};
  const std::size_t seed_place = pick_seed(waiting, limits, outlook);
  const RequestInfo& seed = *waiting[seed_place];
  Fill fill(limits, outlook);
  fill.add(seed);
  std::vector<std::size_t> taken{seed_place};
  if (fill.full()) return taken;

  const std::int64_t most_overtaken = overtaking_limit(limits);
  std::vector<std::size_t> others;
  bool same_length = true;
  // Those before the seed were passed over for their deadlines.
  for (std::size_t i = seed_place + 1; i < waiting.size(); ++i) {
    const RequestInfo& info = *waiting[i];
    if (info.key == seed.key) {
      others.push_back(i);
      same_length = same_length && info.length == seed.length;
    }
    if (info.overtaken >= most_overtaken) break;
  }
  if (!same_length) {
    const auto nearer = [&](std::size_t a, std::size_t b) {
      const std::int64_t to_a = std::abs(waiting[a]->length - seed.length);
      const std::int64_t to_b = std::abs(waiting[b]->length - seed.length);
      return to_a != to_b ? to_a < to_b : a < b;
    };
    // A batch holds no more requests than rows, so only that many need sorting.
    const auto wanted = static_cast<std::size_t>(row_limit(limits));
    const auto middle = others.begin() + static_cast<std::ptrdiff_t>(std::min(wanted, others.size()));
    std::partial_sort(others.begin(), middle, others.end(), nearer);
  }
  // It stops at the first that does not fit: a later, smaller one must not overtake it for good.
  for (const std::size_t i : others) {
    if (fill.full() || !fill.fits(*waiting[i])) break;
    fill.add(*waiting[i]);
    taken.push_back(i);
  }
  std::sort(taken.begin(), taken.end());
  return taken;
}

}  // namespace torchpool
