#include <gtest/gtest.h>

#include <bit>
#include <limits>
#include <string>
#include <tuple>

#include "predict/kernels/isa.h"
#include "predict/kernels/rnn_reference.h"

namespace torchpool::kernels {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// What this processor can run.
std::vector<Isa> isas() {
  std::vector<Isa> found;
  for (const Isa isa : {Isa::kPortable, Isa::kAvx2, Isa::kAvx512}) {
    if (isa <= detected()) found.push_back(isa);
  }
  return found;
}

Case make_case(const Net& net, std::ptrdiff_t rows, std::ptrdiff_t steps, bool states = false, bool ragged = false) {
  Case one;
  one.rows = rows;
  one.steps = steps;
  one.input = drawn(static_cast<std::size_t>(rows * steps * net.model.input), 2.0F, 77);
  const std::ptrdiff_t values = net.model.layers * net.model.directions * rows * net.model.hidden;
  if (states) {
    one.first_hidden = drawn(static_cast<std::size_t>(values), 1.0F, 78);
    if (net.model.kind == RnnKind::kLstm) one.first_cell = drawn(static_cast<std::size_t>(values), 2.0F, 79);
  }
  if (ragged) {
    for (std::ptrdiff_t row = 0; row < rows; ++row) one.lengths.push_back(1 + (row * 5 + 3) % steps);
  }
  return one;
}

void expect_near(const std::vector<float>& got, const std::vector<float>& expected, const std::string& where) {
  ASSERT_EQ(got.size(), expected.size()) << where;
  for (std::size_t i = 0; i < got.size(); ++i) {
    ASSERT_NEAR(got[i], expected[i], 2e-6) << where << ", value " << i;
  }
}

void expect_right(const Net& net, const Case& one, const std::string& where) {
  const Result expected = run_reference(net, one);
  for (const Isa isa : isas()) {
    const Result got = run_kernel(isa, net, one);
    const std::string here = where + " on " + name_of(isa) + ", " + std::to_string(one.rows) + " rows";
    expect_near(got.output, expected.output, here + ": output");
    expect_near(got.hidden, expected.hidden, here + ": hidden");
    expect_near(got.cell, expected.cell, here + ": cell");
  }
}

bool same_bits(const float* one, const float* other, std::ptrdiff_t count) {
  for (std::ptrdiff_t i = 0; i < count; ++i) {
    if (std::bit_cast<std::uint32_t>(one[i]) != std::bit_cast<std::uint32_t>(other[i])) return false;
  }
  return true;
}

class Kinds : public ::testing::TestWithParam<RnnKind> {};
INSTANTIATE_TEST_SUITE_P(Rnn, Kinds, testing::Values(RnnKind::kLstm, RnnKind::kGru, RnnKind::kTanh));

TEST_P(Kinds, AreAsTheirDefinitionsAtSizesThatFillNoVector) {
  for (const auto& [input, hidden, layers, directions] :
       {std::tuple{10, 20, 3, 1}, {3, 7, 2, 2}, {16, 33, 1, 2}, {1, 1, 2, 1}, {9, 64, 1, 1}, {5, 36, 2, 2}}) {
    const Net net = make_net(GetParam(), input, hidden, layers, directions);
    const std::string where = std::to_string(input) + " to " + std::to_string(hidden);
    for (const std::ptrdiff_t rows : {1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 24, 27, 33, 51}) {
      expect_right(net, make_case(net, rows, 7), where);
    }
  }
}

TEST_P(Kinds, BeginWithGivenStates) {
  const Net net = make_net(GetParam(), 4, 11, 2, 2);
  for (const std::ptrdiff_t rows : {1, 3, 7, 20, 40}) expect_right(net, make_case(net, rows, 5, true), "states");
}

TEST_P(Kinds, RowsEndAtTheirOwnLengths) {
  for (const std::ptrdiff_t directions : {1, 2}) {
    const Net net = make_net(GetParam(), 4, 11, 2, directions);
    for (const std::ptrdiff_t rows : {1, 2, 4, 5, 8, 13, 25, 50, 100}) {
      expect_right(net, make_case(net, rows, 9, false, true), "ragged");
      expect_right(net, make_case(net, rows, 9, true, true), "ragged from states");
    }
  }
}

TEST_P(Kinds, HaveNoBiasWhereNoneIsGiven) {
  const Net net = make_net(GetParam(), 4, 9, 1, 1, false);
  for (const std::ptrdiff_t rows : {1, 12}) expect_right(net, make_case(net, rows, 5), "without bias");
}

TEST_P(Kinds, OneStepIsEnough) {
  const Net net = make_net(GetParam(), 4, 9, 2, 2);
  for (const std::ptrdiff_t rows : {1, 12}) expect_right(net, make_case(net, rows, 1, true), "one step");
}

// Whoever shares the batch, in whatever place, and in vectors of any width.
TEST_P(Kinds, ARowsBitsAreItsOwn) {
  for (const bool ragged : {false, true}) {
    const Net net = make_net(GetParam(), 10, 20, 2, 2);
    const Case all = make_case(net, 70, 9, true, ragged);
    const std::ptrdiff_t width = net.model.directions * net.model.hidden;
    std::vector<Result> alone;
    const auto cut = [&](std::ptrdiff_t begin, std::ptrdiff_t rows) {
      Case part;
      part.rows = rows;
      part.steps = all.steps;
      const std::ptrdiff_t inputs = all.steps * net.model.input;
      part.input.assign(all.input.begin() + begin * inputs, all.input.begin() + (begin + rows) * inputs);
      for (std::ptrdiff_t layer = 0; layer < net.model.layers * net.model.directions; ++layer) {
        const std::ptrdiff_t first = (layer * all.rows + begin) * net.model.hidden;
        const auto states = [&](const std::vector<float>& from, std::vector<float>& to) {
          if (!from.empty()) to.insert(to.end(), from.begin() + first, from.begin() + first + rows * net.model.hidden);
        };
        states(all.first_hidden, part.first_hidden);
        states(all.first_cell, part.first_cell);
      }
      if (ragged) part.lengths.assign(all.lengths.begin() + begin, all.lengths.begin() + begin + rows);
      return part;
    };
    const std::vector<Isa> able = isas();
    for (const Isa isa : able) {
      if (isa != Isa::kAvx512) alone.clear();  // AVX512's bits are those of AVX2
      for (std::ptrdiff_t row = 0; alone.size() < 70; ++row) alone.push_back(run_kernel(isa, net, cut(row, 1)));
      for (std::ptrdiff_t rows = 1; rows <= 70; ++rows) {
        const std::ptrdiff_t begin = (70 - rows) / 2;
        const Result together = run_kernel(isa, net, cut(begin, rows));
        for (std::ptrdiff_t row = 0; row < rows; ++row) {
          const Result& own = alone[static_cast<std::size_t>(begin + row)];
          ASSERT_TRUE(same_bits(together.output.data() + row * all.steps * width, own.output.data(), all.steps * width))
              << "row " << row << " of " << rows << " on " << name_of(isa);
          for (std::ptrdiff_t layer = 0; layer < net.model.layers * net.model.directions; ++layer) {
            const std::ptrdiff_t state = (layer * rows + row) * net.model.hidden;
            const std::ptrdiff_t mine = layer * net.model.hidden;
            ASSERT_TRUE(same_bits(together.hidden.data() + state, own.hidden.data() + mine, net.model.hidden));
            if (own.cell.empty()) continue;
            ASSERT_TRUE(same_bits(together.cell.data() + state, own.cell.data() + mine, net.model.hidden));
          }
        }
      }
    }
  }
}

// As the definition has it: NaN stays, saturated gates end at their limits.
TEST_P(Kinds, WhatIsNotFiniteEndsAsItShould) {
  const Net net = make_net(GetParam(), 3, 9, 2, 1);
  for (const std::ptrdiff_t rows : {1, 4, 12, 40}) {
    Case one = make_case(net, rows, 6);
    const auto at = [&](std::ptrdiff_t row, std::ptrdiff_t step, float value) {
      one.input[static_cast<std::size_t>((row * one.steps + step) * net.model.input + row % net.model.input)] = value;
    };
    at(0, 2, NAN);
    if (rows > 1) at(1, 3, kInfinity);
    if (rows > 2) at(2, 1, -kInfinity);
    if (rows > 3) at(3, 0, 1e30F);
    const Result expected = run_reference(net, one);
    for (const Isa isa : isas()) {
      const Result got = run_kernel(isa, net, one);
      for (std::size_t i = 0; i < expected.output.size(); ++i) {
        ASSERT_EQ(std::isnan(got.output[i]), std::isnan(expected.output[i]))
            << "value " << i << " of " << rows << " rows on " << name_of(isa);
        if (std::isnan(expected.output[i])) continue;
        ASSERT_NEAR(got.output[i], expected.output[i], 2e-6) << i;
      }
    }
  }
}

}  // namespace
}  // namespace torchpool::kernels
