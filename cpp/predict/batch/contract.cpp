#include "predict/batch/contract.h"

#include <c10/util/StringUtil.h>

#include <atomic>
#include <cstring>

#include "predict/batch/hash.h"
#include "predict/weights/probed_weights.h"

namespace torchpool {

namespace {

// Shared inputs up to this size are compared by content, larger ones by identity (address and version). The same bound
// up to which submitted inputs are copied: a copy's original may be gone and its address used again.
constexpr std::int64_t kCompareContentBytes = std::int64_t{64} << 10;

// Two independent 64-bit hashes make a 128-bit key: at a billion distinct keys the chance that any two agree is below
// 1e-20.
class KeyHasher {
 public:
  void add(std::uint64_t value) noexcept {
    high_ = add_word(high_, value);
    low_ = mix_bits(low_ + (value ^ 0xd1b54a32d192ed03ULL) * 0xff51afd7ed558ccdULL);
  }
  void add_bytes(const void* data, std::size_t size) noexcept {
    const auto* bytes = static_cast<const unsigned char*>(data);
    add(size);
    for (std::size_t at = 0; at < size; at += sizeof(std::uint64_t)) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes + at, std::min(sizeof word, size - at));
      add(word);
    }
  }
  MergeKey key() const noexcept { return {high_, low_}; }

 private:
  std::uint64_t high_ = 0x243f6a8885a308d3ULL;
  std::uint64_t low_ = 0x13198a2e03707344ULL;
};

std::string describe(const InputSpec& spec) {
  return "input '" + spec.name + "'";
}

void add_shared_input(KeyHasher& hasher, const at::Tensor& tensor) {
  for (const auto size : tensor.sizes()) hasher.add(static_cast<std::uint64_t>(size));
  const auto bytes = static_cast<std::int64_t>(tensor.nbytes());
  if (bytes <= kCompareContentBytes && tensor.is_cpu()) {
    const at::Tensor dense = tensor.contiguous();
    hasher.add_bytes(dense.const_data_ptr(), static_cast<std::size_t>(bytes));
    return;
  }
  hasher.add(reinterpret_cast<std::uintptr_t>(tensor.const_data_ptr()));
  hasher.add(tensor.is_inference() ? 0 : static_cast<std::uint64_t>(tensor._version()));
  for (const auto stride : tensor.strides()) hasher.add(static_cast<std::uint64_t>(stride));
}

}  // namespace

std::uint64_t Contract::next_identity() noexcept {
  static std::atomic<std::uint64_t> next{1};
  return next.fetch_add(1, std::memory_order_relaxed);
}

std::optional<Mismatch> Contract::fit(const std::vector<at::Tensor>& call, CallShape& shape) const {
  using Kind = Mismatch::Kind;
  std::int64_t rows = -1;
  std::size_t rows_from = 0;
  shape.lengths.assign(padded.size(), -1);
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const InputSpec& spec = inputs[i];
    const at::Tensor& tensor = call[i];
    if (tensor.scalar_type() != spec.dtype) {
      return Mismatch{
          Kind::kDtype, i, 0,
          c10::str(describe(spec), " has dtype ", tensor.dtype().name(), ", expected ", c10::toString(spec.dtype))};
    }
    if (tensor.device() != spec.device) {
      return Mismatch{Kind::kDevice, i, 0,
                      c10::str(describe(spec), " is on device ", tensor.device(), ", expected ", spec.device)};
    }
    if (tensor.dim() != static_cast<std::int64_t>(spec.sizes.size())) {
      return Mismatch{Kind::kRank, i, 0,
                      c10::str(describe(spec), " has ", tensor.dim(), " dims (shape ", tensor.sizes(), "), expected ",
                               spec.sizes.size())};
    }
    for (std::size_t d = 0; d < spec.sizes.size(); ++d) {
      const std::int64_t size = tensor.size(static_cast<std::int64_t>(d));
      const DimSpec& dim = spec.sizes[d];
      const auto mismatch = [&](Kind kind, const auto&... what) {
        return Mismatch{
            kind, i, static_cast<std::int64_t>(d),
            c10::str(describe(spec), " has size ", size, " in dim ", d, " (shape ", tensor.sizes(), "), ", what...)};
      };
      switch (dim.kind) {
        case DimSpec::Kind::kFixed:
          if (size != dim.value) return mismatch(Kind::kFixedDim, "expected ", dim.value);
          break;
        case DimSpec::Kind::kBatch:
          if (size == 0) return mismatch(Kind::kEmpty, "expected at least one row");
          if (rows < 0) {
            rows = size;
            rows_from = i;
          } else if (rows != size) {
            return mismatch(Kind::kUnequalRows, "expected ", rows, " rows as in input '", inputs[rows_from].name, "'");
          }
          break;
        case DimSpec::Kind::kSymbol: {
          std::int64_t& length = shape.lengths[static_cast<std::size_t>(dim.value)];
          if (size == 0) return mismatch(Kind::kEmpty, "expected at least 1");
          if (length < 0) {
            length = size;
          } else if (length != size) {
            return mismatch(Kind::kUnequalLength, "expected ", length, " as in the inputs before it");
          }
          break;
        }
      }
    }
  }
  shape.rows = rows < 0 ? 1 : rows;
  for (auto& length : shape.lengths) length = std::max<std::int64_t>(length, 0);
  return std::nullopt;
}

RequestInfo Contract::request_info(const std::vector<at::Tensor>& call, const CallShape& shape,
                                   std::uint64_t ambient) const {
  KeyHasher hasher;
  hasher.add(identity);
  hasher.add(ambient);
  RequestInfo info;
  info.rows = shape.rows;
  info.extent = shape.extent();
  // Where lengths are mixed, it must be said how much of what is left over belongs to a shorter call.
  const bool open = std::any_of(outputs.begin(), outputs.end(),
                                [](const OutputSpec& spec) { return spec.open() && !spec.cuts_the_fold(); });
  const bool pads = !open && !(padded_with && padded_with->changed());
  for (std::size_t symbol = 0; symbol < padded.size(); ++symbol) {
    if (padded[symbol] && pads) {
      info.length += shape.lengths[symbol];
    } else {
      hasher.add(static_cast<std::uint64_t>(shape.lengths[symbol]));
    }
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    info.bytes += static_cast<std::int64_t>(call[i].nbytes());
    if (!inputs[i].batch_dim) add_shared_input(hasher, call[i]);
  }
  info.key = hasher.key();
  return info;
}

}  // namespace torchpool
