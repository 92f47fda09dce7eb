#include "predict/graph/packed_weight.h"

#include <c10/core/InferenceMode.h>
#include <c10/util/StringUtil.h>
#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <optional>
#include <utility>

#include "predict/batch/hash.h"

namespace torchpool::graph {

namespace {

// Its memory is all of it: what it holds can be told by its bytes, and which it is by the memory's address.
bool can_be_shared(const at::Tensor& tensor) {
  const c10::TensorImpl& impl = *tensor.unsafeGetTensorImpl();
  return !impl.is_python_dispatch() && tensor.is_cpu() && impl.layout() == c10::kStrided && tensor.has_storage() &&
         !impl.has_symbolic_sizes_strides() && tensor.is_non_overlapping_and_dense();
}

// Empty where the results belong to one backend only.
std::string key_of(const Fold& fold, const std::vector<at::Tensor>& live, const std::vector<at::Tensor>& handles) {
  if (fold.text.empty()) return {};
  std::string key = fold.text;
  for (std::size_t i = 0; i < handles.size(); ++i) {
    const at::Tensor& handle = handles[i];
    if (!can_be_shared(handle)) return {};
    // The live tensor tells whose version counts, the rest what is computed with: `p.data =` changes only that.
    key += c10::str("\n", static_cast<const void*>(live[i].unsafeGetTensorImpl()), ' ',
                    static_cast<const void*>(handle.unsafeGetTensorImpl()->unsafe_storage().unsafeGetStorageImpl()),
                    ' ', handle.storage_offset(), ' ', handle.key_set(), ' ', handle.scalar_type(), ' ', handle.sizes(),
                    ' ', handle.strides());
  }
  return key;
}

// As fast as memory is read: four chains, so that none waits for another.
std::uint64_t hash_bytes(const char* data, std::size_t size, std::uint64_t seed) {
  constexpr std::size_t kChains = 4;
  std::uint64_t chains[kChains] = {seed, seed + 1, seed + 2, seed + 3};
  std::uint64_t words[kChains] = {};
  for (; size > 0; data += std::min(size, sizeof(words)), size -= std::min(size, sizeof(words))) {
    if (size < sizeof(words)) std::memset(words, 0, sizeof(words));
    std::memcpy(words, data, std::min(size, sizeof(words)));
    for (std::size_t i = 0; i < kChains; ++i) chains[i] = add_word_quickly(chains[i], words[i]);
  }
  std::uint64_t all = seed;
  for (const std::uint64_t chain : chains) all = add_word_quickly(all, chain ^ chain >> 32);
  return all;
}

std::optional<std::uint64_t> hash_contents(const std::vector<at::Tensor>& weights) {
  std::uint64_t hash = weights.size();
  for (const at::Tensor& weight : weights) {
    if (!can_be_shared(weight)) return std::nullopt;
    hash = hash_bytes(static_cast<const char*>(weight.const_data_ptr()), weight.nbytes(), hash);
  }
  return hash;
}

}  // namespace

PackedWeight::Results PackedWeight::get(const Fold& fold, const std::vector<at::Tensor>& weights,
                                        const std::function<bool()>& still_same) {
  const std::optional<std::uint64_t> contents = hash_contents(weights);
  Results results;
  {
    MutexLock lock(mutex_);
    while (packing_) changed_.wait(mutex_);
    if (results_ != nullptr && contents && contents == contents_) return results_;
    packing_ = true;
  }
  try {
    // Whoever saw earlier weights than those that are packed here does not put them in their place.
    if (still_same()) {
      const c10::InferenceMode inference;
      results = std::make_shared<const Constants>(prepare(fold.program, weights));
      if (hash_contents(weights) != contents || !still_same()) results.reset();
    }
  } catch (...) {
    MutexLock lock(mutex_);
    packing_ = false;
    changed_.notify_all();
    throw;
  }
  Results old;  // dropped after the lock
  MutexLock lock(mutex_);
  packing_ = false;
  changed_.notify_all();
  if (results == nullptr) return nullptr;
  old = std::exchange(results_, results);
  contents_ = contents;
  return results;
}

PackedWeight::Aside PackedWeight::pack_aside(const Fold& fold, const std::vector<at::Tensor>& weights) {
  const c10::InferenceMode inference;
  return {std::make_shared<const Constants>(prepare(fold.program, weights)), hash_contents(weights)};
}

void PackedWeight::adopt(const Aside& aside) {
  Results old;  // dropped after the lock
  MutexLock lock(mutex_);
  old = std::exchange(results_, aside.results);
  contents_ = aside.contents;
}

void PackedWeight::inherit(PackedWeight& parents) {
  Results results;
  std::optional<std::uint64_t> contents;
  if (!parents.mutex_.try_lock()) return;
  if (!parents.packing_) {
    results = parents.results_;
    contents = parents.contents_;
  }
  parents.mutex_.unlock();
  MutexLock lock(mutex_);
  results_ = std::move(results);
  contents_ = contents;
}

std::uint64_t PackedWeight::bytes() const {
  MutexLock lock(mutex_);
  std::uint64_t bytes = 0;
  if (results_ == nullptr) return bytes;
  for (const c10::IValue& value : *results_) {
    if (value.isTensor() && value.toTensor().defined())
      bytes += value.toTensor().numel() * value.toTensor().element_size();
  }
  return bytes;
}

PackedWeights& PackedWeights::of_this_process() {
  static std::atomic<PackedWeights*> instance{new PackedWeights(nullptr)};  // never deleted: backends outlive statics
  [[maybe_unused]] static const int registered =
      pthread_atfork(nullptr, nullptr, [] { instance.store(new PackedWeights(instance.load())); });
  return *instance.load();
}

std::shared_ptr<PackedWeight> PackedWeights::find_or_make(const Fold& fold, const std::vector<at::Tensor>& live,
                                                          const std::vector<at::Tensor>& handles) {
  auto made = std::make_shared<PackedWeight>();
  std::string key = key_of(fold, live, handles);
  if (key.empty()) return made;
  MutexLock lock(mutex_);
  std::erase_if(by_key_, [](const auto& entry) { return entry.second.expired(); });
  std::weak_ptr<PackedWeight>& known = by_key_[key];
  if (auto found = known.lock()) return found;
  if (const auto inherited = find_of_parents(key)) made->inherit(*inherited);
  known = made;
  return made;
}

// Under the lock of this process's weights: another thread may look for the same.
std::shared_ptr<PackedWeight> PackedWeights::find_of_parents(const std::string& key) const {
  for (PackedWeights* parents = parents_; parents != nullptr; parents = parents->parents_) {
    if (!parents->mutex_.try_lock()) return nullptr;
    const auto known = parents->by_key_.find(key);
    auto found = known == parents->by_key_.end() ? nullptr : known->second.lock();
    parents->mutex_.unlock();
    if (found != nullptr) return found;
  }
  return nullptr;
}

PackedWeights::Usage PackedWeights::usage() const {
  std::vector<std::shared_ptr<PackedWeight>> all;
  {
    MutexLock lock(mutex_);
    for (const auto& [key, weak] : by_key_) {
      if (auto one = weak.lock()) all.push_back(std::move(one));
    }
  }
  Usage usage;
  for (const auto& one : all) {
    ++usage.count;
    usage.bytes += one->bytes();
  }
  return usage;
}

}  // namespace torchpool::graph
