// Runs a program's instructions.
#pragma once

#include <ATen/core/ivalue.h>
#include <ATen/core/stack.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "core/sync/clock.h"
#include "predict/graph/program.h"

namespace torchpool::graph {

// The values that the body reads and that stay the same from run to run: unpacked weights, and the prologue's results.
// In the order of Program::constant_slots.
using Constants = std::vector<c10::IValue>;

// Constants that another owner keeps for as long as a run takes.
using ConstantRefs = std::vector<const c10::IValue*>;
ConstantRefs refs_to(const Constants& constants);

// Time spent in each instruction of the body, in nanoseconds, summed over runs.
struct Profile {
  explicit Profile(std::size_t instructions) : ns(instructions, 0) {}
  std::vector<std::uint64_t> ns;
  std::uint64_t runs = 0;
};

// Computes the constants for weights that do not change meanwhile. Requires: no grad or inference mode.
Constants prepare(const Program& program, const std::vector<at::Tensor>& weights);

// One run. Requires: inference mode; the inputs are not written to by the graph. Throws GuardFailed before anything ran
// where the graph does not hold for the inputs, and whatever an operator throws. No other run uses `profile` meanwhile,
// where it is given.
std::vector<at::Tensor> run(const Program& program, const ConstantRefs& constants, std::vector<at::Tensor> inputs,
                            Profile* profile = nullptr);

}  // namespace torchpool::graph
