#include "bindings/interpreter/bound_runtime.h"

#include <algorithm>
#include <stdexcept>
#include <thread>
#include <vector>

#include "core/machine/topology.h"
#include "core/sync/error.h"
#include "core/sync/mutex.h"
#include "core/sync/thread.h"
#include "predict/batch/thread_scope.h"

namespace torchpool {

BoundRuntime::BoundRuntime(int workers, py::object notify_futures, py::object notify_loops)
    : futures_(std::make_shared<Resolver>(std::move(notify_futures))),
      loops_(std::make_shared<Resolver>(std::move(notify_loops))) {
  RuntimeOptions options;
  options.workers = workers;
  options.interpreter.gate = &GilGate::shared();
  options.interpreter.stop = [](int /*worker*/) { GilGate::stop_thread(); };
  core_ = std::make_unique<Runtime>(std::move(options));
  // As many as the standard library's executors have.
  constexpr int kMost = 32;
  constexpr int kMore = 4;
  call_threads_ = std::make_shared<CallThreads>(std::min(kMost, usable_cores(read_topology()) + kMore));
}

namespace {

// What is left of a runtime that was destroyed on a thread of its own.
struct Remains {
  std::unique_ptr<Runtime> core;
  std::shared_ptr<CallThreads> calls;
  std::shared_ptr<Resolver> futures;
  std::shared_ptr<Resolver> loops;
  void close() const {
    core->close();
    calls->close();
    futures->close();
    loops->close();
  }
};

struct Reaped {
  Mutex mutex;
  std::vector<std::thread> threads TP_GUARDED_BY(mutex);
  std::vector<std::shared_ptr<Remains>> left TP_GUARDED_BY(mutex);  // for which there was no thread
};

Reaped& reaped() {
  static auto* all = new Reaped;
  return *all;
}

}  // namespace

BoundRuntime::~BoundRuntime() {
  if (!Runtime::on_worker_thread() && !Resolver::on_resolver_thread() && !CallThreads::on_call_thread()) {
    close();
    return;
  }
  const auto remains = std::make_shared<Remains>(Remains{std::move(core_), call_threads_, futures_, loops_});
  Reaped& all = reaped();
  const MutexLock lock(all.mutex);
  try {
    all.threads.push_back(start_thread([remains] { remains->close(); }));
  } catch (const NoThread&) {
    all.left.push_back(remains);
  }
}

bool must_run_inline() {
  return Runtime::on_worker_thread() || Resolver::on_resolver_thread() || CallThreads::on_call_thread() ||
         InlineLease::held_by_this_thread();
}

void join_reaped_runtimes() {
  std::vector<std::thread> threads;
  std::vector<std::shared_ptr<Remains>> left;
  {
    Reaped& all = reaped();
    const MutexLock lock(all.mutex);
    threads.swap(all.threads);
    left.swap(all.left);
  }
  for (std::thread& thread : threads) thread.join();
  for (const auto& remains : left) remains->close();
}

void BoundRuntime::close() {
  if (call_threads_->is_own_thread()) throw std::logic_error("a runtime cannot be closed by its worker");
  closed_ = true;
  const GilRelease release;
  core_->close();
  call_threads_->close();
  futures_->close();
  loops_->close();
}

void register_runtime(py::module_& module) {
  py::class_<BoundRuntime, std::shared_ptr<BoundRuntime>>(module, "Runtime", "Workers and cores of a process.")
      .def(py::init<int, py::object, py::object>(), py::arg("workers"), py::arg("notify_futures"),
           py::arg("notify_loops"))
      .def_property_readonly("workers", [](BoundRuntime& runtime) { return runtime.core().workers(); })
      .def_property_readonly("cores_per_batch", [](BoundRuntime& runtime) { return runtime.core().cores_per_batch(); })
      .def(
          "resize",
          [](BoundRuntime& runtime, int workers, int cores_per_batch) {
            if (runtime.call_threads()->is_own_thread()) {
              throw std::logic_error("a runtime cannot be resized by its worker");
            }
            const GilRelease release;
            runtime.core().resize(workers, cores_per_batch);
          },
          py::arg("workers"), py::arg("cores_per_batch"))
      .def("forbid_inline", &BoundRuntime::forbid_inline)
      .def_property_readonly("running_here", [](BoundRuntime& runtime) { return runtime.running_here().load(); })
      .def("close", &BoundRuntime::close);
  module.def("join_reaped_runtimes", [] {
    const GilRelease release;
    join_reaped_runtimes();
  });
  module.def("stop_reclaimer", [] {
    const GilRelease release;
    GilReclaimer::instance().stop();
  });
  module.def("usable_cores", [] { return usable_cores(read_topology()); });
  module.def("describe_topology", [] { return read_topology().describe(); });
  module.def("on_worker_thread", &must_run_inline,
             "True on a thread that must not wait for another call: a worker, or one that runs callbacks.");
  module.def(
      "other_python_threads",
      [] {
        py::list found;
        PyThreadState* own = PyThreadState_Get();
        PyThreadState* state = PyInterpreterState_ThreadHead(PyThreadState_GetInterpreter(own));
        for (; state != nullptr; state = PyThreadState_Next(state)) {
          if (state != own) found.append(py::int_(state->thread_id));
        }
        return found;
      },
      "Idents of the threads that can run Python code, but the calling one. sys._current_frames(), which tells them "
      "too, "
      "looks at frames that are being made, and has crashed.");
  module.def("set_intra_op_threads", &set_intra_op_threads, py::arg("threads"),
             "Of the calling thread only, unlike torch.set_num_threads.");
  module.def("lend_cores", &lend_cores, py::arg("more"),
             "Calls on their callers' threads leave that many cores more to others; fewer, where it is negative.");
}

}  // namespace torchpool
