#include "bindings/predictor/python_backend.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/python_variable.h>

#include "bindings/call/ambient.h"
#include "core/sync/error.h"
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
  BackendResult result = flatten_python_result(call(target_, args, kwargs));
  // Detached, they have no Python object: dropping them needs no lock, and the split may run without it.
  for (at::Tensor& output : result.outputs) output = output.detach();
  return result;
}

namespace {

class AloneTask : public Task {
 public:
  AloneTask(std::shared_ptr<AloneRunner> runner, Batch batch)
      : runner_(std::move(runner)), pass_(runner_->gate()), batch_(std::move(batch)) {}
  Step step(WorkerContext& context) noexcept override {
    if (Event* opened = pass_.enter()) {
      context.typical = false;
      return Step::pending_on(*opened);
    }
    const InGate in_gate(pass_.gate());
    for (const RequestPtr& request : batch_.requests()) {
      if (pass_.waited() && request->done()) continue;  // it has expired meanwhile
      runner_->run(static_cast<CallRequest&>(*request), context);
    }
    return Step::done();
  }

 private:
  std::shared_ptr<AloneRunner> runner_;
  GatePass pass_;
  Batch batch_;
};

}  // namespace

std::unique_ptr<Task> AloneRunner::make_task(Batch batch) {
  return std::make_unique<AloneTask>(shared_from_this(), std::move(batch));
}

py::object AloneRunner::run_plain(CallRequest& request) {
  if (request.form) {
    auto [args, kwargs] = static_cast<const PyCallForm&>(*request.form).build(request.inputs);
    try {
      return call(target_, args, kwargs);
    } catch (const PythonError& raised) {
      if (!request.refusal) throw;
      throw PythonError(make_ref(borrow(request.refusal)(args, kwargs, borrow(raised.exception()))));
    }
  }
  const auto arguments = py::tuple(borrow(request.object));
  try {
    return call(target_, arguments[0], arguments[1]);
  } catch (const PythonError& raised) {
    throw PythonError(make_ref(
        typed_refusal(borrow(learner_), borrow(raised.exception()), request.opaque, arguments[0], arguments[1])));
  }
}

void AloneRunner::run(CallRequest& request, WorkerContext& context) noexcept {
  request.in_module.store(true);
  if (request.done()) return request.in_module.store(false);  // expired since it was taken
  context.gate->enter();
  set_intra_op_threads(context.cores);
  const TimePoint start = clock_.now();
  std::exception_ptr error;
  try {
    at::NoGradGuard no_grad;
    const AmbientScope scope(request.ambient.get());
    request.check_unwritten();
    request.object = make_ref(run_plain(request));
    if (request.copy_result) {
      const py::object result = borrow(request.object);
      PyObject* copy = PyObject_CallOneArg(static_cast<PyObject*>(request.copy_result.get()), result.ptr());
      if (copy == nullptr) throw take_python_error();
      request.object = make_ref(py::reinterpret_steal<py::object>(copy));
    }
  } catch (const py::error_already_set& raised) {
    error = std::make_exception_ptr(Error(raised.what()));
  } catch (...) {
    error = std::current_exception();
  }
  stats_->run_ns.record(static_cast<std::uint64_t>((clock_.now() - start).count()));
  request.in_module.store(false);
  context.leave_gate();
  if (error) {
    request.fail(error);
  } else {
    request.succeed();
  }
}

}  // namespace torchpool
