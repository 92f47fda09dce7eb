// Whether the methods that a class gives its objects are those that it had.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "bindings/interpreter/gil.h"

namespace torchpool {

// Whether objects of both have the same __call__ and forward. Requires the interpreter's lock; runs no Python code.
bool has_same_methods(PyTypeObject* one, PyTypeObject* other);

// Whether a callable, or the object that it is a method of, has a class by which calls of accelerated modules come.
// Takes some nanoseconds. Requires the interpreter's lock; runs no Python code.
bool may_be_accelerated(PyObject* callable) noexcept;

// Of a class whose calls come by an entrance. Every method requires the interpreter's lock; none runs Python code,
// apart from what destructors of the user's own do.
class ClassWatch {
 public:
  enum class Change : std::uint8_t {
    kNo,
    kMethods,  // __call__ or forward, in the class or above it, since the last look
    kClass,    // the class itself, for as long as it is not as it was again
  };

  // From now on.
  void start(PyTypeObject* type);
  // A look at it. `made`: the class was made for one module, so that what is set in it is known to nobody else.
  Change look(PyTypeObject* type, bool made);

  int traverse(visitproc visit, void* arg) const;
  void clear();

 private:
  static constexpr std::size_t kMethods = 2;
  using Methods = std::array<PyObject*, kMethods>;

  void keep(Methods& kept, const Methods& found);

  Methods own_{};    // as the class was changed for calls to come by
  Methods seen_{};   // at the last look
  Methods above_{};  // that it would have without
  Py_ssize_t entries_ = 0;
  unsigned int version_ = 0;  // of the class and those above; 0: not known
  bool started_ = false;
  bool changed_ = false;
};

}  // namespace torchpool
