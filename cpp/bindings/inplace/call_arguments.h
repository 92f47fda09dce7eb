// What of a call's arguments decides whether an accelerated module's predictor may answer it.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <utility>
#include <vector>

#include "bindings/interpreter/gil.h"

namespace torchpool {

// Every method requires the interpreter's lock; none runs Python code.
class CallArguments {
 public:
  CallArguments(PyObject* args, PyObject* kwargs);

  // Tensors, numbers, texts, None, dtypes, devices, and tuples, lists and dicts of these. All else may be written by
  // forward, as a cache is, or hold what belongs to the caller's thread.
  bool plain() const noexcept { return plain_; }
  bool any_requires_grad() const noexcept { return requires_grad_; }
  // Equal for calls whose arguments have the same names, types and nesting, whatever their values and sizes, except for
  // those of bools, by which forward is told what to do.
  std::uint64_t structure() const noexcept { return structure_; }

 private:
  void add(PyObject* value, int depth);
  void mix(std::uint64_t word) noexcept;

  bool plain_ = true;
  bool requires_grad_ = false;
  std::uint64_t structure_ = 0;
};

// Sees whether a run writes to the arguments that it is given: to their tensors, or to the lists and dicts around them.
// Every method, the destructor too, requires the interpreter's lock.
class ArgumentsWatch {
 public:
  // Of plain arguments.
  ArgumentsWatch(PyObject* args, PyObject* kwargs);
  bool written() const;

 private:
  struct Container {
    py::object object;
    std::vector<py::object> items;
  };
  void add(PyObject* value);
  static std::vector<py::object> items_of(PyObject* container);

  std::vector<std::pair<at::Tensor, std::int64_t>> tensors_;  // with their versions
  std::vector<Container> containers_;
};

}  // namespace torchpool
