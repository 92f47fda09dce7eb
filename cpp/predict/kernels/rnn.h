// LSTM, GRU and tanh RNN in single precision, as fast as the processor multiplies.
#pragma once

#include <cstddef>
#include <cstdint>

namespace torchpool::kernels {

// Note [How a recurrent net is computed]
// A step of a layer multiplies its input and its state by the weights of all gates, then updates each unit from its
// gates. Both happen while a unit's gates are in registers. There are two ways to fill vectors:
//   lanes are rows: one unit's gates for 8 rows and more. A weight is broadcast; no lane is lost to odd hidden sizes.
//   lanes are units: a few rows' gates of 8 units. A value of the row is broadcast.
// Rows are independent of each other, so a block of rows goes through all steps of a layer before the next layer
// begins: its weights stay in the cache.
//
// Each sum starts with the bias and adds the products one by one: of the input, then of the state. So a row's bits are
// the same in both ways, in vectors of any width, and whoever shares its batch. The portable code rounds products
// before it adds them, and its bits are others.
//
// Weights are packed for both ways, and scaled. A sigmoid needs exp(-x) and a tanh exp(-2x): weights are multiplied by
// -log2(e) and -2 log2(e), so that a gate's sum is the exponent of 2. An LSTM's unit is updated with two divisions:
// over the common denominators of its three gates, and of the output.
//
// Exponents are clamped to +-40: products of three stay finite, and what is cut off is less than rounding. NaN passes.

enum class RnnKind : std::uint8_t { kLstm, kGru, kTanh };

// Weights of one direction of one layer, packed.
struct RnnDirection {
  const float* by_unit = nullptr;     // lanes are rows: [group of units][input, then state][gate]
  const float* unit_bias = nullptr;   // [group][4]
  const float* by_panel = nullptr;    // lanes are units: [panel][input, then state][gate][8]
  const float* panel_bias = nullptr;  // [panel][4][8]
};

// A group has as many units as fill 4 sums: one, or 4 of a tanh RNN, which has one gate. A panel has 8 groups. A GRU
// has a fourth sum without weights of its own: of its candidate the parts of input and state are summed apart.
struct RnnModel {
  RnnKind kind = RnnKind::kLstm;
  std::ptrdiff_t input = 0;  // features
  std::ptrdiff_t hidden = 0;
  std::ptrdiff_t layers = 1;
  std::ptrdiff_t directions = 1;
  const RnnDirection* weights = nullptr;  // [layer][direction]
};

// Strides count floats. Features and units are adjacent everywhere. States are [layer][direction][row][unit].
struct RnnCall {
  std::ptrdiff_t begin = 0;  // of the rows below the first to run, and how many
  std::ptrdiff_t rows = 0;
  std::ptrdiff_t all_rows = 0;
  std::ptrdiff_t steps = 0;
  const float* input = nullptr;
  std::ptrdiff_t input_row = 0;
  std::ptrdiff_t input_step = 0;
  const float* first_hidden = nullptr;  // null: zeros
  const float* first_cell = nullptr;    // of an LSTM; null: zeros
  float* output = nullptr;              // null: not wanted
  std::ptrdiff_t output_row = 0;
  std::ptrdiff_t output_step = 0;
  float* last_hidden = nullptr;
  float* last_cell = nullptr;  // of an LSTM
  // The steps of each row, 1 to `steps`, in falling order; null: all have `steps`. Behind its end a row's output is 0.
  const std::int64_t* lengths = nullptr;
  const std::int64_t* order = nullptr;  // which row each of these is; null: in order
};

// Floats of `scratch` that a kernel needs for a call whose rows may have `steps` steps.
std::ptrdiff_t rnn_scratch(const RnnModel& model, std::ptrdiff_t rows, std::ptrdiff_t steps) noexcept;
inline constexpr std::ptrdiff_t kRnnMostRows = 48;  // of a block of rows, in any instruction set

// The same under each instruction set; nothing is checked. See isa.h.
void run_rnn_portable(const RnnModel& model, const RnnCall& call, float* scratch);
void run_rnn_avx2(const RnnModel& model, const RnnCall& call, float* scratch);
void run_rnn_avx512(const RnnModel& model, const RnnCall& call, float* scratch);

}  // namespace torchpool::kernels
