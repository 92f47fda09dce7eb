// Runs an operator for each row of a batch on its own.
#pragma once

#include <ATen/core/stack.h>

#include "predict/graph/program.h"

namespace torchpool::graph {

// Note [Row by row]
// ATen's operators compute a row as its neighbours let them: where a vector ends and single elements begin, how a
// product or a sum is cut into parts, and for how many threads, all follow from the size of the whole batch, and each
// way rounds differently. An operator that sees one row at a time, in memory of its own that is laid out alike for
// each, on one thread, cannot do so: a row's bits are those that it has alone.

// Takes the arguments of the instruction, which runs by row, off the stack and leaves its results. An operator without
// rows to see is called once. Throws what the operator throws.
void call_by_row(const Instruction& instruction, torch::jit::Stack& stack);

}  // namespace torchpool::graph
