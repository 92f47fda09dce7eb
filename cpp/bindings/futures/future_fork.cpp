#include "bindings/futures/future_fork.h"

#include "bindings/futures/future_methods.h"

namespace torchpool {

// In a forked child: locks may be held by threads that are gone, and callbacks tell event loops of the parent's. What
// the task would have run with, and whom it would have told, is never given back: it is the parent's, and a finalizer,
// of a connection say, would act on it.
void fail_after_fork(FutureFields& task, const py::object& make_exception) {
  PyObject* future = object_of(&task);
  task.value = nullptr;
  task.args = nullptr;
  task.waiters = nullptr;  // on stacks of threads that are gone
  if (task.extra != nullptr) {
    task.extra->callbacks = nullptr;
    task.extra->standard_waiters = nullptr;
    task.extra->lock_owner = 0;
    task.extra->lock_depth = 0;
    task.extra->lock_waiters = nullptr;
  }
  if (task.ordinary) {
    const py::handle self(future);
    for (const char* name : {"_condition", "_waiters", "_done_callbacks"}) py::object(self.attr(name)).release();
    self.attr("_condition") = py::reinterpret_steal<py::object>(PyObject_CallNoArgs(standard.condition));
    self.attr("_waiters") = py::list();
    self.attr("_done_callbacks") = py::list();
  }
  const py::object exception = make_exception();
  fail_future(future, exception.ptr());
}

}  // namespace torchpool
