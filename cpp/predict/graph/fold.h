// Cuts a prologue into parts that can be computed independently.
#pragma once

#include <string>
#include <vector>

#include "predict/graph/program.h"

namespace torchpool::graph {

// Instructions of a prologue that share no value with the other instructions, as a program of their own: weights in,
// results out. Slots are numbered in the order in which they appear.
struct Fold {
  Program program;
  std::vector<std::size_t> weights;  // indices of the whole program's weights, in the order of program.weight_slots
  std::vector<SlotIndex> results;    // slots of the whole program, in the order of program.constant_slots
  std::string text;                  // equal texts mean equal results; empty where a constant cannot be written down
};

// A part whose results the body does not read is left out.
std::vector<Fold> split_prologue(const Program& program);

}  // namespace torchpool::graph
