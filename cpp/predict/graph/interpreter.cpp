#include "predict/graph/interpreter.h"

#include <ATen/ScalarOps.h>

#include <utility>

#include "core/sync/error.h"
#include "predict/batch/thread_scope.h"
#include "predict/graph/by_row.h"

namespace torchpool::graph {

namespace {

// A worker's scratch: the values of one run at a time.
struct Frame {
  std::vector<c10::IValue> slots;
  torch::jit::Stack stack;
};

// A Python number among tensors takes part in type promotion as a number does, not as a tensor.
c10::IValue number_as_tensor(const c10::IValue& number) {
  return at::native::wrapped_scalar_tensor(number.toScalar());
}

class Run {
 public:
  explicit Run(Frame& frame) : slots_(frame.slots), stack_(frame.stack) {}

  void execute(const Instruction& instruction) {
    stack_.clear();
    for (const Argument& argument : instruction.arguments) stack_.push_back(value_of(argument));
    if (instruction.scalar) {
      c10::IValue result = graph::apply(*instruction.scalar, stack_);
      stack_.clear();
      stack_.push_back(std::move(result));
    } else if (!instruction.by_row.empty()) {
      call_by_row(instruction, stack_);
    } else if (instruction.row_buckets) {
      call_in_bucket(instruction);
    } else {
      instruction.op->callBoxed(stack_);
    }
    store(instruction);
    for (const SlotIndex slot : instruction.dead) at(slot) = c10::IValue();
  }

 private:
  // See Note [Rows in buckets].
  void call_in_bucket(const Instruction& instruction) {
    const at::Tensor input = std::move(stack_.front()).toTensor();
    const std::int64_t rows = input.numel() == 0 ? 0 : input.numel() / input.size(-1);
    const std::int64_t bucket = instruction.row_buckets->bucket(rows);
    if (bucket == rows) {
      stack_.front() = input;
      instruction.op->callBoxed(stack_);
      return;
    }
    stack_.front() = with_rows(input, bucket);
    instruction.op->callBoxed(stack_);
    stack_.front() = without_added_rows(stack_.front().toTensor(), input.sizes());
  }

  c10::IValue& at(SlotIndex slot) { return slots_[static_cast<std::size_t>(slot)]; }

  c10::IValue value_of(const Argument& argument) {
    switch (argument.kind) {
      case Argument::Kind::kConstant:
        return argument.constant;
      case Argument::Kind::kList:
        return list_of(argument);
      case Argument::Kind::kSlot:
        break;
    }
    c10::IValue& slot = at(argument.slot);
    if (argument.convert == Argument::Convert::kToTensor && !slot.isTensor()) return number_as_tensor(slot);
    if (argument.convert == Argument::Convert::kToDouble && slot.isInt()) return static_cast<double>(slot.toInt());
    return argument.last_use ? std::exchange(slot, c10::IValue()) : slot;
  }

  c10::IValue list_of(const Argument& argument) {
    switch (argument.item_type->kind()) {
      case c10::TypeKind::TensorType: {
        c10::List<at::Tensor> list;
        list.reserve(argument.items.size());
        for (const Argument& item : argument.items) list.push_back(value_of(item).toTensor());
        return list;
      }
      case c10::TypeKind::IntType:
      case c10::TypeKind::SymIntType: {
        c10::List<std::int64_t> list;
        list.reserve(argument.items.size());
        for (const Argument& item : argument.items) list.push_back(value_of(item).toInt());
        return list;
      }
      default: {
        c10::impl::GenericList list(argument.item_type);
        list.reserve(argument.items.size());
        for (const Argument& item : argument.items) list.push_back(value_of(item));
        return list;
      }
    }
  }

  void store(const Instruction& instruction) {
    const auto& outputs = instruction.outputs;
    if (instruction.spread) {
      const c10::IValue list = std::move(stack_.at(0));
      const auto elements = list.toListRef();
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (outputs[i] != kUnused) at(outputs[i]) = elements[i];
      }
    } else {
      for (std::size_t i = 0; i < outputs.size(); ++i) {
        if (outputs[i] != kUnused) at(outputs[i]) = std::move(stack_[i]);
      }
    }
    stack_.clear();
  }

  std::vector<c10::IValue>& slots_;
  torch::jit::Stack& stack_;
};

// Takes the values of a run away, whichever way it ends: they may be large, and weights that the module drops later.
class FrameUse {
 public:
  explicit FrameUse(const Program& program) {
    thread_local Frame own;
    // A custom operator of the graph may call another predictor, which runs on this thread.
    thread_local bool busy = false;
    busy_ = &busy;
    nested_ = std::exchange(busy, true);
    frame_ = nested_ ? &private_ : &own;
    frame_->slots.resize(program.num_slots);
  }
  ~FrameUse() {
    frame_->stack.clear();
    frame_->slots.clear();
    *busy_ = nested_;
  }
  FrameUse(const FrameUse&) = delete;
  FrameUse& operator=(const FrameUse&) = delete;
  Frame& frame() { return *frame_; }
  c10::IValue& operator[](SlotIndex slot) { return frame_->slots[static_cast<std::size_t>(slot)]; }

 private:
  Frame private_;
  Frame* frame_ = nullptr;
  bool* busy_ = nullptr;
  bool nested_ = false;
};

}  // namespace

Constants prepare(const Program& program, const std::vector<at::Tensor>& weights) {
  const IntraOpScope threads(program.invariant ? 1 : 0);  // more of them would round otherwise
  FrameUse slots(program);
  for (std::size_t i = 0; i < weights.size(); ++i) slots[program.weight_slots[i]] = weights[i];
  Run run(slots.frame());
  for (const Instruction& instruction : program.prologue) run.execute(instruction);
  Constants constants;
  constants.reserve(program.constant_slots.size());
  for (const SlotIndex slot : program.constant_slots) constants.push_back(std::move(slots[slot]));
  return constants;
}

ConstantRefs refs_to(const Constants& constants) {
  ConstantRefs refs;
  refs.reserve(constants.size());
  for (const c10::IValue& constant : constants) refs.push_back(&constant);
  return refs;
}

std::vector<at::Tensor> run(const Program& program, const ConstantRefs& constants, std::vector<at::Tensor> inputs,
                            Profile* profile) {
  program.guards.check(inputs);
  FrameUse slots(program);
  for (std::size_t i = 0; i < constants.size(); ++i) slots[program.constant_slots[i]] = *constants[i];
  for (std::size_t i = 0; i < inputs.size(); ++i) slots[program.input_slots[i]] = std::move(inputs[i]);
  Run run(slots.frame());
  if (profile == nullptr) {
    for (const Instruction& instruction : program.body) run.execute(instruction);
  } else {
    for (std::size_t i = 0; i < program.body.size(); ++i) {
      const TimePoint start = Clock::steady().now();
      run.execute(program.body[i]);
      profile->ns[i] += static_cast<std::uint64_t>((Clock::steady().now() - start).count());
    }
    ++profile->runs;
  }
  std::vector<at::Tensor> outputs;
  outputs.reserve(program.output_slots.size());
  for (const SlotIndex slot : program.output_slots) outputs.push_back(slots[slot].toTensor());
  return outputs;
}

}  // namespace torchpool::graph
