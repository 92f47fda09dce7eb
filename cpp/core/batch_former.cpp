#include "core/batch_former.h"

#include <algorithm>
#include <cstdlib>
#include <numeric>

namespace torchpool {
namespace {

using Waiting = std::span<const RequestInfo* const>;

// When a request is due for the choice of the seed.
TimePoint due(const RequestInfo& info) {
  if (info.arrival > kNever - kPatience) return info.deadline;
  return std::min(info.deadline, info.arrival + kPatience);
}

std::size_t pick_seed(Waiting waiting) {
  std::size_t best = 0;
  for (std::size_t i = 1; i < waiting.size(); ++i) {
    const RequestInfo& a = *waiting[i];
    const RequestInfo& b = *waiting[best];
    if (a.priority > b.priority || (a.priority == b.priority && due(a) < due(b))) best = i;
  }
  return best;
}

// Rows and padding of a batch while it grows.
class Fill {
 public:
  explicit Fill(const BatchLimits& limits) : limits_(limits), max_rows_(row_limit(limits)) {}

  void add(const RequestInfo& info) {
    rows_ += info.rows;
    if (info.length == 0) return;
    padded_rows_ += info.rows;
    used_ += info.rows * info.length;
    longest_ = std::max(longest_, info.length);
  }
  bool fits(const RequestInfo& info) const {
    if (rows_ + info.rows > max_rows_) return false;
    Fill grown = *this;
    grown.add(info);
    return grown.may_be_padded();
  }
  bool full() const { return rows_ >= max_rows_; }

 private:
  bool may_be_padded() const {
    const std::int64_t area = padded_rows_ * longest_;
    const std::int64_t padding = area - used_;
    return padding <= padded_rows_ * limits_.free_padding ||
           static_cast<double>(padding) <= limits_.max_padding * static_cast<double>(area);
  }

  const BatchLimits& limits_;
  std::int64_t max_rows_;
  std::int64_t rows_ = 0;
  std::int64_t padded_rows_ = 0;
  std::int64_t used_ = 0;
  std::int64_t longest_ = 0;
};

}  // namespace

std::int64_t row_limit(const BatchLimits& limits) {
  const std::int64_t most = std::max<std::int64_t>(1, limits.max_rows);
  return limits.share_rows > 0 ? std::min(most, limits.share_rows) : most;
}

std::vector<std::size_t> form_batch(Waiting waiting, const BatchLimits& limits) {
  if (waiting.empty()) return {};
  const std::size_t seed_place = pick_seed(waiting);
  const RequestInfo& seed = *waiting[seed_place];
  Fill fill(limits);
  fill.add(seed);
  std::vector<std::size_t> taken{seed_place};
  if (fill.full()) return taken;

  std::vector<std::size_t> others;
  bool same_length = true;
  for (std::size_t i = 0; i < waiting.size(); ++i) {
    const RequestInfo& info = *waiting[i];
    if (i == seed_place || info.key != seed.key || info.priority != seed.priority) continue;
    others.push_back(i);
    same_length = same_length && info.length == seed.length;
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
