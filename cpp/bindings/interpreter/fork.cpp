#include "bindings/interpreter/fork.h"

#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <vector>

namespace torchpool {

namespace {

// References to what the other threads' states hold: thread-local values and context variables. Python drops these in
// a forked child, and their finalizers would act on what is the parent's: a database connection says good-bye to its
// server. In the child they are never given back.
class OthersKept {
 public:
  // Requires the interpreter's lock: without it no thread's state can go away.
  OthersKept() {
    PyThreadState* own = PyThreadState_Get();
    PyThreadState* state = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(own));
    for (; state != nullptr; state = PyThreadState_Next(state)) {
      if (state == own) continue;
      keep(state->dict);
      keep(state->context);
    }
  }
  void give_back() {
    for (PyObject* object : kept_) Py_DECREF(object);
  }

 private:
  void keep(PyObject* object) {
    if (object == nullptr) return;
    Py_INCREF(object);
    kept_.push_back(object);
  }
  std::vector<PyObject*> kept_;
};

// Nothing that is meant for the parent reaches the child, nothing of the parent's is finalized in it, and it ends with
// the parent's thread or when its time is up.
void settle_in_child(unsigned seconds) {
  PyGC_Disable();
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  (void)std::signal(SIGALRM, SIG_DFL);
  sigset_t alarm_only;
  sigemptyset(&alarm_only);
  sigaddset(&alarm_only, SIGALRM);
  pthread_sigmask(SIG_UNBLOCK, &alarm_only, nullptr);
  alarm(seconds);
}

// As os.fork(), which warns from Python 3.12 on where there are other threads: what the child may not do is said in
// capture_process.py.
int fork_for(unsigned seconds) {
  sigset_t all;
  sigset_t before;
  sigfillset(&all);
  PyOS_BeforeFork();
  OthersKept kept;
  pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t child = fork();
  const int error = errno;
  if (child == 0) {
    settle_in_child(seconds);
    PyOS_AfterFork_Child();
    return 0;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  PyOS_AfterFork_Parent();
  kept.give_back();
  if (child < 0) {
    errno = error;
    PyErr_SetFromErrno(PyExc_OSError);
    throw py::error_already_set();
  }
  return child;
}

}  // namespace

void register_fork(py::module_& module) {
  module.def("fork", &fork_for, py::arg("seconds"),
             "Forks for a piece of work of at most that many seconds. Returns 0 in the child, which hears no signals, "
             "collects no garbage, must not touch what the parent's other threads hold, and ends by os._exit().");
}

}  // namespace torchpool
