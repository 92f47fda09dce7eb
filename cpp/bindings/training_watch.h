// Sees when a module is switched between training and evaluation after its contract was learned.
#pragma once

#include <vector>

#include "bindings/gil.h"

namespace torchpool {

// Watches the `training` flags in the modules' own dicts: about 10 ns a module, cheap enough for every call.
class TrainingWatch {
 public:
  explicit TrainingWatch(const py::list& module_dicts) {
    for (const py::handle dict : module_dicts) {
      watched_.push_back({py::reinterpret_borrow<py::dict>(dict), nullptr});
    }
    changed();
  }
  // True when a flag differs from the last look. Requires the interpreter's lock.
  bool changed() {
    static PyObject* const name = PyUnicode_InternFromString("training");
    bool any = false;
    for (Watched& module : watched_) {
      PyObject* now = PyDict_GetItemWithError(module.dict.ptr(), name);  // True or False, which live for ever
      any = any || now != module.seen;
      module.seen = now;
    }
    return any;
  }

 private:
  struct Watched {
    py::dict dict;
    PyObject* seen;
  };
  std::vector<Watched> watched_;
};

}  // namespace torchpool
