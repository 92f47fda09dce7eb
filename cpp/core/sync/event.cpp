#include "core/sync/event.h"

#include <utility>

namespace torchpool {

void Event::set() noexcept {
  std::shared_ptr<EventListener> listener;
  {
    MutexLock lock(mutex_);
    set_ = true;
    listener = std::move(listener_);
  }
  // From here on the task may run and destroy this event: nothing of it is touched any more.
  if (listener != nullptr) listener->on_event();
}

void Event::reset() noexcept {
  MutexLock lock(mutex_);
  set_ = false;
}

bool Event::listen(std::shared_ptr<EventListener> listener) {
  MutexLock lock(mutex_);
  if (set_) return false;
  listener_ = std::move(listener);
  return true;
}

}  // namespace torchpool
