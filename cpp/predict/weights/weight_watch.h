// Notices changes of weights while they serve.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace torchpool {

enum class WeightChange : std::uint8_t {
  kSame,
  kValues,  // other contents of the same form: results computed from the weights must be computed anew
  kMeta,    // another dtype, device, shape or layout: the weights no longer fit what was captured
};

// What the weights held at one moment. Plain data: any thread may keep, compare and drop a fingerprint.
struct WeightFingerprint {
  std::vector<std::uint32_t> versions;
  std::vector<std::uint64_t> samples;  // a hash each
  bool operator==(const WeightFingerprint&) const = default;
};

// Note [How weights are watched]
// A weight changes in three ways, and each way is looked for where looking is safe.
//  - Writes that torch counts (copy_, load_state_dict, most optimizers) move the version, an atomic number.
//  - Writes that torch does not count (fused optimizers, `p.data.add_()`, `p.numpy()[:] =`) change memory only. A few
//    samples of each tensor find them, among them its first and its last bytes: a write that touches none of them
//    leaves no trace.
//  - `p.data = other` and `.to()` give the tensor another storage or form.
//
// The third way rewrites the tensor object while another thread may read it: a data race that can end in freed memory.
// The watch therefore reads live tensors in form_change() only, which is called under the lock that such writers hold
// (the interpreter's). Workers read *handles*: detached tensors that nobody else knows. A handle keeps its storage and
// its form, and has the live tensor's own version counter. In-place operators that change the form (`resize_`, `set_`,
// `t_`) run without that lock: nobody may use them on weights that serve.
//
// Samples are read while a writer may be writing: a torn read gives a hash that is found different now or at the next
// look. Samples are read at the storage's present address, so that share_memory() and resize_(0) are followed. Only
// within nanoseconds of such a call could freed memory be read, as in any run of the model at that time.
//
// Handles and live tensors are dropped with the watch: Note [Who drops an input] holds for the watch.
//
// Note [A look at cold weights]
// A batch drives the memory that a look reads out of the caches and the TLB. For the 103 weights of a MiniLM (91 MB;
// AMD EPYC, in a virtual machine) a look takes 1 us when its memory is cached, and 13 us after 128 MB of other memory
// were touched. Without the prefetches it takes 20 us. Without the fence it takes 18 us: the fence stands between the
// prefetches of the objects and of the samples, whose addresses are read from the objects. The remaining time is mostly
// walks of page tables, one for each page that holds a sample: 11 us with one sample a tensor. A tensor's last sample
// is cheap where the next tensor lies behind it; a sample inside is not. Only large tensors have samples inside: these
// may be stacked or fused of parts.

class WeightWatch {
 public:
  // The constructor, form_change() and the destructor require the lock that the writers of `live` hold.
  explicit WeightWatch(std::vector<at::Tensor> live);

  // Whether the live tensors still have the storage and the form of the handles.
  WeightChange form_change() const noexcept;

  // Any thread may call these, without locks, several at once. Any two watches on a tensor take equal fingerprints of
  // it.
  WeightFingerprint take() const;
  bool same(const WeightFingerprint& before) const noexcept;

  // For reading the weights without packing them: the live memory, but safe from `p.data = other`. In the order of
  // `live`. A tensor without memory of its own (meta, sparse, wrapper subclasses) is its own handle.
  const std::vector<at::Tensor>& handles() const noexcept { return handles_; }
  // Requires the lock that the tensors' writers hold.
  const std::vector<at::Tensor>& live() const noexcept { return live_; }
  // All tensors of the watch, for a thread that may drop them. The watch is useless afterwards.
  std::vector<at::Tensor> release() &&;

  // A tensor of up to kReadWhole bytes is read as a whole. A tensor from kReadInside bytes on has kInside samples
  // inside, beside the samples at its ends.
  static constexpr std::uint64_t kReadWhole = 64;
  static constexpr std::uint64_t kReadInside = 1 << 20;
  static constexpr std::size_t kInside = 1;

 private:
  // Eight bytes of a storage at `at`, or `size` of these bytes after the first `skip`.
  struct Sample {
    std::uint64_t at : 56;
    std::uint64_t skip : 4;
    std::uint64_t size : 4;
  };
  struct Watched {
    c10::VariableVersion version;         // shared with the live tensor
    c10::StorageImpl* storage = nullptr;  // the handle's, which keeps it; null: not sampled
    std::uint64_t needs_bytes = 0;        // of the storage
    std::uint32_t first_sample = 0;
    std::uint32_t end_sample = 0;
  };
  static std::uint32_t version_of(const Watched& watched) noexcept;
  // Null where the storage has no memory, or less than before.
  static const char* memory_of(const Watched& watched) noexcept;
  std::uint64_t hash_of(const Watched& watched) const noexcept;
  void prefetch(const WeightFingerprint& before) const noexcept;
  void add_samples(const at::Tensor& handle, std::uint64_t storage_bytes);
  void add_sample(std::uint64_t at, std::uint64_t size, std::uint64_t storage_bytes);

  std::vector<at::Tensor> live_;
  std::vector<at::Tensor> handles_;
  std::vector<Watched> watched_;
  std::vector<Sample> samples_;
};

}  // namespace torchpool
