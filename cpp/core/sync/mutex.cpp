#include "core/sync/mutex.h"

namespace torchpool {

// The lock is adopted and given back, so that a plain std::condition_variable serves: condition_variable_any
// would add a mutex of its own to every wait and notification.
void CondVar::wait(Mutex& mutex) {
  std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
  cv_.wait(lock);
  lock.release();
}

void CondVar::wait_until(Mutex& mutex, std::chrono::steady_clock::time_point until) {
  if (until == std::chrono::steady_clock::time_point::max()) {
    wait(mutex);
    return;
  }
  std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
  cv_.wait_until(lock, until);
  lock.release();
}

}  // namespace torchpool
