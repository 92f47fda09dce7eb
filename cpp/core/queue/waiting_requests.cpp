#include "core/queue/waiting_requests.h"

#include <algorithm>

namespace torchpool {

TimePoint due(const RequestInfo& info) noexcept {
  if (info.arrival > kNever - kPatience) return info.deadline;
  return std::min(info.deadline, info.arrival + kPatience);
}

void WaitingRequests::push(RequestPtr request) {
  const std::int32_t priority = request->info.priority;
  if (size_ == 0 && !levels_.contains(priority)) levels_.clear();
  Level& level = levels_[priority];
  if (request->info.deadline == kNever) {
    level.by_arrival.push_back(std::move(request));
  } else {
    level.by_deadline.insert(level.by_deadline.end(), std::move(request));  // most come in order
  }
  ++size_;
}

RequestPtr WaitingRequests::remove(const Request& request) noexcept {
  const auto found = levels_.find(request.info.priority);
  if (found == levels_.end()) return nullptr;
  Level& level = found->second;
  RequestPtr removed;
  if (request.info.deadline == kNever) {
    removed = level.by_arrival.remove(request);
  } else if (const auto place = level.by_deadline.find(request);
             place != level.by_deadline.end() && place->get() == &request) {
    removed = std::move(level.by_deadline.extract(place).value());
  }
  if (removed == nullptr) return removed;
  --size_;
  if (level.empty() && levels_.size() > 1) levels_.erase(found);
  return removed;
}

Request* WaitingRequests::front() const noexcept {
  if (size_ == 0) return nullptr;
  const Level& level = levels_.begin()->second;
  Request* listed = level.by_arrival.front();
  if (level.by_deadline.empty()) return listed;
  Request* timed = level.by_deadline.begin()->get();
  return listed != nullptr && place(*listed) < place(*timed) ? listed : timed;
}

TimePoint WaitingRequests::oldest_arrival() const noexcept {
  TimePoint oldest = kNever;
  for (const auto& [priority, level] : levels_) {
    if (!level.by_arrival.empty()) oldest = std::min(oldest, level.by_arrival.front()->info.arrival);
    // The one with the earliest deadline stands for all: exact where calls ask for the same time.
    if (!level.by_deadline.empty()) oldest = std::min(oldest, (*level.by_deadline.begin())->info.arrival);
  }
  return oldest;
}

TimePoint WaitingRequests::first_due() const noexcept {
  TimePoint first = kNever;
  for (const auto& [priority, level] : levels_) {
    if (!level.by_deadline.empty()) first = std::min(first, due((*level.by_deadline.begin())->info));
  }
  return first;
}

void WaitingRequests::first(std::size_t most, std::vector<Request*>& window) const {
  window.clear();
  if (size_ == 0) return;
  const Level& level = levels_.begin()->second;
  Request* listed = level.by_arrival.front();
  auto timed = level.by_deadline.begin();
  while (window.size() < most && (listed != nullptr || timed != level.by_deadline.end())) {
    const bool take_listed = timed == level.by_deadline.end() || (listed != nullptr && place(*listed) < place(**timed));
    if (take_listed) {
      window.push_back(listed);
      listed = RequestList::next(*listed);
    } else {
      window.push_back(timed->get());
      ++timed;
    }
  }
}

Request* WaitingRequests::front_of_list() const noexcept {
  if (levels_.size() != 1 || !levels_.begin()->second.by_deadline.empty()) return nullptr;
  return levels_.begin()->second.by_arrival.front();
}

}  // namespace torchpool
