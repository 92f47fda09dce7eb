// What a prologue computes ahead, in parts that stand alone.
#pragma once

#include <string>
#include <vector>

#include "predict/graph/program.h"

namespace torchpool::graph {

// Instructions of a prologue that share no value with the others, as a program of their own: weights in, results out,
// with slots numbered in the order in which they appear.
struct Fold {
  Program program;
  std::vector<std::size_t> weights;  // which of the whole program's, in the order of program.weight_slots
  std::vector<SlotIndex> results;    // in slots of the whole program, in the order of program.constant_slots
  std::string text;                  // equal texts mean equal results; empty where a constant cannot be written down
};

// A part whose results the body does not read is left out.
std::vector<Fold> split_prologue(const Program& program);

}  // namespace torchpool::graph
