// A queue by priority, first in first out within a priority. The links live in the queued nodes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace torchpool {

// Base class of a node that can be queued.
template <class Node>
struct FifoLinks {
  Node* next = nullptr;
  Node* previous = nullptr;
  std::int32_t priority = 0;
  bool queued = false;

 private:
  FifoLinks() = default;
  friend Node;
};

// Not thread-safe, and no owner of its nodes. The cost of a push, a pop and an erase does not grow with the number of
// nodes; among k different priorities each takes at most k steps.
template <class Node>
class PriorityFifo {
 public:
  void push(Node& node, std::int32_t priority) {
    Lane& lane = lane_of(priority);
    node.priority = priority;
    node.queued = true;
    node.next = nullptr;
    node.previous = lane.last;
    (lane.last != nullptr ? lane.last->next : lane.first) = &node;
    lane.last = &node;
    ++size_;
  }

  // Takes out the oldest node of the highest priority; null when the queue is empty.
  Node* pop() {
    if (size_ == 0) return nullptr;
    for (Lane& lane : lanes_) {
      if (Node* first = lane.first; first != nullptr) {
        erase(*first);
        return first;
      }
    }
    return nullptr;
  }

  // Requires: node.queued, in this queue.
  void erase(Node& node) {
    Lane& lane = lane_of(node.priority);
    (node.previous != nullptr ? node.previous->next : lane.first) = node.next;
    (node.next != nullptr ? node.next->previous : lane.last) = node.previous;
    node.next = node.previous = nullptr;
    node.queued = false;
    --size_;
    if (lane.first == nullptr && lanes_.size() > kLanesKept) lanes_.erase(lanes_.begin() + (&lane - lanes_.data()));
  }

  std::size_t size() const noexcept { return size_; }
  bool empty() const noexcept { return size_ == 0; }

 private:
  struct Lane {
    std::int32_t priority = 0;
    Node* first = nullptr;
    Node* last = nullptr;
  };
  static constexpr std::size_t kLanesKept = 8;  // lanes kept although empty: the usual few priorities allocate nothing

  Lane& lane_of(std::int32_t priority) {
    const auto place =
        std::find_if(lanes_.begin(), lanes_.end(), [priority](const Lane& lane) { return lane.priority <= priority; });
    if (place != lanes_.end() && place->priority == priority) return *place;
    return *lanes_.insert(place, Lane{priority});
  }

  std::vector<Lane> lanes_;  // highest priority first
  std::size_t size_ = 0;
};

}  // namespace torchpool
