// How the tests write programs.
#pragma once

#include <utility>
#include <vector>

#include "predict/graph/program.h"

namespace torchpool::graph {

inline Argument slot(SlotIndex index) {
  return {.kind = Argument::Kind::kSlot, .slot = index};
}

inline Argument constant(const c10::IValue& value) {
  return {.constant = value};
}

inline Instruction call(const char* name, const char* overload, std::vector<Argument> arguments,
                        std::vector<SlotIndex> outputs) {
  Instruction instruction;
  instruction.op = c10::Dispatcher::singleton().findSchemaOrThrow(name, overload);
  instruction.arguments = std::move(arguments);
  instruction.outputs = std::move(outputs);
  instruction.name = name;
  return instruction;
}

}  // namespace torchpool::graph
