#include "core/schedule/overlap_growth.h"

#include <algorithm>

namespace torchpool {

namespace {

constexpr int kMemory = 8;       // tasks
constexpr int kFewest = 16;      // tasks that tell how long one takes
constexpr double kLeast = 0.05;  // of what a thread could save: it is tried again once many more tasks have come

// Of a task's time, at the most, where a thread is added to so many.
double could_save(int threads) noexcept {
  return 1.0 / (threads + 1);
}

}  // namespace

void OverlapGrowth::note_first(Duration own) noexcept {
  first_ = own;
  trying_ = false;
  forget_pace();
}

void OverlapGrowth::note_later(Duration own) noexcept {
  later_ = later_tasks_ == 0 ? own : later_ + (own - later_) / kMemory;
  ++later_tasks_;
}

void OverlapGrowth::forget_pace() noexcept {
  spent_ = Duration::zero();
  timed_ = 0;
  last_end_ = kNever;
}

void OverlapGrowth::note_end(TimePoint now, bool waiting) noexcept {
  ++ended_;
  if (last_end_ != kNever) {
    spent_ += now - last_end_;
    ++timed_;
  }
  last_end_ = waiting ? now : kNever;
  if (pace_before_ == 0) return;
  const double reached = pace(grown_from_ + 1);
  if (reached == 0) return;
  const double saved = 1 - reached / pace_before_;
  gained_ = std::clamp(saved / could_save(grown_from_), kLeast, 1.0);
  pace_before_ = 0;
}

double OverlapGrowth::pace(int threads) const noexcept {
  return timed_ < std::max(kFewest, 2 * threads) ? 0 : to_seconds(spent_) / timed_;
}

bool OverlapGrowth::pays(std::size_t waiting, int threads) const noexcept {
  if (is_cheap()) return true;
  if (trying_) return false;
  const auto tasks = static_cast<double>(std::max<std::uint64_t>(waiting, ended_));
  return to_seconds(extra()) < tasks * pace(threads) * could_save(threads) * gained_;
}

void OverlapGrowth::grew(int threads) noexcept {
  if (is_cheap()) return;
  trying_ = true;
  grown_from_ = threads;
  pace_before_ = pace(threads);
}

}  // namespace torchpool
