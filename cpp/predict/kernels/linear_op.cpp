#include "predict/kernels/linear_op.h"

#include <ATen/Parallel.h>
#include <ATen/ops/empty.h>
#include <torch/library.h>

#include <vector>

#include "predict/kernels/weight_arena.h"

namespace torchpool::kernels {

namespace {

Activation activation_of(std::string_view name) {
  if (name == "none") return Activation::kNone;
  if (name == "relu") return Activation::kRelu;
  if (name == "silu") return Activation::kSilu;
  if (name == "gelu") return Activation::kGelu;
  if (name == "gelu_tanh") return Activation::kGeluTanh;
  TORCH_CHECK(false, "torchpool::linear: activation '", name, "': expected none, relu, silu, gelu or gelu_tanh");
}

Norm norm_of(std::string_view name) {
  if (name == "none") return Norm::kNone;
  if (name == "layer") return Norm::kLayer;
  if (name == "rms") return Norm::kRms;
  TORCH_CHECK(false, "torchpool::linear: norm '", name, "': expected none, layer or rms");
}

Storage storage_of(std::string_view name) {
  if (name == "fp32") return Storage::kFp32;
  if (name == "bf16") return Storage::kBf16;
  if (name == "fp16") return Storage::kFp16;
  if (name == "int8") return Storage::kInt8;
  TORCH_CHECK(false, "torchpool::pack_linear: storage '", name, "': expected fp32, bf16, fp16 or int8");
}

at::ScalarType dtype_of(Storage storage) {
  switch (storage) {
    case Storage::kFp32:
      return at::kFloat;
    case Storage::kBf16:
      return at::kBFloat16;
    case Storage::kFp16:
      return at::kHalf;
    case Storage::kInt8:
      break;
  }
  return at::kChar;
}

Storage storage_of(const at::Tensor& packed) {
  for (const Storage storage : {Storage::kFp32, Storage::kBf16, Storage::kFp16, Storage::kInt8}) {
    if (packed.scalar_type() == dtype_of(storage)) return storage;
  }
  TORCH_CHECK(false, "torchpool::linear: expected the packed weight to be what torchpool::pack_linear gives, got ",
              packed.scalar_type());
}

void check_fp32(const at::Tensor& tensor, const char* name) {
  TORCH_CHECK(tensor.scalar_type() == at::kFloat && tensor.device().is_cpu() && tensor.layout() == c10::kStrided,
              "torchpool::linear: expected ", name, " to be a strided tensor of float32 on the CPU, got ",
              tensor.scalar_type(), " on ", tensor.device());
}

// A tensor as rows that lie equally far apart; a copy where they do not.
struct Rows {
  explicit Rows(const at::Tensor& given) : tensor(given) {
    if (!equally_apart(given)) tensor = given.contiguous();
    const std::int64_t last = tensor.dim() - 1;
    for (std::int64_t dim = last - 1; dim >= 0 && stride == 0; --dim) {
      if (tensor.size(dim) != 1) stride = tensor.stride(dim);
    }
    if (stride == 0) stride = tensor.size(last);
  }

  static bool equally_apart(const at::Tensor& tensor) {
    const std::int64_t last = tensor.dim() - 1;
    if (tensor.stride(last) != 1 && tensor.size(last) != 1) return false;
    std::int64_t expected = -1;  // any, for the innermost dim of rows
    for (std::int64_t dim = last - 1; dim >= 0; --dim) {
      if (tensor.size(dim) == 1) continue;
      if (expected >= 0 && tensor.stride(dim) != expected) return false;
      if (tensor.stride(dim) < 1) return false;  // one row many times
      expected = tensor.stride(dim) * tensor.size(dim);
    }
    return true;
  }

  const float* data() const { return tensor.const_data_ptr<float>(); }

  at::Tensor tensor;
  std::int64_t stride = 0;
};

const float* vector_of(const std::optional<at::Tensor>& given, std::int64_t size, const char* name, at::Tensor& kept) {
  if (!given || !given->defined()) return nullptr;
  check_fp32(*given, name);
  TORCH_CHECK(given->dim() == 1 && given->size(0) == size, "torchpool::linear: expected ", name, " of [", size,
              "], got ", given->sizes());
  kept = given->contiguous();
  return kept.const_data_ptr<float>();
}

// Both ways of splitting keep the bits. Rows read all weights in each thread, panels all rows.
void run_split(const LinearKernel& kernel, const LinearCall& call, std::int64_t rows) {
  constexpr std::int64_t kWorthwhile = 1 << 19;  // products
  constexpr std::int64_t kManyRows = 48;
  const Span all_rows{0, rows};
  const Span all_panels{0, kernel.panels(call.n)};
  const std::int64_t threads = at::in_parallel_region() ? 1 : at::get_num_threads();
  if (threads == 1 || rows * call.n * call.k < kWorthwhile) return kernel.run(call, all_rows, all_panels);
  const bool by_rows = rows >= kManyRows;
  const std::int64_t whole = by_rows ? rows : all_panels.end;
  LinearCall part_of_call = call;
  if (!by_rows) part_of_call.norm = Norm::kNone;  // a row's outputs come from several threads
  at::parallel_for(0, threads, 1, [&](std::int64_t begin, std::int64_t end) {
    const Span part{whole * begin / threads, whole * end / threads};
    if (part.begin < part.end) kernel.run(part_of_call, by_rows ? part : all_rows, by_rows ? all_panels : part);
  });
  if (!by_rows && call.norm != Norm::kNone) kernel.normalise(call, all_rows);
}

}  // namespace

const LinearKernel& present_linear_kernel() {
  static const LinearKernel& kernel = linear_kernel(chosen());
  return kernel;
}

at::Tensor pack_linear(const at::Tensor& weight, const std::optional<at::Tensor>& bias, bool transposed,
                       std::string_view storage) {
  check_fp32(weight, "the weight");
  TORCH_CHECK(weight.dim() == 2, "torchpool::pack_linear: expected a matrix, got ", weight.sizes());
  const int output_dim = transposed ? 1 : 0;
  const std::int64_t n = weight.size(output_dim);
  const std::int64_t k = weight.size(1 - output_dim);
  at::Tensor kept;
  const float* added = vector_of(bias, n, "the bias", kept);
  const LinearKernel& kernel = present_linear_kernel();
  const Storage stored = storage_of(storage);
  const at::Tensor memory = WeightArena::allocate(kernel.packed_size(n, k, stored) / std::int64_t{sizeof(float)});
  kernel.pack(weight.const_data_ptr<float>(), weight.stride(output_dim), weight.stride(1 - output_dim), added, n, k,
              stored, memory.mutable_data_ptr());
  return stored == Storage::kFp32 ? memory : memory.view(dtype_of(stored));
}

at::Tensor linear(const at::Tensor& input, const at::Tensor& packed, std::int64_t outputs, std::string_view activation,
                  const std::optional<at::Tensor>& residual, std::string_view norm,
                  const std::optional<at::Tensor>& gain, const std::optional<at::Tensor>& shift, double eps) {
  check_fp32(input, "the input");
  const Storage storage = storage_of(packed);
  const LinearKernel& kernel = present_linear_kernel();
  TORCH_CHECK(input.dim() > 0 && packed.device().is_cpu() && packed.dim() == 1 && packed.is_contiguous() &&
                  outputs > 0 &&
                  packed.numel() * packed.element_size() == kernel.packed_size(outputs, input.size(-1), storage),
              "torchpool::linear: an input of ", input.sizes(), " does not fit a weight of ", outputs,
              " outputs that was packed to ", packed.sizes());
  std::vector<std::int64_t> sizes = input.sizes().vec();
  sizes.back() = outputs;
  at::Tensor output = at::empty(sizes, input.options());
  const std::int64_t rows = output.numel() / outputs;
  if (rows == 0) return output;

  const Rows x(input);
  LinearCall call;
  call.x = x.data();
  call.x_stride = x.stride;
  call.packed = packed.const_data_ptr();
  call.storage = storage;
  call.k = input.size(-1);
  call.n = outputs;
  call.y = output.mutable_data_ptr<float>();
  call.y_stride = outputs;
  call.activation = activation_of(activation);
  std::optional<Rows> added;
  if (residual && residual->defined()) {
    check_fp32(*residual, "the residual");
    TORCH_CHECK(residual->sizes() == output.sizes(), "torchpool::linear: expected a residual of ", output.sizes(),
                ", got ", residual->sizes());
    added.emplace(*residual);
    call.residual = added->data();
    call.residual_stride = added->stride;
  }
  call.norm = norm_of(norm);
  at::Tensor kept_gain;
  at::Tensor kept_shift;
  call.gain = vector_of(gain, outputs, "the norm's weight", kept_gain);
  call.shift = vector_of(shift, outputs, "the norm's bias", kept_shift);
  call.eps = static_cast<float>(eps);
  run_split(kernel, call, rows);
  return output;
}

TORCH_LIBRARY_FRAGMENT(torchpool, library) {
  library.def("pack_linear(Tensor weight, Tensor? bias=None, bool transposed=False, str storage=\"fp32\") -> Tensor");
  library.def(
      "linear(Tensor input, Tensor packed, int outputs, str activation=\"none\", Tensor? residual=None, "
      "str norm=\"none\", Tensor? gain=None, Tensor? shift=None, float eps=0.0) -> Tensor");
}

TORCH_LIBRARY_IMPL(torchpool, CPU, library) {
  library.impl("pack_linear", &pack_linear);
  library.impl("linear", &linear);
}

}  // namespace torchpool::kernels
