#include "bindings/predictor/bound_learner.h"

#include "bindings/inplace/inside.h"
#include "bindings/interpreter/waiting.h"
#include "bindings/predictor/contract_from_python.h"
#include "bindings/predictor/python_backend.h"
#include "predict/weights/probed_weights.h"

namespace torchpool {

namespace {

// One thread at a time widens a kind: what it finds may be all that the calls of others would have taught.
class Settling {
 public:
  explicit Settling(CallKind& kind) noexcept : kind_(kind), first_(kind.settling++ == 0) {}
  ~Settling() { --kind_.settling; }
  Settling(const Settling&) = delete;
  Settling& operator=(const Settling&) = delete;
  bool first() const noexcept { return first_; }

 private:
  CallKind& kind_;
  const bool first_;
};

}  // namespace

BoundLearner::BoundLearner(py::object learner, bool by_graph, double verify, std::shared_ptr<ChannelStats> stats)
    : learner_(std::move(learner)),
      by_graph_(by_graph),
      verify_(verify),
      looks_for_state_(learner_.attr("looks_for_state").cast<bool>()),
      stats_(std::move(stats)),
      own_(make_ref(learner_.attr("own"))) {}

void BoundLearner::install(CallKind& kind, const py::tuple& learned) {
  const auto number = learned[4].cast<std::int64_t>();
  const auto route = route_from_string(learned[0].cast<std::string>());
  const Merging merging = merging_from_string(learned[5].cast<std::string>());
  std::shared_ptr<Contract> contract;
  if (route == Route::kMerge) {
    contract = contract_from_python(learned[1], learned[2]);
    contract->overtaken = overtaken_;
    if (merging == Merging::kVerify) contract->verifier = make_verifier(kind, merging);
    contract->padded_with = padded_with(kind, learned[1]);
  }
  const bool refuted = tell_if_refuted(kind);
  ContextVariables variables = variables_of(kind);
  if (number < kind.learned_number) return;  // another thread has learned more meanwhile
  kind.learned_number = number;
  kind.aliases = learned[3].cast<bool>();
  kind.context = std::move(variables);
  kind.graph.reset();
  kind.by_module = false;
  kind.by_graph_only = contract && contract->call_rows;
  kind.contract = std::move(contract);
  kind.merging = merging;
  kind.merges = route == Route::kMerge && merging != Merging::kNo && !refuted;
  kind.route = route;
  const py::object seconds = learner_.attr("again_in")(kind.id);
  kind.learn_again = seconds.is_none() ? kNever : after_seconds(seconds.cast<double>());
  if (by_graph_) {
    const SettlingThread here(kind);
    learner_.attr("installed")(kind.id, number);  // its graph may be captured now
  }
}

void BoundLearner::learn_again(std::int64_t id, std::int64_t number, double seconds) const {
  const std::shared_ptr<CallKind> kind = kinds_.find(id);
  if (kind && kind->learned_number == number) kind->learn_again = after_seconds(seconds);
}

ContextVariables BoundLearner::variables_of(const CallKind& kind) const {
  const py::object found = learner_.attr("context_variables")(kind.id);
  if (found.is_none()) return std::nullopt;
  std::vector<PyRef> variables;
  for (const py::handle variable : found) variables.push_back(make_ref(py::reinterpret_borrow<py::object>(variable)));
  return variables;
}

std::shared_ptr<const ProbedWeights> BoundLearner::padded_with(const CallKind& kind, const py::object& contract) const {
  if (py::len(contract.attr("padded_by_numbers")) == 0) return nullptr;
  const py::object watch = learner_.attr("padded_with")(kind.id);
  if (watch.is_none()) return nullptr;
  // Whoever drops the contract last, the weights go with the interpreter's lock.
  return {watch.cast<const ProbedWeights*>(), [held = make_ref(watch)](const ProbedWeights*) {}};
}

// What is proven is looked at, too, as an alarm; what the user answers for is not.
std::shared_ptr<Verifier> BoundLearner::make_verifier(const CallKind& kind, Merging merging) const {
  if (merging == Merging::kVerify) {
    return std::make_shared<Verifier>(Verifier::Mode::kVerify, verify_, kind.refutation);
  }
  if (merging == Merging::kTrust || verify_ <= 0) return nullptr;
  return std::make_shared<Verifier>(Verifier::Mode::kAlarm, verify_, kind.refutation);
}

bool BoundLearner::serve(std::int64_t id, std::int64_t number, const py::object& contract, const py::object& spec,
                         std::shared_ptr<graph::GraphBackend> graph, bool by_module) {
  const std::shared_ptr<Contract> served = contract_from_python(contract, spec);
  const py::object rows = contract.attr("rows");
  const bool proven = !rows.is_none() && rows.attr("allows").cast<bool>();
  const std::shared_ptr<CallKind> kind = kinds_.find(id);
  if (kind) served->padded_with = padded_with(*kind, contract);
  if (!kind || tell_if_refuted(*kind)) return false;
  if (kind->learned_number != number || kind->route != Route::kMerge) return false;
  if (kind->merging == Merging::kNo && !proven) throw py::value_error("rows that are not proven independent may meet");
  served->overtaken = overtaken_;
  served->verifier = make_verifier(*kind, proven ? Merging::kNo : kind->merging);
  kind->by_graph_only = served->call_rows || (graph && proven && kind->merging != Merging::kTrust);
  kind->by_module = graph && by_module;
  if (graph) {
    add_served(graph);
    graph->catch_up();
  }
  if (kind->by_module) {
    graph->drop_packed();
    if (kind->by_graph_only) served->guards = std::make_shared<const graph::Guards>(graph->program(false).guards);
  }
  kind->contract = served;
  kind->graph = std::move(graph);
  kind->merges = true;
  return true;
}

bool BoundLearner::tell_if_refuted(CallKind& kind) const {
  if (!kind.refutation->refuted()) return false;
  kind.merges = false;
  if (const auto text = kind.refutation->take_text()) learner_.attr("refuted")(kind.id, *text);
  return true;
}

void BoundLearner::tell_refuted() const {
  for (const auto& kind : kinds_.all()) tell_if_refuted(*kind);
}

void BoundLearner::learn(CallKind& kind, const py::tuple& args, const py::object& kwargs) {
  kind.route = Route::kLearning;
  kind.learning_thread = PyThread_get_thread_ident();
  const InsideScope inside;
  try {
    install(kind, learner_.attr("learn")(kind.id, kind.form->names(), args, kwargs));
  } catch (...) {
    kind.route = Route::kUnknown;  // for those who wait; they learn it from their own calls
    kinds_.remove(kind);
    throw;
  }
}

bool BoundLearner::put_off(CallKind& kind, const py::tuple& args, const py::object& kwargs) const {
  if (kind.put_off < Duration::zero()) return false;
  const auto seconds = learner_.attr("put_off")(kind.id, args, kwargs).cast<double>();
  if (kind.put_off > Duration::zero()) return true;  // by another thread meanwhile
  if (!(seconds > 0) || kind.route != Route::kUnknown) return false;
  kind.put_off = from_seconds(seconds);
  kind.spent = std::make_shared<std::atomic<std::int64_t>>(0);
  kind.route = Route::kDirect;
  kind.aliases = true;  // nobody has looked yet whether the module hands out memory that it keeps
  return true;
}

void BoundLearner::put_off_ends(CallKind& kind) const {
  kind.put_off = Duration(-1);
  kind.spent.reset();
  kind.aliases = false;
  kind.route = Route::kUnknown;
  learner_.attr("put_off_ends")(kind.id);
}

py::object BoundLearner::settle_mismatch(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) {
  py::tuple settled;
  {
    InlineCount count(*stats_);
    const Settling settling(*call.kind);
    settled = ask_mismatch(call, args, kwargs, settling.first());
    count.succeeded();
  }
  if (!settled[1].is_none()) install(*call.kind, settled[1]);
  return settled[0];
}

py::tuple BoundLearner::ask_mismatch(const PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                     bool may_teach) const {
  const Mismatch& mismatch = *call.mismatch;
  const bool may_widen = may_teach && mismatch.kind == Mismatch::Kind::kFixedDim;
  const InsideScope inside;
  return learner_.attr("mismatch")(call.kind->id, call.kind->form->names(), args, kwargs, mismatch.message, may_widen);
}

void BoundLearner::widen(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) {
  const py::tuple settled = ask_mismatch(call, args, kwargs, true);
  call.kind->widens = !settled[1].is_none();
  if (call.kind->widens) install(*call.kind, settled[1]);
}

PyRef BoundLearner::look(const CallKind* kind) const {
  const py::object id = kind == nullptr ? py::object(py::none()) : py::object(py::int_(kind->id));
  return make_ref(learner_.attr("look_for_state")(id));
}

PyRef BoundLearner::refusal(const PreparedCall& call) const {
  const py::object message = call.mismatch ? py::object(py::str(call.mismatch->message)) : py::object(py::none());
  return make_ref(learner_.attr("refusal")(call.kind->id, call.kind->form->names(), message));
}

void BoundLearner::learn_promised(CallKind& kind, const py::tuple& args, const py::object& kwargs, bool wanted) {
  if (!wanted) {
    kind.route = Route::kUnknown;
    kinds_.remove(kind);
    return;
  }
  try {
    learn(kind, args, kwargs);
  } catch (py::error_already_set& error) {
    kind.failure = make_ref(error.value());
    throw;
  }
}

LearnPromise::LearnPromise(BoundLearner& learner, const PreparedCall& call) : learner_(learner), kind_(call.kind) {
  for (const at::Tensor& leaf : call.flat.leaves) inputs_.push_back(leaf.detach().clone());
}

std::shared_ptr<LearnPromise> LearnPromise::to_learn(BoundLearner& learner, const PreparedCall& call) {
  std::shared_ptr<LearnPromise> promise(new LearnPromise(learner, call));
  call.kind->route = Route::kLearning;
  call.kind->learning_thread = 0;
  return promise;
}

std::shared_ptr<LearnPromise> LearnPromise::to_widen(BoundLearner& learner, const PreparedCall& call) {
  CallKind& kind = *call.kind;
  if (call.mismatch->kind != Mismatch::Kind::kFixedDim || kind.widening || !kind.widens) return nullptr;
  std::shared_ptr<LearnPromise> promise(new LearnPromise(learner, call));
  kind.widening = true;
  return promise;
}

LearnPromise::~LearnPromise() {
  if (!kind_) return;
  kind_->widening = false;
  if (!kind_->promised()) return;
  kind_->route = Route::kUnknown;
  learner_.kinds().remove(*kind_);
}

void LearnPromise::keep(const py::object& answered) {
  const auto [args, kwargs] = kind_->form->build(inputs_);
  inputs_.clear();
  if (learner_.learn_behind(*kind_, answered, args, kwargs)) kind_.reset();
}

void BoundLearner::refuse(const PreparedCall& call, const py::tuple& args, const py::object& kwargs) const {
  if (call.flat.opaque.empty() && !call.flat.leaves.empty()) throw py::error_already_set();
  const py::error_already_set own;
  const py::object named = kwargs.is_none() ? py::dict() : kwargs;
  const py::object error = typed_refusal(learner_, own.value(), call.flat.opaque, args, named);
  set_raised(error.ptr());
  throw py::error_already_set();
}

void BoundLearner::weights_written() {
  for (const auto& served : served_) {
    if (const auto graph = served.lock()) graph->weights_written();
  }
}

void BoundLearner::add_served(const std::shared_ptr<graph::GraphBackend>& graph) {
  std::erase_if(served_, [](const auto& served) { return served.expired(); });
  served_.push_back(graph);
}

BoundLearner::Overtaken BoundLearner::overtake(Overtaken next) {
  next->store(false, std::memory_order_release);
  overtaken_->store(true, std::memory_order_release);
  return std::exchange(overtaken_, std::move(next));
}

std::vector<std::shared_ptr<graph::GraphBackend>> BoundLearner::graphs() const {
  std::vector<std::shared_ptr<graph::GraphBackend>> found;
  for (const auto& kind : kinds_.all()) {
    if (kind->graph && !kind->by_module) found.push_back(kind->graph);
  }
  return found;
}

void BoundLearner::retire_graphs() {
  for (const auto& served : served_) {
    if (const auto graph = served.lock()) graph->retire();
  }
  for (const auto& kind : kinds_.all()) kind->mixed = true;  // not to be served again if the module becomes what it was
}

// Python's part first: while it runs, other threads may come, and are to see that there is something to forget.
bool BoundLearner::forget(const std::function<void()>& accept) {
  const std::int64_t before = kinds_.next_id();
  learner_.attr("forget")(before);
  if (kinds_.next_id() != before) return false;
  const CallKinds::Taken taken = kinds_.take();  // dropped last: what a graph holds may run code of its own then
  accept();
  overtake();
  for (const auto& [structure, kinds] : taken) {
    for (const auto& kind : kinds) {
      if (kind->promised()) kind->route = Route::kUnknown;  // nobody keeps the promise: for those who wait
    }
  }
  return true;
}

bool BoundLearner::own_change(const Difference& difference) const noexcept {
  try {
    return learner_.attr("own_change")(difference.name, difference.items).cast<bool>();
  } catch (const std::exception&) {
    return false;  // it is looked at again before the next call
  }
}

int BoundLearner::traverse(visitproc visit, void* arg) const {
  Py_VISIT(learner_.ptr());
  return visit_ref(own_, visit, arg);
}

std::string BoundLearner::readable(const std::string& name) const {
  return learner_.attr("readable")(name).cast<std::string>();
}

}  // namespace torchpool
