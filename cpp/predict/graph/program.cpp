#include "predict/graph/program.h"

#include <algorithm>

namespace torchpool::graph {

namespace {

template <typename Visit>
void visit_slots(std::vector<Argument>& arguments, const Visit& visit) {
  for (Argument& argument : arguments) {
    if (argument.kind == Argument::Kind::kSlot) visit(argument);
    visit_slots(argument.items, visit);
  }
}

// Backwards: the first reader met of a slot is its last. `kept` stay whatever the instructions read.
void find_last_uses(std::vector<Instruction>& instructions, std::vector<bool> seen) {
  for (auto instruction = instructions.rbegin(); instruction != instructions.rend(); ++instruction) {
    for (const SlotIndex output : instruction->outputs) {
      if (output != kUnused && !seen[static_cast<std::size_t>(output)]) instruction->dead.push_back(output);
    }
    std::vector<Argument*> last;
    visit_slots(instruction->arguments, [&](Argument& argument) {
      if (!seen[static_cast<std::size_t>(argument.slot)]) last.push_back(&argument);
    });
    for (Argument* argument : last) {
      const auto slot = static_cast<std::size_t>(argument->slot);
      const auto readers =
          std::count_if(last.begin(), last.end(), [&](const Argument* other) { return other->slot == argument->slot; });
      if (readers == 1) {
        argument->last_use = true;  // moved into the call, gone with it
      } else if (!seen[slot]) {
        instruction->dead.push_back(argument->slot);
      }
      seen[slot] = true;
    }
  }
}

}  // namespace

void Program::finish() {
  std::vector<bool> constant(num_slots, false);
  for (const SlotIndex slot : weight_slots) constant[static_cast<std::size_t>(slot)] = true;
  for (const Instruction& instruction : prologue) {
    for (const SlotIndex slot : instruction.outputs) {
      if (slot != kUnused) constant[static_cast<std::size_t>(slot)] = true;
    }
  }
  std::vector<bool> read(num_slots, false);
  const auto reads = [&](Argument& argument) { read[static_cast<std::size_t>(argument.slot)] = true; };
  for (Instruction& instruction : body) visit_slots(instruction.arguments, reads);
  for (const SlotIndex slot : output_slots) read[static_cast<std::size_t>(slot)] = true;
  std::vector<bool> kept(num_slots, false);
  for (std::size_t slot = 0; slot < num_slots; ++slot) {
    if (!constant[slot] || !read[slot]) continue;
    constant_slots.push_back(static_cast<SlotIndex>(slot));
    kept[slot] = true;
  }
  find_last_uses(prologue, kept);
  for (const SlotIndex slot : output_slots) kept[static_cast<std::size_t>(slot)] = true;
  find_last_uses(body, kept);
  const c10::OperatorName packed_linear("mkldnn::_linear_pointwise", "");
  const c10::OperatorName packing("torchpool::pack_rows", "");
  const auto buckets = std::make_shared<RowBuckets>();
  for (Instruction& instruction : body) {
    if (instruction.op && instruction.op->operator_name() == packed_linear) instruction.row_buckets = buckets;
    if (instruction.op && instruction.op->operator_name() == packing) padding_is_free = true;
  }
}

}  // namespace torchpool::graph
