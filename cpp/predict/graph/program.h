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

// One argument of an instruction: a constant, a slot, or a list with slots inside.
struct Argument {
  enum class Kind : std::uint8_t { kConstant, kSlot, kList };
  // What a number in a slot becomes before the operator sees it.
  enum class Convert : std::uint8_t { kNone, kToTensor, kToDouble };
  Kind kind = Kind::kConstant;
  Convert convert = Convert::kNone;
  bool last_use = false;  // kSlot: nobody reads the slot later, so that it may be moved out
  SlotIndex slot = kUnused;
  c10::IValue constant{};
  std::vector<Argument> items{};  // kList
  c10::TypePtr item_type{};       // kList
};

struct Instruction {
  // Exactly one of the two.
  std::optional<c10::OperatorHandle> op;
  std::optional<ScalarOp> scalar;
  std::vector<Argument> arguments;
  std::vector<SlotIndex> outputs;  // one for each value returned, or for each element of the list returned
  bool spread = false;             // outputs are a returned list's elements
  std::vector<SlotIndex> dead;     // slots that nobody reads after this instruction
  std::string name;                // for messages and profiles
  // Of a packed linear layer; all those of a program share them.
  std::shared_ptr<RowBuckets> row_buckets{};
};

// Immutable once finished, but for the row buckets, which are thread-safe; shared by all workers.
struct Program {
  std::size_t num_slots = 0;
  std::vector<SlotIndex> weight_slots;
  std::vector<SlotIndex> input_slots;
  std::vector<SlotIndex> output_slots;
  std::vector<Instruction> prologue;  // what depends on weights only
  std::vector<Instruction> body;
  std::vector<SlotIndex> constant_slots;  // of weights and the prologue's results, those that the body reads
  Guards guards;
  std::string text;

  // Finds last uses, and which instructions have their rows in buckets. Call once, after everything above but
  // constant_slots is set.
  void finish();
};

}  // namespace torchpool::graph
