#include "predict/graph/by_row.h"

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>

#include <string_view>
#include <utility>

#include "core/sync/error.h"
#include "predict/batch/thread_scope.h"

namespace torchpool::graph {

namespace {

// The number of rows of the first value that has some; -1 where none has.
std::int64_t rows_of(const Argument& argument, const c10::IValue& value) {
  if (argument.kind == Argument::Kind::kSlot && argument.row_dim != kNoRows) {
    return value.toTensor().size(argument.row_dim);
  }
  if (argument.kind != Argument::Kind::kList || !value.isTensorList()) return -1;
  const auto items = value.toTensorList();
  for (std::size_t i = 0; i < argument.items.size(); ++i) {
    if (const std::int64_t rows = rows_of(argument.items[i], items.get(i)); rows >= 0) return rows;
  }
  return -1;
}

// In new memory, so that neither its strides nor its alignment tell where it was.
at::Tensor row_of(const at::Tensor& whole, std::int32_t dim, std::int64_t row, bool channels_last) {
  const at::Tensor part = whole.narrow(dim, row, 1);
  const bool last = channels_last && part.dim() == 4;
  at::Tensor own =
      at::empty(part.sizes(), part.options(), last ? at::MemoryFormat::ChannelsLast : at::MemoryFormat::Contiguous);
  own.copy_(part);
  return own;
}

c10::IValue row_of(const Argument& argument, const c10::IValue& value, std::int64_t row, bool channels_last) {
  if (argument.kind == Argument::Kind::kSlot && argument.row_dim != kNoRows) {
    return row_of(value.toTensor(), argument.row_dim, row, channels_last);
  }
  if (argument.kind != Argument::Kind::kList || !value.isTensorList()) return value;
  const auto items = value.toTensorList();
  c10::List<at::Tensor> own;
  own.reserve(items.size());
  for (std::size_t i = 0; i < argument.items.size(); ++i) {
    own.push_back(row_of(argument.items[i], items.get(i), row, channels_last).toTensor());
  }
  return own;
}

// The tensors that an operator has left on the stack.
std::vector<at::Tensor> results_of(const torch::jit::Stack& stack, bool spread) {
  if (spread) return stack.at(0).toTensorVector();
  std::vector<at::Tensor> results;
  results.reserve(stack.size());
  for (const c10::IValue& value : stack) results.push_back(value.toTensor());
  return results;
}

}  // namespace

void call_by_row(const Instruction& instruction, torch::jit::Stack& stack) {
  const torch::jit::Stack given = std::move(stack);
  std::int64_t rows = -1;
  for (std::size_t i = 0; i < given.size() && rows < 0; ++i) rows = rows_of(instruction.arguments[i], given[i]);
  const IntraOpScope one_thread(1);
  if (rows <= 0) {
    stack = given;
    instruction.op->callBoxed(stack);
    return;
  }
  // oneDNN's way through memory.
  const bool channels_last = std::string_view(instruction.name).find("onv") != std::string_view::npos;
  std::vector<std::vector<at::Tensor>> parts(instruction.by_row.size());
  for (std::int64_t row = 0; row < rows; ++row) {
    stack.clear();
    for (std::size_t i = 0; i < given.size(); ++i) {
      stack.push_back(row_of(instruction.arguments[i], given[i], row, channels_last));
    }
    instruction.op->callBoxed(stack);
    std::vector<at::Tensor> results = results_of(stack, instruction.spread);
    if (results.size() < parts.size()) {
      throw Error(instruction.name + " gave another number of results than expected");
    }
    for (std::size_t i = 0; i < parts.size(); ++i) parts[i].push_back(std::move(results[i]));
  }
  stack.clear();
  std::vector<at::Tensor> whole;
  for (std::size_t i = 0; i < parts.size(); ++i) {
    const bool used = instruction.outputs[i] != kUnused;
    whole.push_back(rows == 1 || !used ? parts[i].front() : at::cat(parts[i], instruction.by_row[i]));
  }
  if (instruction.spread) {
    stack.emplace_back(std::move(whole));
  } else {
    for (at::Tensor& one : whole) stack.emplace_back(std::move(one));
  }
}

}  // namespace torchpool::graph
