// Sees what happens to the contents of weights while they serve.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace torchpool {

enum class WeightChange : std::uint8_t {
  kSame,
  kValues,  // other contents of the same form: whatever was computed from them must be computed anew
  kMeta,    // another dtype, device, shape or layout: the weights no longer fit what was captured
};

// What the weights held at one moment. Plain data: may be kept, compared and dropped by any thread.
struct WeightFingerprint {
  std::vector<std::uint32_t> versions;
  std::vector<std::uint64_t> samples;  // a hash each
  bool operator==(const WeightFingerprint&) const = default;
};

// Note [How weights are watched]
// A weight changes in three ways, and each is looked for where that is safe.
//  - Writes that torch counts (copy_, load_state_dict, most optimizers) move the version, an atomic number.
//  - Writes that torch does not count (fused optimizers, `p.data.add_()`, `p.numpy()[:] =`) change memory only. A few
//    samples of each tensor find them, among them its first and its last bytes: a write that touches none of them
//    leaves no trace.
//  - `p.data = other` and `.to()` give the tensor another storage or form.
//
// The last kind rewrites the tensor object while another thread may read it: a data race that can end in freed memory.
// The watch therefore never reads the live tensors but in form_change(), which its caller calls under the lock that
// such writers hold (the interpreter's). Workers read *handles*: detached tensors that nobody else knows, with a
// storage and a form that stay as they were and the live tensor's own version counter. In-place operators that change
// the form (`resize_`, `set_`, `t_`) run without that lock: not to be used on weights that serve, by anyone.
//
// Samples are read while a writer may be writing: a torn read gives a hash that is found different now or at the next
// look. They are read at the storage's present address, so that share_memory() and resize_(0) are followed; only within
// nanoseconds of such a call could freed memory be read, as in any run of the model at that time.
//
// Handles and the live tensors are dropped with the watch: Note [Who drops an input] holds for it.
// Note [A look at cold weights]
// A batch drives all that a look reads out of the caches and the TLB. For the 103 weights of a MiniLM (91 MB; AMD EPYC,
// in a virtual machine) a look takes 1 us when all is at hand, and 13 us after 128 MB of other memory were touched: 20
// us without the prefetches, 18 us without the fence between those of the objects and those of the samples, whose
// addresses are read from the objects. What is left is mostly walks of page tables, one for each page that holds a
// sample: 11 us with one sample a tensor. Of a tensor's samples, the last is cheap where the next tensor lies behind
// it, and one inside is not; hence the latter in large tensors only, which are those that may be stacked or fused of
// parts.

class WeightWatch {
 public:
  // Requires the lock that the writers of `live` hold, as do form_change() and the destructor.
  explicit WeightWatch(std::vector<at::Tensor> live);

  // Whether the live tensors still have the storage and the form of the handles.
  WeightChange form_change() const noexcept;

  // Any thread, without locks, also several at once. Fingerprints of one tensor are equal in any two watches on it.
  WeightFingerprint take() const;
  bool same(const WeightFingerprint& before) const noexcept;

  // For reading the weights without packing them: the live memory, but safe from `p.data = other`. In the order of
  // `live`, of which those that have no memory of their own (meta, sparse, wrapper subclasses) stand for themselves.
  const std::vector<at::Tensor>& handles() const noexcept { return handles_; }
  // Everything that has to be dropped by a thread that may; the watch is useless afterwards.
  std::vector<at::Tensor> release() &&;

  // Bytes up to which all of a tensor is read, and from which on samples lie inside it, beside those at its ends.
  static constexpr std::uint64_t kReadWhole = 64;
  static constexpr std::uint64_t kReadInside = 1 << 20;
  static constexpr std::size_t kInside = 1;

 private:
  // Eight bytes of a storage, or `size` of them after the first `skip`.
  struct Sample {
    std::uint64_t at : 56;
    std::uint64_t skip : 4;
    std::uint64_t size : 4;
  };
  struct Watched {
    c10::VariableVersion version;         // shared with the live tensor
    c10::StorageImpl* storage = nullptr;  // of the handle, which keeps it; null: not sampled
    std::uint64_t needs_bytes = 0;        // of the storage
    std::uint32_t first_sample = 0;
    std::uint32_t end_sample = 0;
  };
  static std::uint32_t version_of(const Watched& watched) noexcept;
  // Null where there is no memory, or less than there was.
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
