// Calls the module in Python, a batch at a time; serves what no native backend can.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "bindings/call/call_form.h"
#include "bindings/interpreter/call_threads.h"
#include "core/schedule/runtime.h"
#include "core/schedule/wait_estimate.h"
#include "core/sync/update_gate.h"
#include "predict/batch/call_request.h"

namespace torchpool {

// How a result is put together from its tensors: null spec for a bare tensor, else a torchpool.call.tree.TreeSpec.
class PyResultForm : public ResultForm {
 public:
  explicit PyResultForm(PyRef spec) : spec_(std::move(spec)) {}
  // By Python's ==. Requires the interpreter's lock.
  bool same_as(const ResultForm& other) const noexcept override;
  // Requires the interpreter's lock.
  py::object rebuild(const std::vector<at::Tensor>& leaves) const;

 private:
  PyRef spec_;
};

// Tensors and form of a model's result; tensors are as the model returned them. Requires the interpreter's lock.
BackendResult flatten_python_result(const py::object& result);

// Whether nobody but who holds the result, a tensor, can reach its memory. False where that is not known.
bool is_callers_own(const py::object& result);

// What to raise for a call without tensors that the model refused with `error`: the learner's typed error, caused by
// it, if tensors were learned where none came; else `error`. `opaque` names the argument that cannot be taken apart.
py::object typed_refusal(const py::object& learner, const py::object& error, const OpaqueArgument& opaque,
                         const py::object& args, const py::object& kwargs);

// The result of a run that was looked at, and notes what was seen.
py::object take_look(const py::object& seen, std::atomic<HasState>& has_state);

class PythonBackend : public Backend {
 public:
  // `one_thread`: the module's operators are not split among threads, which would round otherwise.
  explicit PythonBackend(py::object target, bool one_thread = false)
      : target_(make_ref(std::move(target))), one_thread_(one_thread) {}
  std::string name() const override { return "python"; }
  Lane lane() const noexcept override { return Lane::kInterpreter; }
  bool runs_module() const noexcept override { return true; }
  BackendResult run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                    WorkerContext& context) override;
  // What it refers to, for the cycle collector.
  int traverse(visitproc visit, void* arg) const { return visit_ref(target_, visit, arg); }

 private:
  PyRef target_;
  const bool one_thread_;
};

// Runs calls one at a time through the module itself, with what the caller passed. Owned by a shared_ptr.
// `waits`: what is supposed until calls have shown it.
class AloneRunner : public BatchHandler, public std::enable_shared_from_this<AloneRunner> {
 public:
  AloneRunner(py::object target, py::object learner, std::shared_ptr<ChannelStats> stats, Clock& clock,
              std::shared_ptr<UpdateGate> gate, std::shared_ptr<CallThreads> threads, bool waits, bool one_thread)
      : target_(make_ref(std::move(target))),
        learner_(make_ref(std::move(learner))),
        stats_(std::move(stats)),
        clock_(clock),
        gate_(std::move(gate)),
        threads_(std::move(threads)),
        waiting_(waits),
        one_thread_(one_thread) {}
  std::unique_ptr<Task> make_task(Batch batch) override;
  void run(CallRequest& request, WorkerContext& context) noexcept;
  const std::shared_ptr<UpdateGate>& gate() const noexcept { return gate_; }
  // Whether calls mostly wait, so that they are worth a thread without a core.
  bool waits() const noexcept { return waiting_.mostly(); }
  CallThreads& threads() const noexcept { return *threads_; }
  // What it refers to, for the cycle collector.
  int traverse(visitproc visit, void* arg) const {
    const int stopped = visit_ref(target_, visit, arg);
    return stopped != 0 ? stopped : visit_ref(learner_, visit, arg);
  }

 private:
  py::object run_plain(CallRequest& request);
  py::object run_module(CallRequest& request, const py::object& args, const py::object& kwargs);

  PyRef target_;
  PyRef learner_;
  std::shared_ptr<ChannelStats> stats_;
  Clock& clock_;
  const std::shared_ptr<UpdateGate> gate_;
  const std::shared_ptr<CallThreads> threads_;
  WaitEstimate waiting_;
  const bool one_thread_;
  std::atomic<int> running_{0};
};

}  // namespace torchpool
