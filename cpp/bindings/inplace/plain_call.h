// What an entrance holds, and the calls that it passes on to its module.
#pragma once

#include <array>
#include <cstdint>
#include <unordered_map>

#include "bindings/inplace/class_watch.h"
#include "bindings/inplace/passing.h"

namespace torchpool {

struct Calls {
  std::unordered_map<std::uint64_t, Passing> first;  // by a call's structure and grad mode, what its first call showed
  std::array<std::uint64_t, static_cast<std::size_t>(Passing::kMost)> counts{};  // kNo: served
  std::uint64_t left_out = 0;  // calls that go to the module yet, since the predictor raised errors
  int errors = 0;
  ClassWatch watch;
};

struct Entrance {
  PyObject ob_base;
  PyObject* module;      // a weak reference
  PyObject* dict;        // the module's; not owned: only compared
  PyObject* type;        // the class that was made for it, or its own
  PyObject* seen_type;   // the class that the predictor knows it with: `type`, or one that was put over it
  PyObject* find_plain;  // () -> (__call__, forward, has a __call__ of its own), as the class has them without this
  PyObject* plain_call;
  PyObject* plain_forward;
  PyObject* keeper;  // open(), class_changed(), tell(reason), failed(error), has_gradients(result)
  PyObject* predictor;
  PyObject* core;  // to which calls go at once; null: they go to the predictor
  int core_forks;  // when it was found: in a forked child the predictor has another one
  Calls* known;
  bool made;                 // `type` was made for the module
  bool forward_only_inside;  // the class has a __call__ of its own: forward is another function than what is served
};

enum class Door : std::uint8_t { kCall, kForward };

// Every function requires the interpreter's lock.

// Has the methods be those that the class has now. False with the error set.
bool take_plain(Entrance* own);
// Takes them where the class was patched; `changed`: in a way that only the module follows. False with the error set.
bool follow_class(Entrance* own, bool& changed);
// Whether the module's class is the one that calls come by, or one that was put over it later and leaves its methods,
// as parametrizations do; the predictor then follows. Errors of that are none of the call's.
bool follow_object(Entrance* own, PyObject* module);
// The module's own method.
PyObject* call_plain(Entrance* own, Door door, PyObject* module, PyObject* args, PyObject* kwargs);
// Whether the module's __call__ was just passed on, on this thread, to its forward.
bool is_passed_on(PyObject* module) noexcept;

}  // namespace torchpool
