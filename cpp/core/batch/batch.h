// Requests that run together.
#pragma once

#include <cstdint>
#include <exception>
#include <vector>

#include "core/batch/cost_model.h"
#include "core/queue/request.h"

namespace torchpool {

// Owns the duty to resolve its requests: requests that are unresolved when the batch is destroyed fail with Abandoned.
class Batch {
 public:
  Batch() = default;
  explicit Batch(std::vector<RequestPtr> requests);
  Batch(Batch&& other) noexcept;
  Batch& operator=(Batch&& other) noexcept;
  ~Batch();

  const std::vector<RequestPtr>& requests() const noexcept { return requests_; }
  bool empty() const noexcept { return requests_.empty(); }
  std::size_t size() const noexcept { return requests_.size(); }
  std::int64_t rows() const noexcept { return size_.rows; }
  const BatchSize& cost_size() const noexcept { return size_; }

 private:
  void abandon_unresolved() noexcept;
  std::vector<RequestPtr> requests_;
  BatchSize size_{0, 1, 0};
};

// While a rescue is in scope, a batch that this thread destroys during an exception leaves its requests here instead of
// abandoning them. The requests can then fail with that exception.
class BatchRescue {
 public:
  BatchRescue() noexcept;
  ~BatchRescue();  // fails with Abandoned the requests that fail_all() has not failed
  BatchRescue(const BatchRescue&) = delete;
  BatchRescue& operator=(const BatchRescue&) = delete;

  void fail_all(const std::exception_ptr& error) noexcept;

 private:
  friend class Batch;
  static thread_local BatchRescue* current_;
  BatchRescue* outer_;
  int exceptions_;  // in flight when the scope began
  std::vector<RequestPtr> requests_;
};

}  // namespace torchpool
