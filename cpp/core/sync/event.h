// What a task waits for between two steps.
#pragma once

#include <memory>

#include "core/sync/mutex.h"

namespace torchpool {

// Is told, once, that an event is set.
class EventListener {
 public:
  virtual ~EventListener() = default;
  virtual void on_event() noexcept = 0;
};

// Requires: at most one task waits for an event; reset() is called only while no task waits.
// Guarantees: what happened before set() is visible to the step that the event leads to.
// Destruction: legal once set() has begun and the task was stepped again, or when nobody will call set() any more.
class Event {
 public:
  // From any thread, also before a task waits.
  void set() noexcept TP_EXCLUDES(mutex_);
  void reset() noexcept TP_EXCLUDES(mutex_);
  // False when the event was set already: the listener is then not told.
  bool listen(std::shared_ptr<EventListener> listener) TP_EXCLUDES(mutex_);

 private:
  Mutex mutex_;
  bool set_ TP_GUARDED_BY(mutex_) = false;
  std::shared_ptr<EventListener> listener_ TP_GUARDED_BY(mutex_);
};

}  // namespace torchpool
