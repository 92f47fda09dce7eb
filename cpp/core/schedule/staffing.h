// How many threads an executor has, may have and needs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "core/schedule/overlap_growth.h"

namespace torchpool {

enum class Hire : std::uint8_t { kNobody, kWake, kSpawn };

// Threads of the system cost memory and time to hand over to: more than so many parked tasks are not worth theirs.
constexpr int kMostOverlap = 32;

// Not thread-safe. A thread is idle or busy. A busy thread may be parked (its task waits in a predictor) or blocked
// (its task waits for another task of the same executor).
struct Staffing {
  int max_workers = 1;  // tasks at a time
  int overlap = 0;      // parked tasks that do not count against max_workers
  bool learns = false;  // the overlap is what the parked tasks say that it takes to fill batches
  int reached = 0;      // the largest of these, since max_workers was set: for so many there may be threads
  int threads = 0;      // including threads that are about to start
  int idle = 0;         // waiting for work; a woken thread counts until it runs
  bool waking = false;  // an idle thread was woken; it wakes the next one itself, so that there is no stampede
  int parked = 0;
  int blocked = 0;
  OverlapGrowth growth;

  int busy() const noexcept { return threads - idle; }
  // One worker at a time is asked for where what runs at a time matters: then nothing is free that was not asked for.
  int most_overlap() const noexcept { return !learns ? overlap : max_workers > 1 ? kMostOverlap : 0; }
  int free_of_charge() const noexcept { return std::min({parked, overlap, most_overlap()}); }
  int spare() const noexcept { return max_workers + free_of_charge() - busy(); }

  // A task waits in a predictor whose batches are filled by so many such tasks at a time.
  void park(std::int64_t useful_tasks) noexcept {
    if (learns)
      overlap = static_cast<int>(std::clamp<std::int64_t>(useful_tasks, parked == 0 ? 0 : overlap, kMostOverlap));
    reached = std::max(reached, overlap);
    ++parked;
  }
  void resize(int workers) noexcept {
    max_workers = workers;
    reached = parked == 0 ? 0 : overlap;
  }
  // Which thread to call when `queued` tasks wait. As the standard executor does, a thread is started when fewer
  // threads are idle than tasks wait, however soon a busy thread may be free: its task may take for ever.
  Hire hire(std::size_t queued) const noexcept {
    if (queued == 0 || spare() <= 0) return Hire::kNobody;
    const bool short_of_threads = queued > static_cast<std::size_t>(idle);
    if (short_of_threads && threads < max_workers + free_of_charge() && may_grow(queued)) return Hire::kSpawn;
    return idle > 0 && !waking ? Hire::kWake : Hire::kNobody;
  }
  // Threads that an overlap was stated for, and max_workers, are asked for whatever they cost.
  bool may_grow(std::size_t queued) const noexcept {
    return threads < max_workers || !learns || growth.pays(queued, threads);
  }
  void add_thread() noexcept {
    if (threads >= max_workers) growth.grew(threads);
    ++threads;
  }
  void remove_thread() noexcept {
    growth.left();
    --threads;
  }
  // Asked by a busy thread between two tasks: whether all other busy threads wait for tasks of this executor.
  bool others_blocked() const noexcept { return blocked > 0 && blocked == busy() - 1; }
  // Whether a busy thread between two tasks may take the next task. Tasks that come back from a predictor are never
  // held up, so more tasks than max_workers may run for a while; no new task is started then.
  bool may_take() const noexcept { return spare() >= 0 || others_blocked(); }
  // Whether a busy thread between two tasks is to leave, after a shrink.
  bool too_many() const noexcept {
    return threads > max_workers + (learns ? std::min(reached, most_overlap()) : overlap);
  }
  // Whether every task that may run waits for another task: without help no task would ever end.
  bool stuck() const noexcept { return blocked > 0 && blocked == busy() && spare() <= 0; }
};

}  // namespace torchpool
