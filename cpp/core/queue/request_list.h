// The waiting requests of one queue in order of arrival; links live in the requests, so nothing is allocated.
#pragma once

#include <cstddef>

#include "core/queue/request.h"

namespace torchpool {

// Not thread-safe: the queue's mutex guards the list. Owns the linked requests. Removal from any place takes constant
// time, so that the cancellation of n requests takes n steps, not n squared.
class RequestList {
 public:
  RequestList() = default;
  RequestList(const RequestList&) = delete;
  RequestList& operator=(const RequestList&) = delete;
  ~RequestList() {
    while (head_ != nullptr) remove(*head_);
  }

  void push_back(RequestPtr request) noexcept {
    Request* added = request.get();
    added->links_.previous = tail_;
    added->links_.list = this;
    (tail_ == nullptr ? head_ : tail_->links_.next) = std::move(request);
    tail_ = added;
    ++size_;
  }

  // Null when the request is not in this list.
  RequestPtr remove(const Request& request) noexcept {
    Request::Links& links = request.links_;
    if (links.list != this) return nullptr;
    RequestPtr& owner = links.previous == nullptr ? head_ : links.previous->links_.next;
    RequestPtr removed = std::move(owner);
    owner = std::move(links.next);
    (owner == nullptr ? tail_ : owner->links_.previous) = links.previous;
    links = Request::Links{};
    --size_;
    return removed;
  }

  Request* front() const noexcept { return head_.get(); }
  static Request* next(const Request& request) noexcept { return request.links_.next.get(); }
  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }

 private:
  RequestPtr head_;
  Request* tail_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace torchpool
