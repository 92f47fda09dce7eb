#include "bindings/predictor/python_backend.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>

#include "bindings/call/ambient.h"
#include "bindings/inplace/inside.h"
#include "core/machine/cpu_time.h"
#include "core/sync/error.h"
#include "core/sync/event.h"
#include "predict/batch/thread_scope.h"

namespace torchpool {

namespace {

py::object call(const PyRef& target, const py::object& args, const py::object& kwargs) {
  PyObject* result = PyObject_Call(static_cast<PyObject*>(target.get()), args.ptr(), kwargs ? kwargs.ptr() : nullptr);
  if (result == nullptr) throw take_python_error();
  return py::reinterpret_steal<py::object>(result);
}

py::object wrap_tensor(const at::Tensor& tensor) {
  return py::reinterpret_steal<py::object>(THPVariable_Wrap(tensor));
}

}  // namespace

py::object PyResultForm::rebuild(const std::vector<at::Tensor>& leaves) const {
  if (!spec_) return wrap_tensor(leaves.at(0));
  py::list list(leaves.size());
  for (std::size_t i = 0; i < leaves.size(); ++i) list[i] = wrap_tensor(leaves[i]);
  return borrow(spec_).attr("rebuild")(list);
}

bool PyResultForm::same_as(const ResultForm& other) const noexcept {
  auto* own = static_cast<PyObject*>(spec_.get());
  auto* others = static_cast<PyObject*>(static_cast<const PyResultForm&>(other).spec_.get());
  if (own == others || own == nullptr || others == nullptr) return own == others;
  const int equal = PyObject_RichCompareBool(own, others, Py_EQ);
  if (equal < 0) PyErr_Clear();  // what cannot be compared is not known to be the same
  return equal == 1;
}

py::object take_look(const py::object& seen, std::atomic<HasState>& has_state) {
  const auto pair = py::reinterpret_borrow<py::tuple>(seen);
  HasState expected = HasState::kUnknown;
  if (pair[1].cast<bool>()) {
    has_state.store(HasState::kYes);  // whatever other runs have shown
  } else {
    has_state.compare_exchange_strong(expected, HasState::kNo);
  }
  return pair[0];
}

// An array's memory is not torch's own: its owner is not counted.
bool is_callers_own(const py::object& result) {
  if (!THPVariable_CheckExact(result.ptr()) || Py_REFCNT(result.ptr()) != 1) return false;
  const at::Tensor& tensor = THPVariable_Unpack(result.ptr());
  if (tensor.use_count() != 1 || !tensor.has_storage() || tensor.layout() != at::kStrided) return false;
  const c10::Storage& storage = tensor.storage();
  return storage.use_count() == 1 && storage.allocator() != nullptr && !tensor.requires_grad();
}

BackendResult flatten_python_result(const py::object& result) {
  BackendResult flat;
  if (THPVariable_CheckExact(result.ptr())) {
    static const auto bare = std::make_shared<const PyResultForm>(nullptr);
    flat.outputs.push_back(THPVariable_Unpack(result.ptr()));
    flat.form = bare;
    return flat;
  }
  static PyObject* const flatten =
      py::object(py::module_::import("torchpool.call.tree").attr("flatten")).release().ptr();
  const auto pair = py::reinterpret_steal<py::object>(PyObject_CallOneArg(flatten, result.ptr()));
  if (!pair) throw take_python_error();
  for (const py::handle leaf : py::reinterpret_borrow<py::tuple>(pair)[0].cast<py::list>()) {
    flat.outputs.push_back(THPVariable_Unpack(leaf.ptr()));
  }
  flat.form = std::make_shared<const PyResultForm>(make_ref(py::reinterpret_borrow<py::tuple>(pair)[1]));
  return flat;
}

py::object typed_refusal(const py::object& learner, const py::object& error, const OpaqueArgument& opaque,
                         const py::object& args, const py::object& kwargs) {
  py::object typed = opaque.empty() ? learner.attr("refused_values")(args, kwargs)
                                    : learner.attr("refused_opaque")(opaque.path, opaque.type);
  if (typed.is_none()) return error;
  PyException_SetCause(typed.ptr(), py::object(error).release().ptr());
  return typed;
}

BackendResult PythonBackend::run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                                 WorkerContext& context) {
  context.gate->enter();
  const AmbientScope scope(ambient);
  auto [args, kwargs] = static_cast<const PyCallForm&>(form).build(inputs);
  inputs.clear();
  const IntraOpScope threads(one_thread_ ? 1 : 0);
  BackendResult result = flatten_python_result(call(target_, args, kwargs));
  // Detached, they have no Python object: dropping them needs no lock, and the split may run without it.
  for (at::Tensor& output : result.outputs) output = output.detach();
  return result;
}

namespace {

// CPU time used so far by the calling thread, and by all threads of the process.
struct CpuTime {
  static CpuTime now() noexcept { return {thread_time(), process_time()}; }
  Duration thread;
  Duration process;
};

// Calls that mostly wait are handed to a thread without a core, so that the worker may go on.
class AloneTask : public Task {
 public:
  AloneTask(std::shared_ptr<AloneRunner> runner, Batch batch)
      : work_(std::make_shared<Work>(std::move(runner), std::move(batch))) {}
  Step step(WorkerContext& context) noexcept override {
    if (handed_over_) {
      context.typical = false;
      return Step::done();
    }
    if (Event* opened = work_->pass.enter()) {
      context.typical = false;
      return Step::pending_on(*opened);
    }
    if (!work_->runner->waits() || !hand_over()) {
      set_intra_op_threads(less_lent_cores(context.cores));
      work_->run(context);
      return Step::done();
    }
    context.typical = false;
    return Step::pending_on(work_->over);
  }

 private:
  // Outlives the task where the runtime closes.
  struct Work {
    Work(std::shared_ptr<AloneRunner> by, Batch calls)
        : runner(std::move(by)), pass(runner->gate()), batch(std::move(calls)) {}
    void run(WorkerContext& context) noexcept {
      {
        const InGate in_gate(pass.gate());
        for (const RequestPtr& request : batch.requests()) {
          if (pass.waited() && request->done()) continue;  // it has expired meanwhile
          runner->run(static_cast<CallRequest&>(*request), context);
        }
      }
      pass.leave();
    }
    const std::shared_ptr<AloneRunner> runner;
    GatePass pass;
    Batch batch;
    Event over;
  };

  // As a call on its caller's thread has it, the thread's share of the cores is that of as many calls as run now.
  static void run_beside_workers(Work& work) noexcept {
    std::atomic<int>& running = work.runner->threads().running();
    const int others = running.fetch_add(1, std::memory_order_relaxed);
    {
      WorkerContext context{-1, Lane::kInterpreter, 1, &GilGate::shared(), false};
      const IntraOpScope scope(share_of_cores(others + 1));
      work.run(context);
    }
    running.fetch_sub(1, std::memory_order_relaxed);
    work.over.set();
  }

  bool hand_over() noexcept {
    try {
      handed_over_ = work_->runner->threads().post([work = work_] { run_beside_workers(*work); });
    } catch (const std::exception&) {  // no memory for it
      return false;
    }
    return handed_over_;
  }

  std::shared_ptr<Work> work_;
  bool handed_over_ = false;
};

}  // namespace

std::unique_ptr<Task> AloneRunner::make_task(Batch batch) {
  return std::make_unique<AloneTask>(shared_from_this(), std::move(batch));
}

py::object AloneRunner::run_plain(CallRequest& request) {
  if (request.form) {
    auto [args, kwargs] = static_cast<const PyCallForm&>(*request.form).build(request.inputs);
    try {
      return run_module(request, args, kwargs);
    } catch (const PythonError& raised) {
      if (!request.refusal) throw;
      throw PythonError(make_ref(borrow(request.refusal)(args, kwargs, borrow(raised.exception()))));
    }
  }
  const auto arguments = py::tuple(borrow(request.object));
  try {
    return run_module(request, arguments[0], arguments[1]);
  } catch (const PythonError& raised) {
    throw PythonError(make_ref(
        typed_refusal(borrow(learner_), borrow(raised.exception()), request.opaque, arguments[0], arguments[1])));
  }
}

py::object AloneRunner::run_module(CallRequest& request, const py::object& args, const py::object& kwargs) {
  // Of calls that lined up before the first one had run, one is enough to look at.
  if (!request.look || request.has_state->load() == HasState::kNo) return call(target_, args, kwargs);
  const InsideScope inside;
  const py::object seen = call(request.look, py::make_tuple(args, kwargs), {});
  return take_look(seen, *request.has_state);
}

void AloneRunner::run(CallRequest& request, WorkerContext& context) noexcept {
  request.in_module.store(true);
  if (request.done() || !request.hold_turn()) return request.in_module.store(false);  // expired since it was taken
  context.gate->enter();
  const TimePoint start = clock_.now();
  const CpuTime before = CpuTime::now();
  const int beside = running_.fetch_add(1, std::memory_order_relaxed) + 1;
  std::exception_ptr error;
  bool ran = false;
  try {
    at::NoGradGuard no_grad;
    const AmbientScope scope(request.ambient.get());
    const IntraOpScope threads(one_thread_ ? 1 : 0);
    request.check_unwritten();
    ran = true;
    py::object result = run_plain(request);
    if (request.copy_result && !is_callers_own(result)) {
      PyObject* copy = PyObject_CallOneArg(static_cast<PyObject*>(request.copy_result.get()), result.ptr());
      if (copy == nullptr) throw take_python_error();
      result = py::reinterpret_steal<py::object>(copy);
    }
    request.object = make_ref(std::move(result));
  } catch (const py::error_already_set& raised) {
    error = std::make_exception_ptr(Error(raised.what()));
  } catch (...) {
    error = std::current_exception();
  }
  running_.fetch_sub(1, std::memory_order_relaxed);
  const Duration took = clock_.now() - start;
  stats_->run_ns.record(static_cast<std::uint64_t>(took.count()));
  const CpuTime after = CpuTime::now();
  if (request.spent) request.spent->fetch_add((after.thread - before.thread).count(), std::memory_order_relaxed);
  if (!request.look) {
    waiting_.record({took, after.thread - before.thread, after.process - before.process, beside});
  }
  if (ran && request.ran) request.ran->store(true);
  request.in_module.store(false);
  request.let_go_of_turn();
  context.leave_gate();
  if (error) {
    request.fail(error);
  } else {
    request.succeed();
  }
}

}  // namespace torchpool
