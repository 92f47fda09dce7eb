#include "predict/kernels/attention_op.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/matmul.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/softmax.h>
#include <torch/library.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <iterator>
#include <memory>
#include <vector>

namespace torchpool::kernels {

namespace {

// Beside a score of ordinary size such a one gets no weight.
constexpr float kLow = -1e9F;

bool is_kept(bool given) {
  return given;
}
bool is_kept(float given) {
  return given == 0;
}
bool is_known(bool /*given*/) {
  return true;
}
bool is_known(float given) {
  return given == 0 || given <= kLow;
}

// mask: [rows, heads, queries, keys], the last dim contiguous. Whether all heads and queries of a row are as its first.
template <class T>
bool read_keys(const at::Tensor& mask, std::int32_t* found) {
  const std::int64_t keys = mask.size(3);
  const T* data = mask.const_data_ptr<T>();
  for (std::int64_t row = 0; row < mask.size(0); ++row, found += keys + 1) {
    const T* first = data + row * mask.stride(0);
    std::int32_t count = 0;
    for (std::int64_t key = 0; key < keys; ++key) {
      if (!is_known(first[key])) return false;
      if (is_kept(first[key])) found[++count] = static_cast<std::int32_t>(key);
    }
    found[0] = count;
    for (std::int64_t head = 0; head < (mask.stride(1) == 0 ? 1 : mask.size(1)); ++head) {
      for (std::int64_t query = 0; query < (mask.stride(2) == 0 ? 1 : mask.size(2)); ++query) {
        const T* other = first + head * mask.stride(1) + query * mask.stride(2);
        if (std::memcmp(first, other, static_cast<std::size_t>(keys) * sizeof(T)) != 0) return false;
      }
    }
  }
  return true;
}

// Memory of this thread, that calls after each other use.
float* scratch_of(std::int64_t floats) {
  constexpr std::int64_t kAlignment = 16;  // floats
  constexpr std::size_t kKept = 1 << 20;   // floats; what is larger is given back by a later call
  static thread_local std::vector<float> memory;
  const auto size = static_cast<std::size_t>(floats + kAlignment);
  if (memory.size() < size || (memory.size() > kKept && size <= kKept)) {
    std::vector<float>().swap(memory);
    memory.resize(size);
  }
  const auto at = reinterpret_cast<std::uintptr_t>(memory.data());
  constexpr std::uintptr_t kBytes = kAlignment * sizeof(float);
  return memory.data() + (kBytes - at % kBytes) % kBytes / sizeof(float);
}

at::Tensor with_dense_rows(const at::Tensor& tensor) {
  return tensor.stride(3) == 1 || tensor.size(3) == 1 ? tensor : tensor.contiguous();
}

bool takes(const at::Tensor& tensor) {
  return tensor.dim() == 4 && tensor.scalar_type() == at::kFloat && tensor.device().is_cpu() &&
         tensor.layout() == c10::kStrided;
}

// One call of the operator.
struct Attended {
  at::Tensor query;
  at::Tensor key;
  at::Tensor value;
  std::optional<at::Tensor> mask;
  bool is_causal;
  double scale;
  bool eager;
  bool alike;
  const std::int32_t* offsets = nullptr;  // null: rows are padded
  std::int64_t packed_rows = 0;

  bool is_packed() const { return offsets != nullptr; }
  std::int64_t rows() const { return is_packed() ? packed_rows : query.size(0); }
  std::int64_t heads() const { return query.size(1); }
  std::int64_t first(std::int64_t row) const { return is_packed() ? offsets[row] : 0; }
  std::int64_t queries(std::int64_t row) const { return is_packed() ? first(row + 1) - first(row) : query.size(2); }
  std::int64_t places(std::int64_t row) const { return is_packed() ? queries(row) : key.size(2); }
  std::int64_t size() const { return query.size(3); }

  bool fits() const {
    if (!takes(query) || !takes(key) || !takes(value)) return false;
    const bool heads_fit = key.size(1) > 0 && heads() % key.size(1) == 0 && value.size(1) == key.size(1);
    return query.numel() > 0 && key.numel() > 0 && key.size(0) == query.size(0) && heads_fit && key.size(3) == size() &&
           value.sizes() == key.sizes() && size() % 8 == 0 && scale > 0 && std::isfinite(scale) &&
           !(is_causal && (mask || query.size(2) != key.size(2))) && key.size(2) <= INT32_MAX;
  }

  Attended row(std::int64_t row) const {
    Attended one = *this;
    one.offsets = nullptr;
    for (at::Tensor* tensor : {&one.query, &one.key, &one.value}) {
      *tensor = is_packed() ? tensor->narrow(2, first(row), queries(row)) : tensor->narrow(0, row, 1);
    }
    if (!mask) return one;
    if (mask->dim() == 4 && mask->size(0) > 1) one.mask = one.mask->narrow(0, row, 1);
    for (std::int64_t dim = std::max<std::int64_t>(mask->dim() - 2, 0); is_packed() && dim < mask->dim(); ++dim) {
      if (mask->size(dim) > 1) one.mask = one.mask->narrow(dim, 0, queries(row));
    }
    return one;
  }

  at::Tensor by_aten() const {
    if (!eager) {
      const bool grouped = key.dim() == 4 && query.dim() == 4 && key.size(1) != query.size(1);
      return at::scaled_dot_product_attention(query, key, value, mask, 0.0, is_causal, scale, grouped);
    }
    at::Tensor scores = at::matmul(query, key.transpose(-2, -1)).mul_(scale);
    if (mask) scores = scores.add(*mask);
    return at::matmul(at::softmax(scores, -1), value);
  }
};

// Whether the places of a head that are not among the keys hold nothing but finite numbers.
bool others_are_finite(const float* from, std::int64_t stride, std::int64_t size, std::int64_t places,
                       const std::int32_t* key, std::int64_t keys) {
  float lanes[8] = {};
  std::int64_t next = 0;
  for (std::int64_t place = 0; place < places; ++place) {
    if (next < keys && key[next] == place) {
      ++next;
      continue;
    }
    const float* row = from + place * stride;
    for (std::int64_t i = 0; i < size; i += 8) {
      for (int lane = 0; lane < 8; ++lane) lanes[lane] += row[i + lane] * 0.0F;
    }
  }
  return std::all_of(std::begin(lanes), std::end(lanes), [](float lane) { return lane == 0; });
}

// Of one head of one row: over all its keys.
AttentionHead head_of(const Attended& call, float* out, std::int64_t row, std::int64_t number) {
  const std::int64_t shared = number / (call.heads() / call.key.size(1));
  const auto at = [&](const at::Tensor& tensor, std::int64_t head) {
    const std::int64_t begin = call.is_packed() ? call.first(row) * tensor.stride(2) : row * tensor.stride(0);
    return tensor.const_data_ptr<float>() + begin + head * tensor.stride(1);
  };
  const std::int64_t before = call.is_packed() ? call.first(row) : row * call.queries(row);
  AttentionHead head;
  head.q = at(call.query, number);
  head.q_stride = call.query.stride(2);
  head.k = at(call.key, shared);
  head.k_stride = call.key.stride(2);
  head.v = at(call.value, shared);
  head.v_stride = call.value.stride(2);
  head.out = out + (before * call.heads() + number) * call.size();
  head.out_stride = call.heads() * call.size();
  head.queries = call.queries(row);
  head.keys = call.places(row);
  head.size = call.size();
  head.scale = static_cast<float>(call.scale);
  head.causal = call.is_causal;
  return head;
}

// The keys that a call's mask leaves, of each row.
struct KeptKeys {
  const std::int32_t* of(std::int64_t row) const { return data + row * stride; }

  const std::int32_t* data = nullptr;  // null: all
  std::int64_t stride = 0;
};

// Whether it is computed. If not, the numbers of its mask count.
bool compute_head(const Attended& call, const KeptKeys& kept, float* out, std::int64_t row, std::int64_t number,
                  float* scratch) {
  AttentionHead head = head_of(call, out, row, number);
  if (kept.data != nullptr) {
    const std::int64_t places = head.keys;
    const std::int32_t* own = kept.of(row);
    head.key = own + 1;
    head.keys = std::lower_bound(head.key, head.key + own[0], places) - head.key;
    if (head.keys == places) {
      head.key = nullptr;
    } else {
      const auto finite = [&](const float* from, std::int64_t stride) {
        return others_are_finite(from, stride, head.size, places, head.key, head.keys);
      };
      const bool looked_at = call.alike && number > 0;  // in the first head
      if (head.keys == 0) return false;
      if (!looked_at && !(finite(head.k, head.k_stride) && finite(head.v, head.v_stride))) return false;
    }
  }
  present_attention_kernel().run(head, scratch);
  return true;
}

// Fills `out`, [rows, queries, heads, size], but for the rows that it marks.
void compute(const Attended& call, const KeptKeys& kept, float* out, std::vector<std::atomic<bool>>& left) {
  std::int64_t most = 0;
  std::int64_t pairs = 0;  // of queries and keys
  for (std::int64_t row = 0; row < call.rows(); ++row) {
    most = std::max(most, call.places(row));
    pairs += call.queries(row) * call.places(row);
  }
  const std::int64_t items = call.rows() * call.heads();
  const auto run = [&](std::int64_t begin, std::int64_t end) {
    float* const scratch = scratch_of(present_attention_kernel().scratch_size(most, call.size()));
    for (std::int64_t item = begin; item < end; ++item) {
      const std::int64_t row = item / call.heads();
      if (call.places(row) == 0 || compute_head(call, kept, out, row, item % call.heads(), scratch)) continue;
      left[static_cast<std::size_t>(row)].store(true, std::memory_order_relaxed);
    }
  };
  constexpr std::int64_t kWorthwhile = 1 << 19;  // products
  const std::int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (threads == 1 || pairs * call.heads() * call.size() * 2 < kWorthwhile) return run(0, items);
  at::parallel_for(0, items, std::max<std::int64_t>(1, (items + threads - 1) / threads), run);
}

}  // namespace

const AttentionKernel& present_attention_kernel() {
  static const AttentionKernel& kernel = attention_kernel(chosen());
  return kernel;
}

at::Tensor attention_keys(const at::Tensor& mask) {
  at::Tensor none = at::empty({0}, at::kInt);
  const bool is_bool = mask.scalar_type() == at::kBool;
  if (mask.dim() == 0 || mask.dim() > 4 || mask.numel() == 0 || mask.size(-1) > INT32_MAX) return none;
  if ((!is_bool && mask.scalar_type() != at::kFloat) || !mask.device().is_cpu()) return none;
  at::Tensor whole = mask;
  while (whole.dim() < 4) whole = whole.unsqueeze(0);
  if (whole.stride(3) != 1) whole = whole.contiguous();
  at::Tensor found = at::empty({whole.size(0), whole.size(3) + 1}, at::kInt);
  auto* to = found.mutable_data_ptr<std::int32_t>();
  return (is_bool ? read_keys<bool>(whole, to) : read_keys<float>(whole, to)) ? found : none;
}

at::Tensor varlen_attention(const at::Tensor& query, const at::Tensor& key, const at::Tensor& value,
                            const std::optional<at::Tensor>& mask, const std::optional<at::Tensor>& keys,
                            bool is_causal, std::optional<double> scale, bool eager, bool alike,
                            const std::optional<at::Tensor>& offsets) {
  const double given_scale = scale.value_or(1.0 / std::sqrt(static_cast<double>(query.size(-1))));
  Attended call{query, key, value, mask, is_causal, given_scale, eager, alike};
  if (offsets) {
    TORCH_CHECK(
        offsets->dim() == 1 && offsets->size(0) > 0 && offsets->scalar_type() == at::kInt && offsets->is_contiguous(),
        "torchpool::varlen_attention: expected offsets as row_offsets gives them");
    call.offsets = offsets->const_data_ptr<std::int32_t>();
    call.packed_rows = offsets->size(0) - 1;
  }
  const bool fits = call.fits();
  if (call.is_packed()) {
    TORCH_CHECK((fits || query.numel() == 0) && query.size(0) == 1 && query.size(2) == key.size(2) &&
                    call.first(call.rows()) == query.size(2),
                "torchpool::varlen_attention: expected packed rows of ", call.first(call.rows()), " places, got ",
                query.sizes(), " and ", key.sizes());
  } else if (!fits) {
    return call.by_aten();
  }
  KeptKeys kept;
  bool by_mask = false;  // it says more than which keys there are
  at::Tensor of_mask;
  if (mask) {
    of_mask = keys ? *keys : attention_keys(*mask);
    TORCH_CHECK(of_mask.scalar_type() == at::kInt && of_mask.is_contiguous(),
                "torchpool::varlen_attention: expected the keys of the mask, as attention_keys gives them");
    by_mask = of_mask.dim() != 2 || (of_mask.size(0) != 1 && of_mask.size(0) != call.rows()) ||
              (!call.is_packed() && of_mask.size(1) != call.places(0) + 1);
    if (by_mask && !call.is_packed()) return call.by_aten();
    if (!by_mask) kept = {of_mask.const_data_ptr<std::int32_t>(), of_mask.size(0) == 1 ? 0 : of_mask.size(1)};
  }
  call.query = with_dense_rows(query);
  call.key = with_dense_rows(key);
  call.value = with_dense_rows(value);
  // As ATen lays it out: the heads of a place lie together.
  at::Tensor out = at::empty({query.size(0), query.size(2), call.heads(), call.size()}, query.options());
  std::vector<std::atomic<bool>> left(static_cast<std::size_t>(call.rows()));
  if (!by_mask) compute(call, kept, out.mutable_data_ptr<float>(), left);
  const at::Tensor result = out.transpose(1, 2);
  for (std::int64_t row = 0; row < call.rows(); ++row) {
    if (call.places(row) == 0) continue;
    if (by_mask || left[static_cast<std::size_t>(row)].load(std::memory_order_relaxed)) {
      const at::Tensor to =
          call.is_packed() ? result.narrow(2, call.first(row), call.queries(row)) : result.narrow(0, row, 1);
      to.copy_(call.row(row).by_aten());
    }
  }
  return result;
}

TORCH_LIBRARY_FRAGMENT(torchpool, library) {
  library.def("attention_keys(Tensor mask) -> Tensor");
  library.def(
      "varlen_attention(Tensor query, Tensor key, Tensor value, Tensor? mask=None, Tensor? keys=None, "
      "bool is_causal=False, float? scale=None, bool eager=False, bool alike=False, Tensor? offsets=None) -> Tensor");
}

TORCH_LIBRARY_IMPL(torchpool, CPU, library) {
  library.impl("attention_keys", &attention_keys);
  library.impl("varlen_attention", &varlen_attention);
}

}  // namespace torchpool::kernels
