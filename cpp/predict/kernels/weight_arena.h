// Memory for the packed weights of a model.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstddef>
#include <memory>

namespace torchpool::kernels {

// Note [Weights in huge pages]
// A model that reads tens of megabytes of weights in each batch misses the table of addresses at every page of 4 KB.
// Weights that are packed together therefore lie side by side in pages of 2 MiB, where the system gives some.

// While one lives, what its thread packs lies together. Memory is given back once the last tensor in it is gone, which
// may be long after the arena.
class WeightArena {
 public:
  WeightArena() noexcept;
  ~WeightArena();
  WeightArena(const WeightArena&) = delete;
  WeightArena& operator=(const WeightArena&) = delete;

  // A vector of floats, aligned for every vector: in the arena of this thread, if there is one and they are not few.
  // Throws std::bad_alloc.
  static at::Tensor allocate(std::int64_t floats);

 private:
  class Chunk;
  at::Tensor take(std::size_t bytes);

  WeightArena* const outer_;
  std::shared_ptr<Chunk> chunk_;
};

}  // namespace torchpool::kernels
