// The part of BatchRunner that runs calls of a batch alone, too, and compares.
#include <c10/util/StringUtil.h>

#include <algorithm>

#include "predict/batch/batch_runner.h"
#include "predict/batch/difference.h"
#include "predict/batch/split.h"

namespace torchpool {

bool BatchRunner::agrees_alone(Members members, Whole& whole, WorkerContext& context) {
  const CallRequest& first = *members.front();
  Verifier& verifier = *first.contract->verifier;
  const bool by_module = backend_of(first).runs_module();
  const Verifier::Batch batch{whole.rows, whole.padded_to, members.size(), whole.took, by_module};
  const Verifier::Sample sample = verifier.choose(batch);
  if (sample.count == 0) return true;
  context.typical = false;
  const TimePoint start = clock_.now();
  std::int64_t agreed = 0;
  bool right = false;
  try {
    right = members_agree(members, whole, sample, agreed, context);
  } catch (
      ...) {  // no room for it, outputs that cannot be compared, a call that its caller writes to: nothing is known
    right = verifier.proven();
  }
  verifier.record(batch, sample, agreed, clock_.now() - start);
  stats_->verified_rows.fetch_add(static_cast<std::uint64_t>(agreed), std::memory_order_relaxed);
  return right;
}

bool BatchRunner::members_agree(Members members, Whole& whole, const Verifier::Sample& sample, std::int64_t& agreed,
                                WorkerContext& context) {
  const std::vector<double> largest = largest_finite(whole.result.outputs);
  std::int64_t row = 0;
  for (std::size_t i = 0; i < sample.first + sample.count; ++i) {
    const CallRequest& call = *members[i];
    if (i >= sample.first) {
      if (!member_agrees(members, i, row, largest, whole, context)) return false;
      const bool empty =
          std::all_of(call.outputs.begin(), call.outputs.end(), [](const auto& output) { return output.numel() == 0; });
      if (!empty) agreed += call.shape.rows;
    }
    row += call.shape.rows;
  }
  return true;
}

bool BatchRunner::member_agrees(Members members, std::size_t index, std::int64_t row,
                                const std::vector<double>& largest, const Whole& whole, WorkerContext& context) {
  const CallRequest& call = *members[index];
  const Alone alone = ask_alone(call, context);
  const auto seen = difference_from(call, alone, call.outputs, largest);
  if (!seen) return true;
  if (!differs_again(members, index, row, alone, context)) return false;
  const std::int64_t rows = call.shape.rows;
  const std::string which = rows == 1 ? c10::str("row ", row + 1, " of ", whole.rows)
                                      : c10::str("rows ", row + 1, " to ", row + rows, " of ", whole.rows);
  if (call.contract->verifier->refute(which + ": " + *seen)) stats_->refuted.fetch_add(1, std::memory_order_relaxed);
  return false;
}

BatchRunner::Alone BatchRunner::ask_alone(const CallRequest& call, WorkerContext& context) {
  try {
    return answer_alone(call, context);
  } catch (...) {
    if (!backend_of(call).runs_module() || is_out_of_memory(std::current_exception())) throw;
    return std::nullopt;
  }
}

std::optional<std::string> BatchRunner::difference_from(const CallRequest& call, const Alone& alone,
                                                        const std::vector<at::Tensor>& outputs,
                                                        const std::vector<double>& largest) {
  if (!alone) return "alone it raises";
  if (!alone->as_expected) return "its result has another structure";
  const double rounding = std::max(call.contract->tolerance, rounding_of(call.inputs, alone->outputs));
  return difference(*call.contract, alone->outputs, outputs, largest, rounding);
}

bool BatchRunner::same(const CallRequest& call, const Alone& one, const Alone& other) {
  if (!one || !other) return !one && !other;
  if (!one->as_expected || !other->as_expected) return one->as_expected == other->as_expected;
  return !difference_from(call, one, other->outputs, largest_finite(other->outputs));
}

// Weights that were written to between the batch and the run alone make a difference, too. It counts where it is there
// a second time, and the run alone gives what it gave before: else the weights keep moving.
bool BatchRunner::differs_again(Members members, std::size_t index, std::int64_t row, const Alone& before,
                                WorkerContext& context) {
  const CallRequest& call = *members[index];
  std::vector<at::Tensor> outputs;
  std::vector<double> largest;
  {
    std::optional<Whole> whole = run_whole(members, context);
    if (!whole) return false;
    largest = largest_finite(whole->result.outputs);
    outputs = split(*call.contract, whole->result.outputs, call.shape, whole->padded_to, row, whole->rows);
  }
  const Alone alone = ask_alone(call, context);
  return same(call, before, alone) && difference_from(call, alone, outputs, largest);
}

}  // namespace torchpool
