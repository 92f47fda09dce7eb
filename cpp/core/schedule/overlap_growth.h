// Whether one more thread pays, for tasks beside those that wait in predictors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/sync/clock.h"

namespace torchpool {

// A thread's first task may take far more processor time than later ones: whatever is kept once a thread (a copy of a
// tokenizer, a connection) is made in it. Threads for which that is little are started without a question, since more
// open tasks fill batches better. Others are started one at a time, for as long as what the tasks to come are to save
// is more than the thread costs. That is estimated as if a task took `n / (n + 1)` of its time once a thread is added
// to `n`, times what became of that when it was expected before. As many tasks are thought to come as wait, or as many
// as have been, whichever are more.
//
// Not thread-safe. "Own" time is a task's processor time outside of predictors.
class OverlapGrowth {
 public:
  static constexpr Duration kCheap = std::chrono::milliseconds(2);  // of a thread's first task, beyond a later one

  // A thread's first task has used so much so far; told when it first waits, and when it ends.
  void note_first(Duration own) noexcept;
  // Whether a later task is to be measured, and ends are to be noted: that takes time, and mostly tells nothing.
  bool asks_for_later() const noexcept { return asks_for_ends() && (later_tasks_ < kEach || ended_ % kEach == 0); }
  bool asks_for_ends() const noexcept { return first_ > kCheap; }
  void note_later(Duration own) noexcept;
  // A task ended; `waiting`: whether others wait for a thread.
  void note_end(TimePoint now, bool waiting) noexcept;

  // Whether a thread is to be added to `threads`, while `waiting` tasks wait for one.
  bool pays(std::size_t waiting, int threads) const noexcept;
  // One was added to so many.
  void grew(int threads) noexcept;
  // It left without a task.
  void left() noexcept { trying_ = false; }

 private:
  static constexpr std::uint64_t kEach = 8;  // of so many later tasks one is measured, once as many were

  Duration extra() const noexcept { return later_tasks_ == 0 ? first_ : first_ - later_; }
  bool is_cheap() const noexcept { return extra() <= kCheap; }
  // Seconds a task, since the last thread was added; 0 where too few have ended to tell.
  double pace(int threads) const noexcept;
  void forget_pace() noexcept;

  Duration first_{};  // of the last thread that was started
  Duration later_{};  // the mean of the last eight or so
  std::uint64_t later_tasks_ = 0;
  std::uint64_t ended_ = 0;  // tasks, ever
  // Of tasks that ended since the last thread's first one, with others waiting all the while.
  Duration spent_{};
  int timed_ = 0;
  TimePoint last_end_ = kNever;  // kNever: none waited then
  bool trying_ = false;          // a thread that costs something was added, and has not had its first task yet
  int grown_from_ = 0;           // threads, before the last was added
  double pace_before_ = 0;       // then; 0: nothing to compare with
  double gained_ = 0.5;          // of the time that adding a thread could save a task, what it did save
};

}  // namespace torchpool
