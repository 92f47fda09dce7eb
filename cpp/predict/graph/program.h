// An exported graph as a flat list of instructions over slots.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/ivalue.h>
#include <ATen/core/jit_type.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "predict/graph/guard.h"
#include "predict/graph/row_buckets.h"
#include "predict/graph/scalar_ops.h"

namespace torchpool::graph {

using SlotIndex = std::int32_t;
inline constexpr SlotIndex kUnused = -1;
inline constexpr std::int32_t kNoRows = -1;

// One argument of an instruction: a constant, a slot, or a list with slots inside.
struct Argument {
  enum class Kind : std::uint8_t { kConstant, kSlot, kList };
  // The conversion of a number in a slot before the operator reads it.
  enum class Convert : std::uint8_t { kNone, kToTensor, kToDouble };
  Kind kind = Kind::kConstant;
  Convert convert = Convert::kNone;
  bool last_use = false;  // kSlot: nobody reads the slot later, so the value may be moved out
  SlotIndex slot = kUnused;
  std::int32_t row_dim = kNoRows;  // kSlot, of an instruction that runs by row: where the value has rows
  c10::IValue constant{};
  std::vector<Argument> items{};  // kList
  c10::TypePtr item_type{};       // kList
};

struct Instruction {
  // Exactly one of `op` and `scalar` is set.
  std::optional<c10::OperatorHandle> op;
  std::optional<ScalarOp> scalar;
  std::vector<Argument> arguments;
  std::vector<SlotIndex> outputs;  // one for each returned value, or for each element of the returned list
  bool spread = false;             // the outputs are the elements of a returned list
  std::vector<SlotIndex> dead;     // slots that nobody reads after this instruction
  std::string name;                // for messages and profiles
  // Set for a packed linear layer; all packed linear layers of a program share one.
  std::shared_ptr<RowBuckets> row_buckets{};
  std::vector<std::int32_t> by_row{};  // see Note [Row by row]: of each result the dim of its rows; empty: at once
};

// All workers share a program. It is immutable after finish(), but for the row buckets, which are thread-safe.
struct Program {
  std::size_t num_slots = 0;
  std::vector<SlotIndex> weight_slots;
  std::vector<SlotIndex> input_slots;
  std::vector<SlotIndex> output_slots;
  std::vector<Instruction> prologue;  // instructions that depend on weights only
  std::vector<Instruction> body;
  std::vector<SlotIndex> constant_slots;  // weights and results of the prologue that the body reads
  bool padding_is_free = false;           // what its calls are padded by is left out before it costs anything
  Guards guards;
  std::string text;
  bool invariant = false;  // a row's bits depend on that row and the weights only

  // Finds last uses, which instructions have their rows in buckets, and whether padding is free. Called once, after all
  // members above but constant_slots and padding_is_free are set.
  void finish();
};

}  // namespace torchpool::graph
