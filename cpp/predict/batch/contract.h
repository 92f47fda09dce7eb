// Which dims of a model's inputs and outputs hold independent rows, which vary from call to call, and what pads them.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/queue/request.h"

namespace torchpool {

// A dim of an input: its size is fixed, the number of rows, or the length named by a symbol.
struct DimSpec {
  enum class Kind : std::uint8_t { kFixed, kBatch, kSymbol };
  Kind kind = Kind::kFixed;
  std::int64_t value = 0;  // kFixed: the size; kSymbol: the symbol's index
};

struct InputSpec {
  std::string name;
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  std::optional<std::int64_t> batch_dim;  // empty: one tensor for all rows, so calls merge that pass the same one
  bool stacked = false;                   // calls have no batch dim: they are stacked along a new dim 0
  std::vector<DimSpec> sizes;             // of one call's tensor
  at::Scalar pad = 0;                     // fills the end of a shorter call along a padded symbol
};

// A call's own size of an output's dim is scale * length(symbol) + offset; the merged output may be longer.
struct TrimSpec {
  std::int64_t dim = 0;  // of the merged output
  std::size_t symbol = 0;
  std::int64_t scale = 1;
  std::int64_t offset = 0;
};

struct OutputSpec {
  std::string name;
  std::optional<std::int64_t> batch_dim;  // empty: the same for every call
  bool stacked = false;                   // a call's own output has no batch dim
  std::vector<TrimSpec> trims;
  // The batch dim has outer x units x inner entries: of unit u those at (o, u, i). A model that folds its rows with a
  // dim before them (time-major) or behind them has other than 1. 0, of one of the two: whatever is left; a trim along
  // the batch dim is of that one. Where one is not 1, the output is not stacked.
  std::int64_t outer = 1;
  std::int64_t inner = 1;
  bool folded() const noexcept { return outer != 1 || inner != 1; }
  bool open() const noexcept { return outer == 0 || inner == 0; }
  bool is_of_fold(const TrimSpec& trim) const noexcept { return folded() && batch_dim == trim.dim; }
  bool cuts_the_fold() const noexcept {
    return std::any_of(trims.begin(), trims.end(), [this](const TrimSpec& trim) { return is_of_fold(trim); });
  }
};

namespace graph {
struct Guards;
}  // namespace graph
class ResultForm;
class ProbedWeights;
class Verifier;

// How one call fits a contract.
struct CallShape {
  std::int64_t rows = 1;
  std::vector<std::int64_t> lengths;  // per symbol
  // What a row's cost grows with: the product of its lengths, at least 1.
  std::int64_t extent() const noexcept {
    std::int64_t product = 1;
    for (const std::int64_t length : lengths) product *= std::max<std::int64_t>(1, length);
    return product;
  }
};

// Where one call departs from a contract.
struct Mismatch {
  enum class Kind : std::uint8_t { kDtype, kDevice, kRank, kFixedDim, kUnequalRows, kUnequalLength, kEmpty };
  Kind kind = Kind::kFixedDim;
  std::size_t input = 0;
  std::int64_t dim = 0;
  std::string message;  // names the input, what was expected and what came
};

struct Contract {
  std::vector<InputSpec> inputs;
  std::vector<OutputSpec> outputs;
  std::vector<bool> padded;    // per symbol: shorter calls may be padded to the longest of their batch
  bool aliases = false;        // the model returns memory that it keeps or was given
  std::uint64_t identity = 0;  // unique in the process; part of every merge key
  // If set, only calls of exactly that many rows share a batch, and outputs have a unit a call instead of one a row.
  std::optional<std::int64_t> call_rows;

  // How far rows may be from the same rows alone, as a share of the largest value, where dtypes tell of less.
  double tolerance = 0;

  std::shared_ptr<const ResultForm> result_form;  // of its calls' results; null: not known
  std::shared_ptr<Verifier> verifier;             // of its batches; null: nobody looks at them
  // Batches of the module for which its rows are proven independent; null: all sizes, or the batches' backend knows.
  std::shared_ptr<const graph::Guards> guards;
  // True once the module is another one than this was learned of: its rows may meet. Null: it stays what it is.
  std::shared_ptr<const std::atomic<bool>> overtaken;

  // With which padding was found to do nothing; null: it does nothing whatever the weights are, or nothing is padded.
  std::shared_ptr<const ProbedWeights> padded_with;

  bool is_overtaken() const noexcept { return overtaken && overtaken->load(std::memory_order_acquire); }
  // Units that an output has for that many rows.
  std::int64_t units(std::int64_t rows) const noexcept { return call_rows ? rows / *call_rows : rows; }
  bool may_share(const CallShape& shape) const noexcept { return !call_rows || *call_rows == shape.rows; }

  // Empty when the call fits, and `shape` is filled.
  std::optional<Mismatch> fit(const std::vector<at::Tensor>& inputs_of_call, CallShape& shape) const;
  // Key, length and bytes of a call that fits. `ambient` tells callers' states (autocast, ...) apart.
  RequestInfo request_info(const std::vector<at::Tensor>& inputs_of_call, const CallShape& shape,
                           std::uint64_t ambient) const;

  static std::uint64_t next_identity() noexcept;
};

}  // namespace torchpool
