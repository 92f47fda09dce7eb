#include "predict/graph/fold.h"

#include <c10/util/StringUtil.h>

#include <algorithm>
#include <bit>
#include <map>
#include <numeric>

namespace torchpool::graph {

namespace {

template <typename Visit>
void visit_slots(const std::vector<Argument>& arguments, const Visit& visit) {
  for (const Argument& argument : arguments) {
    if (argument.kind == Argument::Kind::kSlot) visit(argument.slot);
    visit_slots(argument.items, visit);
  }
}

// Sets of instructions, joined one by one.
class Sets {
 public:
  explicit Sets(std::size_t size) : parent_(size) { std::iota(parent_.begin(), parent_.end(), std::size_t{0}); }
  std::size_t find(std::size_t one) {
    while (parent_[one] != one) one = parent_[one] = parent_[parent_[one]];
    return one;
  }
  // The earlier one stands for both.
  void join(std::size_t one, std::size_t other) {
    one = find(one);
    other = find(other);
    parent_[std::max(one, other)] = std::min(one, other);
  }

 private:
  std::vector<std::size_t> parent_;
};

// Writes constants down exactly.
class Writer {
 public:
  void word(const std::string& text) { text_ += c10::str(text.size(), ':', text, ' '); }
  void number(std::int64_t value) { text_ += std::to_string(value) + ' '; }

  void argument(const Argument& argument) {
    number(static_cast<int>(argument.kind));
    number(static_cast<int>(argument.convert));
    number(argument.slot);
    if (argument.kind == Argument::Kind::kConstant) constant(argument.constant);
    if (argument.kind != Argument::Kind::kList) return;
    word(argument.item_type->str());
    number(static_cast<std::int64_t>(argument.items.size()));
    for (const Argument& item : argument.items) this->argument(item);
  }

  void instruction(const Instruction& instruction) {
    if (instruction.op) {
      word(instruction.op->schema().name());
      word(instruction.op->schema().overload_name());
    } else {
      number(static_cast<int>(*instruction.scalar));
    }
    number(static_cast<std::int64_t>(instruction.arguments.size()));
    for (const Argument& one : instruction.arguments) argument(one);
    number(instruction.spread ? 1 : 0);
    for (const SlotIndex output : instruction.outputs) number(output);
    text_ += '\n';
  }

  std::string text() && { return exact_ ? std::move(text_) : std::string(); }

 private:
  void constant(const c10::IValue& value) {
    word(value.tagKind());
    if (value.isNone()) return;
    if (value.isBool()) return number(value.toBool() ? 1 : 0);
    if (value.isInt()) return number(value.toInt());
    if (value.isDouble()) return number(std::bit_cast<std::int64_t>(value.toDouble()));
    if (value.isString()) return word(value.toStringRef());
    if (value.isDevice()) return word(value.toDevice().str());
    if (value.isTensor()) return tensor(value.toTensor());
    if (!value.isList()) {
      exact_ = false;
      return;
    }
    word(value.type()->str());
    number(static_cast<std::int64_t>(value.toListRef().size()));
    for (const c10::IValue& item : value.toListRef()) constant(item);
  }

  // A Python number among tensors.
  void tensor(const at::Tensor& tensor) {
    if (!tensor.defined() || !tensor.is_cpu() || tensor.layout() != c10::kStrided || tensor.dim() != 0) {
      exact_ = false;
      return;
    }
    number(static_cast<int>(tensor.scalar_type()));
    number(tensor.unsafeGetTensorImpl()->is_wrapped_number() ? 1 : 0);
    word(std::string(static_cast<const char*>(tensor.const_data_ptr()), tensor.element_size()));
  }

  std::string text_;
  bool exact_ = true;
};

// Numbers slots as they appear.
class Numbering {
 public:
  SlotIndex of(SlotIndex slot) {
    return slot == kUnused ? kUnused
                           : numbers_.try_emplace(slot, static_cast<SlotIndex>(numbers_.size())).first->second;
  }
  void renumber(std::vector<Argument>& arguments) {
    for (Argument& argument : arguments) {
      argument.last_use = false;
      if (argument.kind == Argument::Kind::kSlot) argument.slot = of(argument.slot);
      renumber(argument.items);
    }
  }
  const std::map<SlotIndex, SlotIndex>& numbers() const { return numbers_; }

 private:
  std::map<SlotIndex, SlotIndex> numbers_;  // of the whole program's slots
};

Fold make_fold(const std::vector<const Instruction*>& instructions, const std::map<SlotIndex, std::size_t>& weights,
               const std::vector<SlotIndex>& read, bool invariant) {
  Fold fold;
  fold.program.invariant = invariant;
  Numbering numbering;
  Writer writer;
  for (const Instruction* whole : instructions) {
    Instruction& own = fold.program.prologue.emplace_back(*whole);
    own.dead.clear();
    numbering.renumber(own.arguments);
    for (SlotIndex& output : own.outputs) output = numbering.of(output);
    writer.instruction(own);
  }
  fold.program.num_slots = numbering.numbers().size();
  std::vector<std::pair<SlotIndex, SlotIndex>> by_number;  // own, of the whole program
  for (const auto& [whole, own] : numbering.numbers()) by_number.emplace_back(own, whole);
  std::sort(by_number.begin(), by_number.end());
  for (const auto& [own, whole] : by_number) {
    if (const auto weight = weights.find(whole); weight != weights.end()) {
      fold.program.weight_slots.push_back(own);
      fold.weights.push_back(weight->second);
      writer.number(own);
    } else if (std::binary_search(read.begin(), read.end(), whole)) {
      fold.program.output_slots.push_back(own);
      fold.results.push_back(whole);
      writer.number(-own);
    }
  }
  writer.number(invariant ? 1 : 0);
  fold.program.finish();
  fold.text = std::move(writer).text();
  return fold;
}

}  // namespace

std::vector<Fold> split_prologue(const Program& program) {
  std::map<SlotIndex, std::size_t> weights;
  for (std::size_t i = 0; i < program.weight_slots.size(); ++i) weights[program.weight_slots[i]] = i;
  Sets sets(program.prologue.size());
  std::map<SlotIndex, std::size_t> maker;
  for (std::size_t i = 0; i < program.prologue.size(); ++i) {
    const Instruction& instruction = program.prologue[i];
    visit_slots(instruction.arguments, [&](SlotIndex slot) {
      if (const auto made = maker.find(slot); made != maker.end()) sets.join(made->second, i);
    });
    for (const SlotIndex output : instruction.outputs) maker[output] = i;
  }
  std::map<std::size_t, std::vector<const Instruction*>> parts;
  for (std::size_t i = 0; i < program.prologue.size(); ++i) parts[sets.find(i)].push_back(&program.prologue[i]);
  std::vector<Fold> folds;
  for (const auto& [first, instructions] : parts) {
    Fold fold = make_fold(instructions, weights, program.constant_slots, program.invariant);
    if (!fold.results.empty()) folds.push_back(std::move(fold));
  }
  return folds;
}

}  // namespace torchpool::graph
