#include "predict/batch/batch_runner.h"

#include <ATen/core/grad_mode.h>
#include <c10/util/StringUtil.h>

#include <algorithm>
#include <utility>

#include "core/sync/error.h"
#include "predict/batch/collate.h"
#include "predict/batch/row_lengths.h"
#include "predict/batch/split.h"
#include "predict/batch/thread_scope.h"
#include "predict/graph/guard.h"
#include "predict/weights/probed_weights.h"

namespace torchpool {

namespace {

class BatchTask : public Task {
 public:
  BatchTask(std::shared_ptr<BatchRunner> runner, Batch batch)
      : runner_(std::move(runner)), pass_(runner_->gate()), batch_(std::move(batch)) {
    left_.reserve(batch_.size());
    for (const RequestPtr& request : batch_.requests()) {
      left_.push_back(std::static_pointer_cast<CallRequest>(request));
    }
    if (left_.front()->backend == nullptr) hold_turns();
  }
  ~BatchTask() override {
    for (const RequestPtr& request : batch_.requests()) {
      if (static_cast<CallRequest&>(*request).turn_held) request->let_go_of_turn();
    }
  }
  BatchTask(const BatchTask&) = delete;
  BatchTask& operator=(const BatchTask&) = delete;
  Step step(WorkerContext& context) noexcept override {
    if (kept_up_ != nullptr) return keep_up();
    if (Event* opened = pass_.enter()) {  // an update writes the weights
      context.typical = false;
      return Step::pending_on(*opened);
    }
    const InGate in_gate(pass_.gate());
    if (pass_.waited() && !fell_back_) {  // some may have expired meanwhile
      std::erase_if(left_, [](const auto& request) { return request->done(); });
      if (left_.empty()) return Step::done();
    }
    // What a graph was proven of says nothing of the module's batches, nor does what the module was before a change.
    const std::shared_ptr<Backend> backend = left_.front()->backend;
    if (fell_back_ || (backend == nullptr && left_.front()->contract->is_overtaken())) {
      runner_->run_apart(left_, context);
      return Step::done();
    }
    left_ = runner_->run(left_, context);
    if (left_.empty()) {
      pass_.leave();
      if (backend == nullptr || !backend->upkeep_due()) return Step::done();
      kept_up_ = backend;
      return Step::again();
    }
    hold_turns();  // the module is next
    runner_->stats().fell_back.fetch_add(left_.size(), std::memory_order_relaxed);
    runner_ = runner_->fallback();
    fell_back_ = true;
    return Step::again_on(runner_->backend().lane());
  }

 private:
  // The module goes on to run for those that expire meanwhile.
  void hold_turns() {
    for (const auto& request : left_) request->turn_held = request->turn_held || request->hold_turn();
  }

  // A failure costs speed only: the backend serves as before, and asks again when its state has changed.
  Step keep_up() noexcept {
    try {
      kept_up_->upkeep();
    } catch (const std::exception&) {
      runner_->stats().upkeep_failed.fetch_add(1, std::memory_order_relaxed);
    }
    return Step::done();
  }

  std::shared_ptr<BatchRunner> runner_;
  GatePass pass_;  // from the first run to the last: one state of the weights
  bool fell_back_ = false;
  std::shared_ptr<Backend> kept_up_;  // null but in the last step
  Batch batch_;                       // fails what is left when the task goes
  std::vector<std::shared_ptr<CallRequest>> left_;
};

// Whether rows of a batch of these inputs may meet, as far as their sizes say.
bool holds_for(const Contract& contract, const std::vector<at::Tensor>& inputs) {
  return !contract.guards || !contract.guards->broken_by(inputs);
}

bool have_equal_lengths(BatchRunner::Members members) {
  return std::all_of(members.begin(), members.end(),
                     [&](const auto& member) { return member->shape.lengths == members.front()->shape.lengths; });
}

// Whether they make a batch with the present weights.
bool may_be_padded(BatchRunner::Members members) {
  const auto& weights = members.front()->contract->padded_with;
  return !weights || have_equal_lengths(members) || weights->same();
}

bool can_run_in_parts(const CallRequest& request) {
  for (const InputSpec& spec : request.contract->inputs) {
    if (spec.stacked) return false;
  }
  for (const OutputSpec& spec : request.contract->outputs) {
    if (!spec.batch_dim || spec.stacked) return false;
  }
  if (request.contract->verifier && !request.contract->verifier->may_part()) return false;
  return !request.contract->call_rows;
}

// Whether a result is built as those of the call's kind, as far as both are known.
bool has_form_of(const CallRequest& request, const BackendResult& result) noexcept {
  return !result.form || !request.result_form || result.form->same_as(*request.result_form);
}

}  // namespace

std::unique_ptr<Task> BatchRunner::make_task(Batch batch) {
  return std::make_unique<BatchTask>(shared_from_this(), std::move(batch));
}

BatchRunner::Left BatchRunner::run(Members members, WorkerContext& context) noexcept {
  Round round{context};
  run_members(members, round);
  return std::move(round.left);
}

BatchRunner::Left BatchRunner::run_apart(Members members, WorkerContext& context) noexcept {
  Round round{context};
  run_members_apart(members, round);
  return std::move(round.left);
}

void BatchRunner::run_members_apart(Members members, Round& round) noexcept {
  round.context.typical = false;
  const bool before = std::exchange(round.apart, true);
  for (std::size_t i = 0; i < members.size(); ++i) run_members(members.subspan(i, 1), round);
  round.apart = before;
}

void BatchRunner::run_members_by_lengths(Members members, Round& round) noexcept {
  std::vector<std::shared_ptr<CallRequest>> sorted(members.begin(), members.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const auto& one, const auto& other) { return one->shape.lengths < other->shape.lengths; });
  const Members all = sorted;
  for (std::size_t begin = 0, end = 0; begin < all.size(); begin = end) {
    while (end < all.size() && all[end]->shape.lengths == all[begin]->shape.lengths) ++end;
    if (begin > 0 && round.context.gate != nullptr) round.context.gate->enter();
    run_members(all.subspan(begin, end - begin), round);
  }
}

// Halves a failing batch until the calls that fail stand alone: k bad calls among n cost about k log2(n) more runs,
// where running all n alone again would let one bad call slow down all its neighbours.
void BatchRunner::run_members(Members members, Round& round) noexcept {
  WorkerContext& context = round.context;
  const Contract& contract = *members.front()->contract;
  if (members.size() > 1 && contract.verifier && contract.verifier->refuted()) {
    run_members_apart(members, round);
    return;
  }
  if (!may_be_padded(members)) {
    context.typical = false;
    run_members_by_lengths(members, round);
    return;
  }
  std::exception_ptr error;
  try {
    if (members.size() == 1) {
      run_alone(*members.front(), round);
    } else {
      run_together(members, round);
    }
    return;
  } catch (const graph::GuardFailed&) {  // as it would for any part of them
    context.typical = false;
    round.left.insert(round.left.end(), members.begin(), members.end());
    return;
  } catch (...) {
    error = std::current_exception();
  }
  context.typical = false;
  // Half as many rows may find room, and no batch is as large again.
  if (is_out_of_memory(error)) {
    const CallRequest& first = *members.front();
    const std::int64_t before = std::min(first.shape.rows, most_rows(first.shape.extent()));
    note_out_of_memory(members);
    if (members.size() == 1 && most_rows(first.shape.extent()) < before && !round.apart && can_run_in_parts(first)) {
      error = nullptr;
      if (context.gate != nullptr) context.gate->enter();
      run_members(members, round);
      return;
    }
  }
  if (members.size() == 1 && fallback_ != nullptr) {
    round.left.push_back(members.front());
    return;
  }
  if (members.size() == 1) {
    members.front()->fail(std::exchange(error, nullptr));
    return;
  }
  error = nullptr;  // it holds the batch's data through its traceback; each call raises its own
  if (context.gate != nullptr) context.gate->enter();
  run_members(members.first(members.size() / 2), round);
  if (context.gate != nullptr) context.gate->enter();
  run_members(members.subspan(members.size() / 2), round);
}

std::int64_t BatchRunner::most_rows(std::int64_t extent) const noexcept {
  const std::int64_t most = max_rows_.load(std::memory_order_relaxed);
  return cost_ == nullptr ? most : std::min(most, cost_->rows_in_memory(extent));
}

void BatchRunner::note_out_of_memory(Members members) noexcept {
  stats_->out_of_memory.fetch_add(1, std::memory_order_relaxed);
  if (cost_ == nullptr) return;
  std::int64_t rows = 0;
  std::int64_t extent = 1;
  for (const auto& member : members) {
    rows += std::min(member->shape.rows, most_rows(member->shape.extent()));  // a large call ran in parts
    extent = std::max(extent, member->shape.extent());
  }
  if (rows > 1) cost_->record_out_of_memory(rows, extent);
}

BackendResult BatchRunner::run_backend(const CallRequest& like, std::vector<at::Tensor> inputs,
                                       WorkerContext& context) {
  const TimePoint start = clock_.now();
  BackendResult result = backend_of(like).run(*like.form, std::move(inputs), like.ambient.get(), context);
  stats_->run_ns.record(static_cast<std::uint64_t>((clock_.now() - start).count()));
  return result;
}

// Whatever the contract says, a batch is taken apart only where each call's part is there. A model may leave out rows
// for their values, which no contract knows of.
std::optional<BatchRunner::Whole> BatchRunner::run_whole(Members members, WorkerContext& context) {
  const CallRequest& first = *members.front();
  const Contract& contract = *first.contract;
  std::vector<Member> parts;
  parts.reserve(members.size());
  Whole whole;
  for (const auto& member : members) {
    member->check_unwritten();
    parts.push_back({&member->inputs, &member->shape});
    whole.rows += member->shape.rows;
  }
  const TimePoint start = clock_.now();
  std::vector<at::Tensor> inputs = collate(contract, parts, whole.padded_to);
  if (!holds_for(contract, inputs)) return std::nullopt;
  {
    std::optional<RowLengths> lengths;
    if (backend_of(first).runs_operators_only()) lengths.emplace(parts, whole.padded_to);
    whole.result = run_backend(first, std::move(inputs), context);
  }
  whole.took = clock_.now() - start;
  const bool fits = has_form_of(first, whole.result) &&
                    !misfit(contract, whole.result.outputs, whole.rows, whole.padded_to) &&
                    may_be_padded(members);  // still, if they were written meanwhile
  context.leave_gate();
  if (!fits) return std::nullopt;
  return whole;
}

void BatchRunner::run_together(Members members, Round& round) {
  at::NoGradGuard no_grad;
  set_intra_op_threads(round.context.cores);
  const Contract& contract = *members.front()->contract;
  std::optional<Whole> whole = run_whole(members, round.context);
  if (whole) {
    std::int64_t row = 0;
    Splitter splitter(contract, whole->result.outputs, whole->padded_to, whole->rows);
    for (const auto& member : members) {
      member->outputs = splitter.part(member->shape, row);
      if (whole->result.form) member->result_form = whole->result.form;
      row += member->shape.rows;
    }
    if (contract.verifier && !agrees_alone(members, *whole, round.context)) whole.reset();
  }
  if (!whole) {
    run_members_apart(members, round);
    return;
  }
  whole.reset();
  for (const auto& member : members) member->succeed();
}

void BatchRunner::run_alone(CallRequest& request, Round& round) {
  at::NoGradGuard no_grad;
  set_intra_op_threads(round.context.cores);
  request.check_unwritten();
  const std::int64_t max_rows = most_rows(request.shape.extent());
  if (request.shape.rows > max_rows && !round.apart && can_run_in_parts(request)) {
    try {
      if (run_in_parts(request, max_rows, round.context)) return;
    } catch (const graph::GuardFailed&) {
      throw;
    } catch (...) {  // a part of a call may be refused where the call is not
      if (is_out_of_memory(std::current_exception())) throw;
    }
    round.context.typical = false;
  }
  Answer answer = answer_alone(request, round.context);
  request.outputs = std::move(answer.outputs);
  if (answer.form) request.result_form = std::move(answer.form);
  request.succeed();
}

// The module gets the call's own tensors, neither stacked nor padded, and what it returns is the answer, whatever the
// contract has learned of other calls.
BatchRunner::Answer BatchRunner::answer_alone(const CallRequest& request, WorkerContext& context) {
  const Contract& contract = *request.contract;
  std::vector<std::int64_t> padded_to;
  const bool by_module = backend_of(request).runs_module();
  BackendResult result = run_backend(
      request, by_module ? request.inputs : collate(contract, {{&request.inputs, &request.shape}}, padded_to), context);
  Answer answer{{}, result.form, has_form_of(request, result)};
  context.leave_gate();
  if (!by_module) {
    check_outputs(contract, result.outputs, request.shape.rows, padded_to);
    answer.outputs = split(contract, result.outputs, request.shape, padded_to, 0, request.shape.rows);
    return answer;
  }
  if (!result.form && result.outputs.size() != contract.outputs.size()) {
    throw Error(c10::str("the model returned ", result.outputs.size(), " tensors, where calls before had ",
                         contract.outputs.size()));
  }
  const bool aliases = contract.aliases || contract.is_overtaken();
  for (at::Tensor& output : result.outputs) answer.outputs.push_back(own(std::move(output), aliases));
  return answer;
}

// False when the outputs of the parts do not make the call's.
bool BatchRunner::run_in_parts(CallRequest& request, std::int64_t max_rows, WorkerContext& context) {
  const Contract& contract = *request.contract;
  std::vector<std::vector<at::Tensor>> parts;
  std::vector<std::int64_t> rows_of_parts;
  std::shared_ptr<const ResultForm> form;
  for (std::int64_t row = 0; row < request.shape.rows; row += max_rows) {
    const std::int64_t rows = std::min(max_rows, request.shape.rows - row);
    std::vector<at::Tensor> inputs;
    for (std::size_t i = 0; i < contract.inputs.size(); ++i) {
      const auto batch_dim = contract.inputs[i].batch_dim;
      inputs.push_back(batch_dim ? request.inputs[i].narrow(*batch_dim, row, rows) : request.inputs[i]);
    }
    if (!holds_for(contract, inputs)) return false;
    if (context.gate != nullptr) context.gate->enter();
    BackendResult result = run_backend(request, std::move(inputs), context);
    if (!has_form_of(request, result) || misfit(contract, result.outputs, rows, request.shape.lengths)) return false;
    parts.push_back(std::move(result.outputs));
    rows_of_parts.push_back(rows);
    form = std::move(result.form);
  }
  context.leave_gate();
  auto joined = join(contract, parts, rows_of_parts);
  if (!joined) return false;
  request.outputs = std::move(*joined);
  if (form) request.result_form = std::move(form);
  request.succeed();
  return true;
}

std::vector<at::Tensor> run_one(Backend& backend, const Contract& contract, const CallForm& form,
                                const std::vector<at::Tensor>& inputs, const CallShape& shape) {
  const at::NoGradGuard no_grad;
  WorkerContext context;
  std::vector<std::int64_t> padded_to;
  BackendResult result = backend.run(form, collate(contract, {{&inputs, &shape}}, padded_to), nullptr, context);
  check_outputs(contract, result.outputs, shape.rows, padded_to);
  return split(contract, result.outputs, shape, padded_to, 0, shape.rows);
}

}  // namespace torchpool
