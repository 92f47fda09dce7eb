#include "core/batch/batch.h"

#include <algorithm>
#include <utility>

#include "core/sync/error.h"

namespace torchpool {
namespace {

void abandon(const std::vector<RequestPtr>& requests) noexcept {
  std::exception_ptr error;
  for (const RequestPtr& request : requests) {
    const RequestState state = request->state();
    if (state != RequestState::kQueued && state != RequestState::kRunning) continue;
    if (error == nullptr) error = std::make_exception_ptr(Abandoned("the batch was dropped without a result"));
    request->fail(error);
  }
}

}  // namespace

thread_local BatchRescue* BatchRescue::current_ = nullptr;

Batch::Batch(std::vector<RequestPtr> requests) : requests_(std::move(requests)) {
  bool padding_is_free = true;
  for (const RequestPtr& request : requests_) {
    const RequestInfo& info = request->info;
    padding_is_free = padding_is_free && info.padding_is_free;
    size_.rows += info.rows;
    size_.items += info.rows * info.extent;
    size_.length = std::max(size_.length, info.extent);
  }
  if (padding_is_free && size_.rows > 0) size_.length = mean_length(size_.items, size_.rows);
}

Batch::Batch(Batch&& other) noexcept
    : requests_(std::exchange(other.requests_, {})), size_(std::exchange(other.size_, {0, 1, 0})) {}

Batch& Batch::operator=(Batch&& other) noexcept {
  if (this == &other) return *this;
  abandon_unresolved();
  requests_ = std::exchange(other.requests_, {});
  size_ = std::exchange(other.size_, {0, 1, 0});
  return *this;
}

Batch::~Batch() {
  abandon_unresolved();
}

void Batch::abandon_unresolved() noexcept {
  BatchRescue* rescue = BatchRescue::current_;
  if (rescue != nullptr && rescue->requests_.empty() && std::uncaught_exceptions() > rescue->exceptions_) {
    rescue->requests_ = std::move(requests_);
    return;
  }
  abandon(requests_);
}

BatchRescue::BatchRescue() noexcept : outer_(std::exchange(current_, this)), exceptions_(std::uncaught_exceptions()) {}

BatchRescue::~BatchRescue() {
  current_ = outer_;
  abandon(requests_);
}

void BatchRescue::fail_all(const std::exception_ptr& error) noexcept {
  for (const RequestPtr& request : requests_) request->fail(error);
  requests_.clear();
}

}  // namespace torchpool
