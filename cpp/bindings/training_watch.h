// Sees when a module is changed after its contract was learned.
#pragma once

#include <vector>

#include "bindings/gil.h"

namespace torchpool {

// Watches the modules' own dicts: the `training` flags, and which submodules and hooks they have. Some 10 ns a module,
// cheap enough for every call. Plain attributes are not watched: many modules write theirs in forward.
class TrainingWatch {
 public:
  explicit TrainingWatch(const py::list& module_dicts) {
    for (const py::handle dict : module_dicts) {
      Watched module{py::reinterpret_borrow<py::dict>(dict), nullptr, {}};
      for (const char* name : {"_modules", "_forward_hooks", "_forward_pre_hooks"}) {
        if (!module.dict.contains(name) || !PyDict_Check(py::object(module.dict[name]).ptr())) continue;
        module.parts.push_back({module.dict[name], 0});
      }
      watched_.push_back(std::move(module));
    }
    changed();
  }
  // True when something differs from the last look. Requires the interpreter's lock.
  bool changed() {
    static PyObject* const name = PyUnicode_InternFromString("training");
    bool any = false;
    for (Watched& module : watched_) {
      PyObject* now = PyDict_GetItemWithError(module.dict.ptr(), name);  // True or False, which live for ever
      any = any || now != module.training;
      module.training = now;
      for (Part& part : module.parts) {
        const std::uint64_t stamp = stamp_of(part.dict.ptr());
        any = any || stamp != part.stamp;
        part.stamp = stamp;
      }
    }
    return any;
  }

 private:
  struct Part {
    py::dict dict;
    std::uint64_t stamp;
  };
  struct Watched {
    py::dict dict;
    PyObject* training;
    std::vector<Part> parts;
  };

  // Differs after every change of a dict.
  static std::uint64_t stamp_of(PyObject* dict) {
#if PY_VERSION_HEX < 0x030C0000
    return reinterpret_cast<PyDictObject*>(dict)->ma_version_tag;  // deprecated from 3.12 on
#else
    std::uint64_t stamp = 1;
    PyObject* key = nullptr;
    PyObject* value = nullptr;
    Py_ssize_t at = 0;
    while (PyDict_Next(dict, &at, &key, &value) != 0) {
      stamp = (stamp ^ reinterpret_cast<std::uintptr_t>(key)) * 0xff51afd7ed558ccdULL;
      stamp = (stamp ^ reinterpret_cast<std::uintptr_t>(value)) * 0xc4ceb9fe1a85ec53ULL;
    }
    return stamp;
#endif
  }

  std::vector<Watched> watched_;
};

}  // namespace torchpool
