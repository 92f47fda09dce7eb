// A future of a task or a call: a concurrent.futures.Future that is held natively until something
// looks inside.
#pragma once

#include <cstdint>
#include <map>

#include "bindings/interpreter/gil.h"
#include "core/queue/priority_fifo.h"
#include "core/sync/clock.h"
#include "core/sync/parker.h"

namespace torchpool {

class TaskPool;
struct PendingCall;

// All of a future but what Waiter says belongs to the interpreter's lock.
enum class FutureState : std::uint8_t { kPending, kRunning, kCancelled, kFinished };

// One thread that waits for a future, on that thread's stack.
struct Waiter {
  Parker* parker = nullptr;
  Waiter* next = nullptr;
  bool detached = false;  // a permit is on its way: the waiter must take it before it leaves
};

// What few futures have.
struct FutureExtra {
  PyObject* keywords = nullptr;          // names of the last arguments, as in a vectorcall
  PyObject* callbacks = nullptr;         // list
  PyObject* standard_waiters = nullptr;  // list, of wait() and as_completed()
  PyObject* lock_object = nullptr;       // borrowed: `_condition` as long as somebody holds it
  unsigned long lock_owner = 0;          // the thread that holds the lock, lock_depth times
  int lock_depth = 0;
  Waiter* lock_waiters = nullptr;
  bool timed = false;
  std::multimap<TimePoint, struct FutureFields*>::iterator due;  // with `timed`, while queued
  ~FutureExtra();
};

// 88 bytes behind those of the base class. A pending future is also the task: no object is made for that.
struct FutureFields : FifoLinks<FutureFields> {
  FutureState state;
  bool failed;      // value is what was raised
  bool one_arg;     // args is the only argument, not a tuple
  bool ordinary;    // something looked inside: the instance's dict has the standard's attributes, and they count
  bool told;        // set_running_or_notify_cancel() was called after a cancellation
  PyObject* value;  // pending: the callable; finished: what it returned or raised
  PyObject* args;   // pending: null for none
  FutureExtra* extra;
  Waiter* waiters;
  TaskPool* pool;     // of a task, while queued or running
  PendingCall* call;  // of a predictor's call, until its resolver has seen it; owned
};

extern PyTypeObject* future_type;
extern Py_ssize_t future_offset;  // of the fields: the base's size differs between versions of Python

inline FutureFields* fields_of(PyObject* future) noexcept {
  return reinterpret_cast<FutureFields*>(reinterpret_cast<char*>(future) + future_offset);
}
inline PyObject* object_of(FutureFields* fields) noexcept {
  return reinterpret_cast<PyObject*>(reinterpret_cast<char*>(fields) - future_offset);
}
inline bool is_future(PyObject* object) noexcept {
  return PyObject_TypeCheck(object, future_type) != 0;
}

// A pending future that nothing runs yet; null with an error set. Steals nothing.
PyObject* new_future(PyTypeObject* type);
FutureExtra& extra_of(FutureFields& fields);
// What a pending future is to run, taken out of it: dropped at the end of the scope, by when the future's state has
// changed, since destructors may run any code. Requires the interpreter's lock.
class Work {
 public:
  explicit Work(FutureFields& fields) noexcept;
  ~Work();
  Work(const Work&) = delete;
  Work& operator=(const Work&) = delete;
  // Dropping it runs no code of others, and takes no time.
  bool drops_quietly() const noexcept;

 private:
  PyObject* callable_;
  PyObject* args_;
  PyObject* keywords_ = nullptr;
};
// The garbage collector learns of it where it may be part of a cycle. A pending one is not: its queue holds it.
void track_if_needed(PyObject* future) noexcept;

// What the standard library offers and this needs, looked up once at import.
struct Standard {
  PyTypeObject* future = nullptr;
  PyObject* cancelled_error = nullptr;
  PyObject* broken_pool = nullptr;
  PyObject* condition = nullptr;      // threading.Condition
  PyObject* thread_module = nullptr;  // dict of concurrent.futures.thread
  PyObject* hooks = nullptr;          // torchpool.executor.hooks, from finish_executor_class() on
  PyObject* breathe = nullptr;        // an empty Python function: the interpreter hands over when it is entered
};
extern Standard standard;

// Calls base.name(future, args...): the standard's own method. A new reference, or null with an error set.
template <class... Args>
PyObject* call_standard(const char* name, PyObject* future, Args... args) {
  PyObject* method = PyObject_GetAttrString(reinterpret_cast<PyObject*>(standard.future), name);
  if (method == nullptr) return nullptr;
  PyObject* result = PyObject_CallFunctionObjArgs(method, future, args..., nullptr);
  Py_DECREF(method);
  return result;
}

// Logs as the standard does, by a function of torchpool.executor.hooks; clears the error that is set.
void log_error(const char* hook, PyObject* about) noexcept;

void register_future(py::module_& module);

}  // namespace torchpool
