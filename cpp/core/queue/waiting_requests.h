// The waiting requests of one queue, in the order in which they are to run.
#pragma once

#include <chrono>
#include <cstddef>
#include <functional>
#include <map>
#include <set>
#include <utility>
#include <vector>

#include "core/queue/request.h"
#include "core/queue/request_list.h"

namespace torchpool {

// A request counts as due this long after its arrival, or at its deadline if that is sooner. A stream of calls with
// deadlines would starve calls without otherwise.
inline constexpr Duration kPatience = std::chrono::seconds{1};

// When a request is due: its place among requests of equal priority.
TimePoint due(const RequestInfo& info) noexcept;

// Order: priority, then due time, then arrival. Requests without a deadline are due in order of arrival, so a list
// keeps them sorted at constant cost. Requests with a deadline are in a tree. Not thread-safe: the queue's mutex guards
// this.
class WaitingRequests {
 public:
  void push(RequestPtr request);
  // Null when the request is not here.
  RequestPtr remove(const Request& request) noexcept;
  bool empty() const noexcept { return size_ == 0; }
  std::size_t size() const noexcept { return size_; }
  // The request that is to run first; null when empty.
  Request* front() const noexcept;
  // When the request that waits longest arrived; kNever when empty.
  TimePoint oldest_arrival() const noexcept;
  // When the first request with a deadline is due, whatever its priority; kNever where no request has a deadline.
  TimePoint first_due() const noexcept;

  // Up to `most` requests of the highest waiting priority, in order. `window` is cleared first.
  void first(std::size_t most, std::vector<Request*>& window) const;
  // The first request, where RequestList::next walks all requests in order, so that they need not be copied; else null.
  Request* front_of_list() const noexcept;

 private:
  using Place = std::pair<TimePoint, std::uint64_t>;
  static Place place(const Request& request) noexcept { return {due(request.info), request.info.number}; }
  struct Earlier {
    using is_transparent = void;
    bool operator()(const RequestPtr& a, const RequestPtr& b) const noexcept { return place(*a) < place(*b); }
    bool operator()(const RequestPtr& a, const Request& b) const noexcept { return place(*a) < place(b); }
    bool operator()(const Request& a, const RequestPtr& b) const noexcept { return place(a) < place(*b); }
  };
  struct Level {
    RequestList by_arrival;
    std::set<RequestPtr, Earlier> by_deadline;
    bool empty() const noexcept { return by_arrival.empty() && by_deadline.empty(); }
  };
  // By priority. Empty levels are erased, but for the last one: a queue that runs empty and fills again allocates
  // nothing.
  std::map<std::int32_t, Level, std::greater<>> levels_;
  std::size_t size_ = 0;
};

}  // namespace torchpool
