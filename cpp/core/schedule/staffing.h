// How many threads an executor has, may have and needs.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace torchpool {

enum class Hire : std::uint8_t { kNobody, kWake, kSpawn };

// Not thread-safe. A thread is idle or busy. A busy thread may be parked (its task waits in a predictor) or blocked
// (its task waits for another task of the same executor).
struct Staffing {
  int max_workers = 1;  // tasks at a time
  int overlap = 0;      // parked tasks that do not count against max_workers
  int threads = 0;      // including threads that are about to start
  int idle = 0;         // waiting for work; a woken thread counts until it runs
  bool waking = false;  // an idle thread was woken; it wakes the next one itself, so that there is no stampede
  int parked = 0;
  int blocked = 0;

  int busy() const noexcept { return threads - idle; }
  int free_of_charge() const noexcept { return std::min(parked, overlap); }
  int spare() const noexcept { return max_workers + free_of_charge() - busy(); }

  // Which thread to call when `queued` tasks wait. As the standard executor does, a thread is started when fewer
  // threads are idle than tasks wait, however soon a busy thread may be free: its task may take for ever.
  Hire hire(std::size_t queued) const noexcept {
    if (queued == 0 || spare() <= 0) return Hire::kNobody;
    const bool short_of_threads = queued > static_cast<std::size_t>(idle);
    if (short_of_threads && threads < max_workers + free_of_charge()) return Hire::kSpawn;
    return idle > 0 && !waking ? Hire::kWake : Hire::kNobody;
  }
  // Asked by a busy thread between two tasks: whether all other busy threads wait for tasks of this executor.
  bool others_blocked() const noexcept { return blocked > 0 && blocked == busy() - 1; }
  // Whether a busy thread between two tasks may take the next task. Tasks that come back from a predictor are never
  // held up, so more tasks than max_workers may run for a while; no new task is started then.
  bool may_take() const noexcept { return spare() >= 0 || others_blocked(); }
  // Whether a busy thread between two tasks is to leave, after a shrink.
  bool too_many() const noexcept { return threads > max_workers + overlap; }
  // Whether every task that may run waits for another task: without help no task would ever end.
  bool stuck() const noexcept { return blocked > 0 && blocked == busy() && spare() <= 0; }
};

}  // namespace torchpool
