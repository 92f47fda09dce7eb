// How long the rows of the batch are that a thread runs.
#pragma once

#include <cstdint>
#include <vector>

#include "predict/batch/collate.h"

namespace torchpool {

// While it lives, of() tells this thread the lengths of a padded batch's rows. For a backend that runs nothing but its
// own operators: what it ran inside would be told, too. All that is given outlives it.
class RowLengths {
 public:
  RowLengths(const std::vector<Member>& members, const std::vector<std::int64_t>& padded_to);
  ~RowLengths();
  RowLengths(const RowLengths&) = delete;
  RowLengths& operator=(const RowLengths&) = delete;

  // Per row its length along a symbol of the contract, in a batch of so many rows, padded to `length`. All of that
  // length where nothing else is known.
  static std::vector<std::int64_t> of(std::int64_t symbol, std::int64_t rows, std::int64_t length);

 private:
  const std::vector<Member>& members_;
  const std::vector<std::int64_t>& padded_to_;
  const RowLengths* const before_;
};

}  // namespace torchpool
