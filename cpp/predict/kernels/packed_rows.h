// torchpool::row_offsets, pack_rows and unpack_rows: the places of a padded batch that hold something, side by side.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>

namespace torchpool::kernels {

// Of a batch [rows, places, ...] that is padded along a symbol of the contract: int32 [rows + 1], where each row begins
// among the packed places, and how many there are. No place is padded where a thread runs none of RowLengths.
at::Tensor row_offsets(const at::Tensor& batch, std::int64_t symbol);

// [rows, places, ...] -> [1, packed places, ...]. A view where no place is padded.
at::Tensor pack_rows(const at::Tensor& batch, const at::Tensor& offsets);

// And back, to the sizes of `like`, [rows, places, ...]; padded places hold zeros.
at::Tensor unpack_rows(const at::Tensor& packed, const at::Tensor& offsets, const at::Tensor& like);

}  // namespace torchpool::kernels
