#include "predict/kernels/packed_rows.h"

#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "predict/batch/row_lengths.h"

namespace torchpool::kernels {

namespace {

struct Offsets {
  explicit Offsets(const at::Tensor& tensor) {
    TORCH_CHECK(tensor.dim() == 1 && tensor.scalar_type() == at::kInt && tensor.is_contiguous() && tensor.size(0) > 0,
                "expected offsets as torchpool::row_offsets gives them, got ", tensor.scalar_type(), tensor.sizes());
    at = tensor.const_data_ptr<std::int32_t>();
    rows = tensor.size(0) - 1;
  }
  std::int64_t total() const { return at[rows]; }
  std::int64_t length(std::int64_t row) const { return at[row + 1] - at[row]; }

  const std::int32_t* at = nullptr;
  std::int64_t rows = 0;
};

std::vector<std::int64_t> with_sizes(const at::Tensor& like, std::int64_t rows, std::int64_t places) {
  std::vector<std::int64_t> sizes = like.sizes().vec();
  sizes[0] = rows;
  sizes[1] = places;
  return sizes;
}

}  // namespace

at::Tensor row_offsets(const at::Tensor& batch, std::int64_t symbol) {
  TORCH_CHECK(batch.dim() >= 2 && batch.size(0) * batch.size(1) <= INT32_MAX,
              "torchpool::row_offsets: expected a batch of rows and places, got ", batch.sizes());
  at::Tensor offsets = at::empty({batch.size(0) + 1}, at::kInt);
  auto* to = offsets.mutable_data_ptr<std::int32_t>();
  *to = 0;
  for (const std::int64_t length : RowLengths::of(symbol, batch.size(0), batch.size(1))) {
    to[1] = to[0] + static_cast<std::int32_t>(length);
    ++to;
  }
  return offsets;
}

at::Tensor pack_rows(const at::Tensor& batch, const at::Tensor& offsets) {
  const Offsets own(offsets);
  TORCH_CHECK(batch.dim() >= 2 && batch.size(0) == own.rows, "torchpool::pack_rows: expected ", own.rows, " rows, got ",
              batch.sizes());
  if (own.total() == batch.size(0) * batch.size(1)) return batch.reshape(with_sizes(batch, 1, own.total()));
  at::Tensor packed = at::empty(with_sizes(batch, 1, own.total()), batch.options());
  for (std::int64_t row = 0; row < own.rows; ++row) {
    packed.narrow(1, own.at[row], own.length(row)).copy_(batch.narrow(0, row, 1).narrow(1, 0, own.length(row)));
  }
  return packed;
}

at::Tensor unpack_rows(const at::Tensor& packed, const at::Tensor& offsets, const at::Tensor& like) {
  const Offsets own(offsets);
  TORCH_CHECK(packed.dim() >= 2 && packed.size(0) == 1 && packed.size(1) == own.total() && like.dim() >= 2 &&
                  like.size(0) == own.rows,
              "torchpool::unpack_rows: expected ", own.total(), " places of ", own.rows, " rows, got ", packed.sizes(),
              " for ", like.sizes());
  const std::int64_t places = like.size(1);
  if (own.total() == own.rows * places) return packed.reshape(with_sizes(packed, own.rows, places));
  at::Tensor batch = at::empty(with_sizes(packed, own.rows, places), packed.options());
  for (std::int64_t row = 0; row < own.rows; ++row) {
    const std::int64_t length = own.length(row);
    const at::Tensor to = batch.narrow(0, row, 1);
    to.narrow(1, 0, length).copy_(packed.narrow(1, own.at[row], length));
    to.narrow(1, length, places - length).zero_();
  }
  return batch;
}

TORCH_LIBRARY_FRAGMENT(torchpool, library) {
  library.def("row_offsets(Tensor batch, int symbol) -> Tensor");
  library.def("pack_rows(Tensor batch, Tensor offsets) -> Tensor");
  library.def("unpack_rows(Tensor packed, Tensor offsets, Tensor like) -> Tensor");
}

TORCH_LIBRARY_IMPL(torchpool, CPU, library) {
  library.impl("row_offsets", &row_offsets);
  library.impl("pack_rows", &pack_rows);
  library.impl("unpack_rows", &unpack_rows);
}

}  // namespace torchpool::kernels
