#include "predict/weights/weight_watch.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <iterator>
#include <utility>

#include "predict/batch/hash.h"

namespace torchpool {

namespace {

constexpr std::uint64_t kWord = sizeof(std::uint64_t);
constexpr std::size_t kLine = 64;  // bytes of a line of cache

// A detached tensor on the same memory with the same version counter.
at::Tensor make_handle(const at::Tensor& live) {
  const c10::TensorImpl& impl = *live.unsafeGetTensorImpl();
  if (impl.is_python_dispatch() || !live.has_storage()) return live;
  return at::Tensor(impl.shallow_copy_and_detach(impl.version_counter(), /*allow_tensor_metadata_change=*/false));
}

// Its bytes can be read here.
bool has_readable_memory(const at::Tensor& handle) {
  const c10::TensorImpl& impl = *handle.unsafeGetTensorImpl();
  if (impl.is_python_dispatch() || !handle.has_storage() || !handle.is_cpu()) return false;
  return impl.layout() == c10::kStrided && !impl.has_symbolic_sizes_strides() && handle.numel() > 0;
}

std::int64_t offset_of_element(const at::Tensor& tensor, std::int64_t index) {
  std::int64_t offset = tensor.storage_offset();
  for (std::int64_t dim = tensor.dim() - 1; dim >= 0; --dim) {
    offset += index % tensor.size(dim) * tensor.stride(dim);
    index /= tensor.size(dim);
  }
  return offset;
}

void prefetch(const void* begin, std::size_t bytes) noexcept {
  const auto* line = static_cast<const char*>(begin);
  for (std::size_t at = 0; at < bytes; at += kLine) __builtin_prefetch(line + at);
}

template <typename T>
void prefetch_all(const std::vector<T>& values) noexcept {
  prefetch(values.data(), values.size() * sizeof(T));
}

void wait_for_earlier_reads() noexcept {
#if defined(__x86_64__)
  __builtin_ia32_lfence();
#endif
}

// Anywhere in [0, range), another place for each number.
std::uint64_t scattered(std::uint64_t number, std::uint64_t range) {
  return ((number + 1) * kGoldenRatio >> 32) * range >> 32;
}

}  // namespace

WeightWatch::WeightWatch(std::vector<at::Tensor> live) : live_(std::move(live)) {
  handles_.reserve(live_.size());
  watched_.resize(live_.size());
  for (std::size_t i = 0; i < live_.size(); ++i) {
    handles_.push_back(make_handle(live_[i]));
    Watched& watched = watched_[i];
    watched.version = handles_[i].unsafeGetTensorImpl()->version_counter();
    watched.first_sample = static_cast<std::uint32_t>(samples_.size());
    if (has_readable_memory(handles_[i])) {
      watched.storage = handles_[i].unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl();
      watched.needs_bytes = watched.storage->nbytes();
      add_samples(handles_[i], watched.needs_bytes);
    }
    watched.end_sample = static_cast<std::uint32_t>(samples_.size());
  }
}

// [at, at + size), at most a word, read as a whole word that lies in the storage.
void WeightWatch::add_sample(std::uint64_t at, std::uint64_t size, std::uint64_t storage_bytes) {
  size = std::min(size, kWord);
  const std::uint64_t from = storage_bytes < kWord ? 0 : std::min(at, storage_bytes - kWord);
  samples_.push_back({.at = from, .skip = at - from, .size = size});
}

void WeightWatch::add_samples(const at::Tensor& handle, std::uint64_t storage_bytes) {
  const auto item = static_cast<std::uint64_t>(handle.element_size());
  const auto elements = static_cast<std::uint64_t>(handle.numel());
  const std::uint64_t bytes = elements * item;
  const bool dense = handle.is_non_overlapping_and_dense();
  // Of a dense tensor a unit is a word of its bytes, in whatever order its dims lie; of another one, an element.
  const std::uint64_t size = dense ? kWord : item;
  const std::uint64_t units = dense ? (bytes + kWord - 1) / kWord : elements;
  const auto add = [&](std::uint64_t unit) {
    if (dense) {
      const std::uint64_t begin = static_cast<std::uint64_t>(handle.storage_offset()) * item;
      add_sample(begin + unit * kWord, std::min(size, bytes - unit * kWord), storage_bytes);
    } else {
      const auto offset = offset_of_element(handle, static_cast<std::int64_t>(unit));
      add_sample(static_cast<std::uint64_t>(offset) * item, size, storage_bytes);
    }
  };
  if (bytes <= kReadWhole) {
    for (std::uint64_t unit = 0; unit < units; ++unit) add(unit);
    return;
  }
  add(0);
  for (std::size_t i = 0; i < kInside && bytes >= kReadInside; ++i) add(scattered(bytes + i, units));
  add(units - 1);
}

WeightChange WeightWatch::form_change() const noexcept {
  WeightChange change = WeightChange::kSame;
  for (std::size_t i = 0; i < live_.size(); ++i) {
    const c10::TensorImpl& live = *live_[i].unsafeGetTensorImpl();
    const c10::TensorImpl& handle = *handles_[i].unsafeGetTensorImpl();
    if (&live == &handle) continue;
    if (live.key_set() != handle.key_set() || live.dtype() != handle.dtype() || live.sizes() != handle.sizes() ||
        live.strides() != handle.strides()) {
      return WeightChange::kMeta;
    }
    if (live.unsafe_storage().unsafeGetStorageImpl() != handle.unsafe_storage().unsafeGetStorageImpl() ||
        live.storage_offset() != handle.storage_offset()) {
      change = WeightChange::kValues;
    }
  }
  return change;
}

std::uint32_t WeightWatch::version_of(const Watched& watched) noexcept {
  return watched.version.enabled() ? watched.version.current_version() : 0;  // inference tensors have none
}

const char* WeightWatch::memory_of(const Watched& watched) noexcept {
  const auto* data = static_cast<const char*>(watched.storage->_mutable_data_ptr_no_checks().get());
  return watched.storage->nbytes() < watched.needs_bytes ? nullptr : data;
}

std::uint64_t WeightWatch::hash_of(const Watched& watched) const noexcept {
  if (watched.storage == nullptr) return 0;
  const char* data = memory_of(watched);
  if (data == nullptr) return 1;
  std::uint64_t hash = 2;
  for (std::size_t i = watched.first_sample; i < watched.end_sample; ++i) {
    const Sample sample = samples_[i];
    std::uint64_t word = 0;
    if (watched.needs_bytes >= kWord) {
      std::memcpy(&word, data + sample.at, kWord);
    } else {
      std::memcpy(&word, data, watched.needs_bytes);
    }
    static_assert(std::endian::native == std::endian::little);
    word = word >> 8 * sample.skip << 8 * (kWord - sample.size);
    hash = add_word_quickly(hash, word);
  }
  return hash;
}

// See Note [A look at cold weights].
void WeightWatch::prefetch(const WeightFingerprint& before) const noexcept {
  prefetch_all(watched_);
  prefetch_all(samples_);
  prefetch_all(before.versions);
  prefetch_all(before.samples);
  for (const Watched& watched : watched_) {
    if (watched.storage != nullptr) torchpool::prefetch(watched.storage, sizeof(*watched.storage));
  }
  wait_for_earlier_reads();
  for (const Watched& watched : watched_) {
    if (watched.storage == nullptr) continue;
    const auto* data = static_cast<const char*>(watched.storage->_mutable_data_ptr_no_checks().get());
    for (std::size_t i = watched.first_sample; i < watched.end_sample; ++i) __builtin_prefetch(data + samples_[i].at);
  }
}

WeightFingerprint WeightWatch::take() const {
  WeightFingerprint now;
  now.versions.reserve(watched_.size());
  now.samples.reserve(watched_.size());
  for (const Watched& watched : watched_) {
    now.versions.push_back(version_of(watched));
    now.samples.push_back(hash_of(watched));
  }
  return now;
}

bool WeightWatch::same(const WeightFingerprint& before) const noexcept {
  if (before.versions.size() != watched_.size()) return false;
  prefetch(before);
  std::uint64_t different = 0;  // without branches, so that the reads overlap
  for (std::size_t i = 0; i < watched_.size(); ++i) {
    different |= (version_of(watched_[i]) ^ before.versions[i]) | (hash_of(watched_[i]) ^ before.samples[i]);
  }
  return different == 0;
}

std::vector<at::Tensor> WeightWatch::release() && {
  std::vector<at::Tensor> all = std::move(live_);
  std::move(handles_.begin(), handles_.end(), std::back_inserter(all));
  handles_.clear();
  watched_.clear();
  return all;
}

}  // namespace torchpool
