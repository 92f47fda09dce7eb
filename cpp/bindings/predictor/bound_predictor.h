// A call's way from Python to a channel and back.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <unordered_set>
#include <vector>

#include "bindings/call/pending.h"
#include "bindings/graph/module_watch.h"
#include "bindings/interpreter/bound_runtime.h"
#include "bindings/predictor/python_backend.h"
#include "bindings/predictor/variant.h"
#include "predict/batch/predictor.h"

namespace torchpool {

struct BoundPredictorOptions {
  std::string name;
  QueueLimits limits;
  bool reject = false;            // a full queue refuses instead of blocking
  std::int64_t first_batch = 32;  // rows of a batch until more is known
  std::int64_t max_batch = 32;    // never more
  Duration max_delay{};           // longest that a batch is held for more calls
  double weight = 1.0;            // share of the runtime's time, beside other predictors
  bool by_graph = false;          // a captured graph may serve calls; it must then see plain attributes change, too
};

// What one call asks for beside its arguments.
struct CallOptions {
  std::int32_t priority = 0;
  Schedule schedule = Schedule::kGuided;
  std::int64_t chunk = 0;
  std::optional<double> deadline;  // seconds from the call
};

// How submit() deals with a full queue.
enum class Full : std::uint8_t { kByPolicy, kBlock, kReject, kLineUp };

class BoundPredictor {
 public:
  // `learner` answers for calls of an unknown kind: learn(variant, names, args, kwargs) and mismatch(variant, ...).
  // `modules` are those
  // that the target is made of; `backend` null: the python backend.
  BoundPredictor(std::shared_ptr<BoundRuntime> runtime, py::object target, py::object learner, const py::list& modules,
                 BoundPredictorOptions options, std::shared_ptr<Backend> backend);
  ~BoundPredictor();

  py::object call(const py::tuple& args, const py::object& kwargs, const CallOptions& options);
  // `notified`: given to the runtime's futures (or loops) notifier once the request is done; None for none.
  Pending submit(const py::tuple& args, const py::object& kwargs, const CallOptions& options,
                 const py::object& notified, bool to_loop, Full full);

  // For an event loop: never waits, neither for room nor for learning. An AwaitedCall of the running loop; None for a
  // call that first has to be learned from, or that departs from what was learned, which takes a thread that may wait.
  // `line_up`: whatever `overflow` says.
  py::object start(const py::tuple& args, const py::object& kwargs, const CallOptions& options, bool line_up);

  // Submits calls, each an (args, kwargs), that run together, as a batch of their own; those that cannot share one run
  // in batches with their likes, or alone, and no batch has more than `max_rows`, or than memory is known to hold. In
  // order; a call that is refused is given as failed.
  std::vector<Pending> submit_batch(const py::list& calls, const CallOptions& options, std::int64_t max_rows);

  // Learns how calls like this one are served, if that is not known yet; runs the model some times.
  void learn_from(const py::tuple& args, const py::object& kwargs);
  // False when a call would first have to be learned from, or does not fit what was learned.
  bool is_known(const py::tuple& args, const py::object& kwargs);
  // The model's own call on this thread, without gradients.
  py::object run_plain(const py::tuple& args, const py::object& kwargs);
  // Rows of a batch: to begin with, and at most.
  void set_batch(std::int64_t first, std::int64_t most);
  // Batches of a fixed size after a fixed delay (seconds) instead of what is learned, as other servers have them: for
  // comparison. None: learned again.
  void set_fixed_batches(std::optional<std::pair<std::int64_t, double>> fixed);
  // From now on calls of this variant are run by `graph`, in batches of at most `max_batch` rows, as long as `contract`
  // is the learner's. False when that is no longer so.
  bool serve_by_graph(std::int64_t variant, const py::object& contract, std::shared_ptr<graph::GraphBackend> graph,
                      std::int64_t first_batch, std::int64_t max_batch);
  // Attributes that the module itself writes when it runs, which a graph would not do.
  const std::vector<std::string>& volatile_attributes() const noexcept { return watch_.volatile_names(); }
  void close(bool fail_waiting) noexcept;
  bool wait_drained(std::optional<double> timeout);
  py::dict stats() const;
  // Submits calls[i % len(calls)], each an (args, kwargs), at arrivals[i] seconds (increasing), from a native thread
  // and without Python; waits for all. Of each: "latency" from its scheduled time (-1: refused at once), how many
  // seconds it was submitted late, and its "status": 0 succeeded, 1 expired, 2 failed, 3 refused. `block`: waits for
  // room, for a load that is as high as can be. Calls must be of kinds that share batches.
  py::dict open_loop(const py::list& calls, const std::vector<double>& arrivals, std::optional<double> deadline,
                     int priority, bool block);
  std::string backend_name() const { return handler_->backend().name(); }
  bool closed() const noexcept { return closed_; }
  void forget_learned();

 private:
  struct Prepared {
    FlatCall flat;
    Ambient ambient;
    std::shared_ptr<Variant> variant;  // null: a call that nothing is learned from
    Route route = Route::kSerial;
    CallShape shape;
    std::optional<Mismatch> mismatch;
    std::shared_ptr<graph::GraphBackend> graph;  // null: the module serves it
  };
  const c10::FunctionSchema* schema() const;
  void check_open() const;
  bool take_apart(const py::tuple& args, const py::object& kwargs, Prepared& call);
  void prepare(const py::tuple& args, const py::object& kwargs, Prepared& call);
  py::object try_plain(const py::tuple& args, const py::object& kwargs);
  void learn(Variant& variant, const py::tuple& args, const py::object& kwargs);
  void install(Variant& variant, const py::tuple& learned);
  py::object settle_mismatch(Prepared& call, const py::tuple& args, const py::object& kwargs);
  [[noreturn]] void refuse(const Prepared& call, const py::tuple& args, const py::object& kwargs);
  void refuse_grad(const FlatCall& flat, const py::tuple& args, PyObject* kwargs) const;
  static bool must_run_inline();
  void fit(Prepared& call);
  py::object run_graph_here(const Prepared& call, InlineKind kind);
  py::object run_here(const Prepared& call, const py::tuple& args, const py::object& kwargs);
  std::shared_ptr<CallRequest> make_request(Prepared& call, const py::tuple& args, const py::object& kwargs,
                                            const CallOptions& options, py::object notified, bool to_loop,
                                            bool snapshot);
  std::unique_ptr<BatchPolicy> make_policy(const std::shared_ptr<const CostModel>& cost) const;
  ChannelOptions channel_options(Lane lane);
  const std::shared_ptr<Channel>& channel_of(const Prepared& call) const noexcept;
  std::vector<std::shared_ptr<Channel>> channels() const;
  void watch(const std::shared_ptr<CallRequest>& request);
  void admit(const std::shared_ptr<CallRequest>& request, Channel& channel, Full full);
  py::object run_queued(Prepared& call, const py::tuple& args, const py::object& kwargs, const CallOptions& options);

  std::shared_ptr<BoundRuntime> runtime_;
  py::object target_;
  py::object learner_;
  BoundPredictorOptions options_;
  std::shared_ptr<ChannelStats> stats_;
  FairSharePtr share_;  // of all of its channels
  std::optional<std::pair<std::int64_t, double>> fixed_batches_;
  std::shared_ptr<Unnotified> unnotified_ = std::make_shared<Unnotified>();
  PyRef copies_;  // the learner's own(): a result with all its tensors copied
  std::shared_ptr<Predictor> handler_;
  std::shared_ptr<AloneHandler> alone_;
  std::shared_ptr<Predictor> graph_handler_;
  std::shared_ptr<Channel> merge_;
  std::shared_ptr<Channel> graph_;  // null until a graph is there
  std::shared_ptr<Channel> parallel_;
  std::shared_ptr<Channel> serial_;
  ModuleWatch watch_;
  VariantTable variants_;
  std::unordered_set<std::string> opaque_seen_;
  bool closed_ = false;
};

void register_predictor(py::module_& module);

}  // namespace torchpool
