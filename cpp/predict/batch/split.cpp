#include "predict/batch/split.h"

#include <ATen/ops/empty.h>
#include <c10/util/StringUtil.h>

#include <cstring>

#include "core/sync/error.h"

namespace torchpool {

namespace {

// A fresh copy of `rows` rows of a contiguous CPU tensor whose batch dim is 0: a third of narrow().clone()'s time, and
// this runs once per row.
at::Tensor copy_rows(const at::Tensor& output, std::int64_t row, std::int64_t rows, bool drop_batch_dim) {
  const auto sizes = output.sizes();
  c10::SmallVector<std::int64_t, 5> own(sizes.begin() + (drop_batch_dim ? 1 : 0), sizes.end());
  if (!drop_batch_dim) own[0] = rows;
  at::Tensor copy = at::empty(own, output.options());
  const std::size_t row_bytes = output.nbytes() / static_cast<std::size_t>(sizes[0]);
  std::memcpy(copy.mutable_data_ptr(),
              static_cast<const char*>(output.const_data_ptr()) + row_bytes * static_cast<std::size_t>(row),
              row_bytes * static_cast<std::size_t>(rows));
  return copy;
}

bool is_sole_owner(const at::Tensor& output) {
  return !output.is_inference() && !output.requires_grad() && output.use_count() == 1 &&
         output.storage().use_count() == 1 && output.storage().nbytes() == output.nbytes();
}

at::Tensor split_one(const OutputSpec& spec, at::Tensor& output, const CallShape& shape,
                     const std::vector<std::int64_t>& padded_to, std::int64_t row, bool whole) {
  bool trimmed = false;
  for (const TrimSpec& trim : spec.trims) {
    trimmed = trimmed || trim.scale * (padded_to[trim.symbol] - shape.lengths[trim.symbol]) != 0;
  }
  if (whole && !trimmed && !spec.stacked && is_sole_owner(output)) return std::move(output);
  if (!spec.batch_dim) return output.clone();
  if (!trimmed && *spec.batch_dim == 0 && output.is_cpu() && output.is_contiguous()) {
    return copy_rows(output, row, shape.rows, spec.stacked);
  }
  at::Tensor part = output.narrow(*spec.batch_dim, row, shape.rows);
  for (const TrimSpec& trim : spec.trims) {
    part = part.narrow(trim.dim, 0, trim.scale * shape.lengths[trim.symbol] + trim.offset);
  }
  if (spec.stacked) part = part.select(*spec.batch_dim, 0);
  return part.clone();
}

}  // namespace

void check_outputs(const Contract& contract, const std::vector<at::Tensor>& outputs, std::int64_t rows) {
  if (outputs.size() != contract.outputs.size()) {
    throw Error(c10::str("the model returned ", outputs.size(), " tensors for a batch, its contract has ",
                         contract.outputs.size()));
  }
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    const OutputSpec& spec = contract.outputs[i];
    if (!spec.batch_dim) continue;
    const bool has_dim = *spec.batch_dim < outputs[i].dim();
    if (!has_dim || outputs[i].size(*spec.batch_dim) != rows) {
      throw Error(c10::str("output '", spec.name, "' has shape ", outputs[i].sizes(), " for a batch of ", rows,
                           " rows; its contract has the rows in dim ", *spec.batch_dim));
    }
  }
}

std::vector<at::Tensor> split(const Contract& contract, std::vector<at::Tensor>& outputs, const CallShape& shape,
                              const std::vector<std::int64_t>& padded_to, std::int64_t row, bool whole) {
  std::vector<at::Tensor> own;
  own.reserve(outputs.size());
  for (std::size_t i = 0; i < outputs.size(); ++i) {
    own.push_back(split_one(contract.outputs[i], outputs[i], shape, padded_to, row, whole));
  }
  return own;
}

}  // namespace torchpool
