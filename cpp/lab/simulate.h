// The simulator of the scheduling policy, for Python.
#pragma once

#include <pybind11/pybind11.h>

#include <cstdint>
#include <tuple>
#include <vector>

namespace torchpool {

// (arrival, predictor, rows, length, priority, deadline or 0)
using ListedCall = std::tuple<double, std::size_t, std::int64_t, std::int64_t, std::int32_t, double>;

// The outcome of each call and all batches; `predictors` is a list of dicts.
pybind11::dict simulate_calls(int workers, int cores_per_batch, const pybind11::list& predictors,
                              const std::vector<ListedCall>& calls);

}  // namespace torchpool
