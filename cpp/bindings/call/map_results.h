// The results of a map, in order, as Python iterates over them: what of an iterator has to cost little for each item.
#pragma once

#include <deque>
#include <memory>

#include "bindings/call/pending.h"

namespace torchpool {

struct Likeness;

// The inside of a Python object that Python's MapIterator is made from. Touched only with the interpreter's lock held.
class MapResults {
 public:
  // `results` is the Python object.
  static MapResults& of(const py::object& results);

  struct Entry {
    Pending pending;
    py::object outcome;  // known without a call, with the methods of Pending; null: `pending` has it
    // Waits; false when `timeout` seconds passed first.
    bool wait(std::optional<double> timeout);
    // The result, or what was raised, once it is there.
    py::object get();
    void cancel();
  };

  std::size_t size() const noexcept { return entries_.size(); }
  void put(Pending pending) { entries_.push_back({std::move(pending), py::object()}); }
  void put_outcome(py::object outcome) { entries_.push_back({Pending(py::none()), std::move(outcome)}); }
  // Requires that there is one.
  Entry& first() { return entries_.front(); }
  Entry take_first();
  // Cancels all that have not started, the last one first, and drops them.
  void cancel_all();
  int traverse(visitproc visit, void* arg) const;
  void clear() noexcept { std::deque<Entry>().swap(entries_); }

  // Of the last call that was submitted for the map; null: of none.
  std::shared_ptr<const Likeness> like;

 private:
  std::deque<Entry> entries_;
};

void register_map_results(py::module_& module);

}  // namespace torchpool
