// How many threads an executor has, may have, and needs: the arithmetic of it.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace torchpool {

enum class Hire : std::uint8_t { kNobody, kWake, kSpawn };

// Not thread-safe. A thread is idle or busy; a busy one may be parked (its task waits in a predictor) or blocked (its
// task waits for another task of the same executor).
struct Staffing {
  int max_workers = 1;  // tasks at a time
  int overlap = 0;      // parked tasks that do not count as such
  int threads = 0;      // those about to start included
  int idle = 0;         // waiting for work; one that was woken counts until it is up
  bool waking = false;  // one of the idle is on its way: it wakes the next itself, so that there is no stampede
  int parked = 0;
  int blocked = 0;

  int busy() const noexcept { return threads - idle; }
  int free_of_charge() const noexcept { return std::min(parked, overlap); }
  int spare() const noexcept { return max_workers + free_of_charge() - busy(); }

  // Whom to call when `queued` tasks wait. As the standard executor does, a thread is started when fewer are idle than
  // tasks wait, whatever the busy ones are about to finish: what they do may take for ever.
  Hire hire(std::size_t queued) const noexcept {
    if (queued == 0 || spare() <= 0) return Hire::kNobody;
    const bool short_of_threads = queued > static_cast<std::size_t>(idle);
    if (short_of_threads && threads < max_workers + free_of_charge()) return Hire::kSpawn;
    return idle > 0 && !waking ? Hire::kWake : Hire::kNobody;
  }
  // Of a busy thread between two tasks: all others wait for tasks of this executor.
  bool others_blocked() const noexcept { return blocked > 0 && blocked == busy() - 1; }
  // A busy thread between two tasks may take the next one. Tasks that come back from a predictor are never held up, so
  // that for a while more may run than max_workers; nothing new is started then.
  bool may_take() const noexcept { return spare() >= 0 || others_blocked(); }
  // A busy thread between two tasks is to leave, after a shrink.
  bool too_many() const noexcept { return threads > max_workers + overlap; }
  // Every task that may run waits for another one: without help nothing will ever move.
  bool stuck() const noexcept { return blocked > 0 && blocked == busy() && spare() <= 0; }
};

}  // namespace torchpool
