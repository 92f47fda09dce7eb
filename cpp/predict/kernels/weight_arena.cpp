#include "predict/kernels/weight_arena.h"

#include <ATen/ops/empty.h>
#include <ATen/ops/from_blob.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <new>
#include <utility>

namespace torchpool::kernels {

namespace {

constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr std::size_t kChunkSize = std::size_t{64} << 20;  // of addresses: what is not touched takes no memory
constexpr std::size_t kFew = std::size_t{64} << 10;        // bytes that are not worth a page of their own
constexpr std::size_t kAlignment = 64;

constexpr std::size_t rounded_up(std::size_t size, std::size_t unit) {
  return (size + unit - 1) / unit * unit;
}

thread_local WeightArena* current = nullptr;

}  // namespace

class WeightArena::Chunk {
 public:
  explicit Chunk(std::size_t size) : mapped_(rounded_up(size, kHugePage) + kHugePage) {
    base_ = static_cast<char*>(
        mmap(nullptr, mapped_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
    if (base_ == MAP_FAILED) throw std::bad_alloc();  // NOLINT(performance-no-int-to-ptr): the system's own constant
    const std::size_t lead =
        rounded_up(reinterpret_cast<std::uintptr_t>(base_), kHugePage) - reinterpret_cast<std::uintptr_t>(base_);
    if (lead > 0) munmap(base_, lead);
    base_ += lead;
    mapped_ -= lead;
    madvise(base_, mapped_, MADV_HUGEPAGE);  // where the system refuses, ordinary pages serve
  }
  ~Chunk() { munmap(base_, mapped_); }
  Chunk(const Chunk&) = delete;
  Chunk& operator=(const Chunk&) = delete;

  // Null where it is full.
  float* take(std::size_t bytes) noexcept {
    if (used_ + bytes > mapped_) return nullptr;
    auto* const taken = reinterpret_cast<float*>(base_ + used_);
    used_ = rounded_up(used_ + bytes, kAlignment);
    return taken;
  }
  // Nothing more is taken.
  void close() noexcept {
    const std::size_t kept = rounded_up(used_, kHugePage);
    if (kept >= mapped_) return;
    munmap(base_ + kept, mapped_ - kept);
    mapped_ = kept;
  }

 private:
  std::size_t mapped_;
  std::size_t used_ = 0;
  char* base_ = nullptr;
};

WeightArena::WeightArena() noexcept : outer_(std::exchange(current, this)) {}

WeightArena::~WeightArena() {
  if (chunk_ != nullptr) chunk_->close();
  current = outer_;
}

at::Tensor WeightArena::allocate(std::int64_t floats) {
  const std::size_t bytes = static_cast<std::size_t>(floats) * sizeof(float);
  if (bytes < kFew || (current == nullptr && bytes < kHugePage)) return at::empty({floats}, at::kFloat);
  if (current != nullptr) return current->take(bytes);
  WeightArena alone;
  return alone.take(bytes);
}

at::Tensor WeightArena::take(std::size_t bytes) {
  float* taken = chunk_ == nullptr ? nullptr : chunk_->take(bytes);
  if (taken == nullptr) {
    auto fresh = std::make_shared<Chunk>(std::max(bytes, kChunkSize));
    if (chunk_ != nullptr) chunk_->close();
    chunk_ = std::move(fresh);
    taken = chunk_->take(bytes);
  }
  return at::from_blob(
      taken, {static_cast<std::int64_t>(bytes / sizeof(float))}, [owner = chunk_](void*) {}, at::kFloat);
}

}  // namespace torchpool::kernels
