// torchpool::attention_keys and torchpool::varlen_attention, the operators that graphs compute attention with.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>

#include "predict/kernels/attention.h"

namespace torchpool::kernels {

// What varlen_attention() computes with: the kernel of chosen().
const AttentionKernel& present_attention_kernel();

// Which keys each row of a batch attends to, by a mask that may be broadcast to [batch, heads, queries, keys]. Where it
// says the same for all heads and queries, int32 [rows, 1 + keys]: how many, and then which; one row where it is the
// same for all. An empty tensor for any other mask. Bool: True is attended to. float32: so is 0; what is so low that
// nothing of ordinary size beside it counts is not, and with any other number the mask is none of keys.
at::Tensor attention_keys(const at::Tensor& mask);

// softmax(query @ key.T * scale + mask) @ value of [batch, heads, places, size], as
// scaled_dot_product_attention computes it. `keys`: of the mask; null without one. Each row of the batch is computed
// over the keys that it attends to, and its bits depend on no other row. ATen computes what the kernel does not take,
// all of it where `keys` is empty, else the rows that attend to nothing, or have what is not finite at keys that they
// do not attend to: there the numbers of the mask count. `eager`: as matmul and softmax do it. `alike`: what is not
// finite at a place is so in all heads of it. `offsets`: of row_offsets, for [1, heads, packed places, size] of rows
// that lie side by side; mask and keys are of the padded ones. Throws c10::Error for what does not fit together.
at::Tensor varlen_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& keys,
                            bool is_causal, std::optional<double> scale, bool eager, bool alike,
                            const std::optional<at::Tensor>& offsets);

}  // namespace torchpool::kernels
