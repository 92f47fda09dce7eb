#include "bindings/inplace/entrance.h"

#include <c10/core/GradMode.h>
#include <structmember.h>

#include <algorithm>
#include <array>
#include <optional>

#include "bindings/executor/pool_worker.h"
#include "bindings/graph/module_parts.h"
#include "bindings/inplace/call_arguments.h"
#include "bindings/inplace/inside.h"
#include "bindings/inplace/keeper_calls.h"
#include "bindings/inplace/plain_call.h"
#include "bindings/inplace/raw_type.h"
#include "bindings/inplace/served_call.h"
#include "predict/batch/hash.h"

namespace torchpool {

namespace {

constexpr std::size_t kMostStructures = 1024;
constexpr int kMostBackOff = 10;  // after errors of the predictor up to 2^10 calls go to the module

PyTypeObject* entrance_type = nullptr;

Entrance* entrance(PyObject* self) {
  return reinterpret_cast<Entrance*>(self);
}

bool is_module_of(const Entrance* own, PyObject* module) {
  return own->module != nullptr && PyWeakref_GetObject(own->module) == module;
}

// kNo with a structure that is not known yet: kFirst. `weights`: whether they require grad, where that is known.
Passing why_passed(Entrance* own, Door door, PyObject* module, PyObject* args, PyObject* kwargs,
                   std::uint64_t& structure, std::optional<bool>& weights) {
  PyObject** place = place_of_dict(module);
  if (place == nullptr) return Passing::kClass;
  if (const Passing found = by_module(*place, door == Door::kForward); found != Passing::kNo) return found;
  if (*place != own->dict || !follow_object(own, module)) return Passing::kClass;
  if (const Passing found = by_thread(); found != Passing::kNo) return found;
  const CallArguments arguments(args, kwargs);
  if (!arguments.plain()) return Passing::kArguments;
  if (c10::GradMode::is_enabled()) {
    if (arguments.any_requires_grad()) return Passing::kGradients;
    if (!weights) weights = weights_require_grad(*place);
    if (*weights) return Passing::kWeights;
  }
  Calls& known = *own->known;
  if (known.left_out > 0) {
    --known.left_out;
    return Passing::kErrors;
  }
  structure = add_word(arguments.structure(), c10::GradMode::is_enabled() ? 1 : 0);
  const auto found = known.first.find(structure);
  if (found == known.first.end()) {
    return known.first.size() < kMostStructures ? Passing::kFirst : Passing::kArguments;
  }
  return found->second;
}

void count_call(Entrance* own, Passing why) {
  if (own->known->counts.at(static_cast<std::size_t>(why))++ != 0 || why == Passing::kNo) return;
  PyObject* text = PyUnicode_FromString(to_string(why));
  if (text == nullptr) return PyErr_Clear();
  tell(own, "tell", text);
  Py_DECREF(text);
}

// What a result says of calls of its structure; kMost, with the error set, where an interrupt came.
Passing by_result(Entrance* own, PyObject* result) {
  PyObject* answer = ask(own, "has_gradients", result);
  if (answer == nullptr) return Passing::kMost;
  const bool found = answer == Py_True;
  Py_DECREF(answer);
  return found ? Passing::kResult : Passing::kNo;
}

// By the module itself, watched. `seen`: what its result says of calls of its structure.
PyObject* call_first(Entrance* own, Door door, PyObject* module, PyObject* args, PyObject* kwargs,
                     std::uint64_t structure, Passing& seen) {
  const InPredictor in_predictor;
  const ArgumentsWatch watch(args, kwargs);
  const InsideScope inside;  // of accelerated modules in one another the outermost learns, too
  PyObject* result = call_plain(own, door, module, args, kwargs);
  if (result == nullptr) return nullptr;
  seen = watch.written() ? Passing::kWritten : by_result(own, result);
  if (seen == Passing::kMost) {
    Py_DECREF(result);
    return nullptr;
  }
  own->known->first[structure] = seen;
  return result;
}

// A new reference. Null without an error where there can be none now; with one where an interrupt came.
PyObject* predictor_of(Entrance* own) {
  if (own->predictor == nullptr) {
    PyObject* opened = ask(own, "open", nullptr);
    if (opened == nullptr) {
      if (PyErr_ExceptionMatches(PyExc_Exception) != 0) PyErr_Clear();  // the keeper has noted it
      return nullptr;
    }
    const bool kept = opened == Py_None || keep_predictor(own, opened);
    Py_DECREF(opened);
    if (!kept) return nullptr;
  }
  return Py_XNewRef(own->predictor);
}

// It is asked again after more calls each time.
void back_off(Calls& calls) {
  calls.errors = std::min(calls.errors + 1, kMostBackOff);
  calls.left_out = (std::uint64_t{1} << calls.errors) - 1;
}

// An error of the predictor's own, be it that of its learner, never reaches the caller: the module answers. Where that
// raises, too, its error is the call's.
PyObject* call_after_error(Entrance* own, Door door, PyObject* module, PyObject* args, PyObject* kwargs) {
  PyObject* error = take_raised();
  PyObject* result = call_plain(own, door, module, args, kwargs);
  if (result != nullptr) {
    back_off(*own->known);
    count_call(own, Passing::kErrors);
    tell(own, "failed", error);
  }
  Py_DECREF(error);
  return result;
}

PyObject* serve(Entrance* own, Door door, PyObject* module, PyObject* args, PyObject* kwargs) {
  PyObject* predictor = predictor_of(own);
  if (predictor == nullptr) {
    if (PyErr_Occurred() != nullptr) return nullptr;
    back_off(*own->known);
    count_call(own, Passing::kNoPredictor);
    return call_plain(own, door, module, args, kwargs);
  }
  PyObject* result = call_predictor(own, predictor, args, kwargs);
  Py_DECREF(predictor);
  if (result != nullptr) {
    count_call(own, Passing::kNo);
    own->known->errors = 0;
    return result;
  }
  if (PyErr_ExceptionMatches(PyExc_Exception) == 0) return nullptr;  // an interrupt is the caller's
  return call_after_error(own, door, module, args, kwargs);
}

PyObject* enter(Entrance* own, Door door, PyObject* module, PyObject* args, PyObject* kwargs) {
  bool changed = false;
  if (!follow_class(own, changed)) return nullptr;
  if (is_inside() || !is_module_of(own, module)) return call_plain(own, door, module, args, kwargs);
  if (door == Door::kForward && (is_passed_on(module) || own->forward_only_inside)) {
    return call_plain(own, door, module, args, kwargs);
  }
  std::uint64_t structure = 0;
  std::optional<bool> weights;
  const Passing found = changed ? Passing::kClass : why_passed(own, door, module, args, kwargs, structure, weights);
  if (found == Passing::kNo) return serve(own, door, module, args, kwargs);
  count_call(own, found);
  if (found == Passing::kFirst) {
    Passing seen = Passing::kMost;
    PyObject* result = call_first(own, door, module, args, kwargs, structure, seen);
    if (result == nullptr || seen != Passing::kNo) return result;
    const bool again = serves_first(own);
    if (!again && PyErr_Occurred() == nullptr) return result;
    Py_DECREF(result);
    if (!again) return nullptr;
    return serve(own, door, module, args, kwargs);
  }
  return call_plain(own, door, module, args, kwargs);
}

// Of calls that whoever asks sends there, of positional arguments each, or of the only one with these keywords:
// (how many of the first the predictor serves, the predictor), or the reason, a text, where the module is to be called.
PyObject* serve_elsewhere(Entrance* own, Door door, PyObject* module, PyObject* calls, PyObject* kwargs) {
  bool changed = false;
  if (!follow_class(own, changed)) return nullptr;
  const bool passed =
      changed || is_inside() || !is_module_of(own, module) || (door == Door::kForward && own->forward_only_inside);
  Passing found = passed ? Passing::kClass : Passing::kNo;
  std::optional<bool> weights;  // nothing runs between these looks
  Py_ssize_t served = 0;
  for (; found == Passing::kNo && served < PyTuple_GET_SIZE(calls); ++served) {
    std::uint64_t structure = 0;
    found = why_passed(own, door, module, PyTuple_GET_ITEM(calls, served), kwargs, structure, weights);
    if (found != Passing::kNo) break;
  }
  if (served == 0) return PyUnicode_FromString(to_string(found));
  PyObject* predictor = predictor_of(own);
  if (predictor == nullptr) {
    return PyErr_Occurred() != nullptr ? nullptr : PyUnicode_FromString(to_string(Passing::kNoPredictor));
  }
  return Py_BuildValue("nN", served, predictor);
}

// So many calls went to the predictor by whoever had asked for it.
PyObject* note_served(PyObject* self, PyObject* calls) {
  const unsigned long times = PyLong_AsUnsignedLong(calls);
  if (PyErr_Occurred() != nullptr) return nullptr;
  entrance(self)->known->counts.at(static_cast<std::size_t>(Passing::kNo)) += times;
  Py_RETURN_NONE;
}

// Called as (module, args, kwargs), by the methods of the made class.
template <Door door, PyObject* (*how)(Entrance*, Door, PyObject*, PyObject*, PyObject*)>
PyObject* come(PyObject* self, PyObject* const* arguments, Py_ssize_t count) {
  if (count != 3 || !PyTuple_CheckExact(arguments[1]) || !PyDict_CheckExact(arguments[2])) {
    PyErr_SetString(PyExc_TypeError, "an entrance takes (module, args, kwargs)");
    return nullptr;
  }
  PyObject* kept = Py_NewRef(self);  // restore() may take it from the class meanwhile
  PyObject* result = guarded([&] { return how(entrance(self), door, arguments[0], arguments[1], arguments[2]); });
  Py_DECREF(kept);
  return result;
}

template <Door door, PyObject* (*how)(Entrance*, Door, PyObject*, PyObject*, PyObject*)>
PyMethodDef way_in(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(come<door, how>)), METH_FASTCALL, ""};
}

// Of a module that is dead, or restored.
PyObject* shut_entrance(PyObject* self, PyObject* /*reference*/) {
  Entrance* own = entrance(self);
  Py_CLEAR(own->module);
  Py_CLEAR(own->predictor);
  Py_CLEAR(own->core);
  Py_CLEAR(own->keeper);
  Py_RETURN_NONE;
}

// Called once the class has the methods by which calls come here.
PyObject* watch_class(PyObject* self, PyObject* /*none*/) {
  entrance(self)->known->watch.start(reinterpret_cast<PyTypeObject*>(entrance(self)->type));
  Py_RETURN_NONE;
}

PyObject* open_predictor(PyObject* self, PyObject* /*none*/) {
  PyObject* predictor = predictor_of(entrance(self));
  if (predictor == nullptr && PyErr_Occurred() == nullptr) Py_RETURN_NONE;
  return predictor;
}

PyObject* get_module(PyObject* self, void* /*closure*/) {
  PyObject* module = entrance(self)->module == nullptr ? nullptr : PyWeakref_GetObject(entrance(self)->module);
  return Py_NewRef(module == nullptr ? Py_None : module);
}

PyObject* get_keeper(PyObject* self, void* /*closure*/) {
  return Py_NewRef(entrance(self)->keeper == nullptr ? Py_None : entrance(self)->keeper);
}

PyObject* get_opened(PyObject* self, void* /*closure*/) {
  return Py_NewRef(entrance(self)->predictor == nullptr ? Py_None : entrance(self)->predictor);
}

PyObject* get_counts(PyObject* self, void* /*closure*/) {
  return guarded([&] {
    py::dict found;
    for (std::size_t i = 0; i < entrance(self)->known->counts.size(); ++i) {
      const std::uint64_t times = entrance(self)->known->counts.at(i);
      if (times != 0) found[to_string(static_cast<Passing>(i))] = py::int_(times);
    }
    return found.release().ptr();
  });
}

int traverse_entrance(PyObject* self, visitproc visit, void* arg) {
  const Entrance* own = entrance(self);
  Py_VISIT(Py_TYPE(self));
  Py_VISIT(own->module);
  Py_VISIT(own->type);
  Py_VISIT(own->seen_type);
  Py_VISIT(own->find_plain);
  Py_VISIT(own->plain_call);
  Py_VISIT(own->plain_forward);
  Py_VISIT(own->keeper);
  Py_VISIT(own->predictor);
  Py_VISIT(own->core);
  return own->known == nullptr ? 0 : own->known->watch.traverse(visit, arg);
}

int clear_entrance(PyObject* self) {
  Entrance* own = entrance(self);
  Py_CLEAR(own->module);
  Py_CLEAR(own->type);
  Py_CLEAR(own->seen_type);
  if (own->known != nullptr) own->known->watch.clear();
  Py_CLEAR(own->find_plain);
  Py_CLEAR(own->plain_call);
  Py_CLEAR(own->plain_forward);
  Py_CLEAR(own->keeper);
  Py_CLEAR(own->predictor);
  Py_CLEAR(own->core);
  return 0;
}

void dealloc_entrance(PyObject* self) {
  PyObject_GC_UnTrack(self);
  entrance(self)->known->watch.clear();
  delete entrance(self)->known;
  entrance(self)->known = nullptr;
  raw_dealloc<clear_entrance>(self);
}

PyObject* make_entrance(PyTypeObject* type, PyObject* args, PyObject* kwargs) {
  PyObject* module = nullptr;
  PyObject* made = nullptr;
  PyObject* find_plain = nullptr;
  PyObject* keeper = nullptr;
  int is_made = 0;
  if (kwargs != nullptr && PyDict_GET_SIZE(kwargs) != 0) {
    PyErr_SetString(PyExc_TypeError, "Entrance takes no keywords");
    return nullptr;
  }
  if (PyArg_ParseTuple(args, "OO!OOp", &module, &PyType_Type, &made, &find_plain, &keeper, &is_made) == 0) {
    return nullptr;
  }
  PyObject** place = place_of_dict(module);
  if (place == nullptr) {
    PyErr_SetString(PyExc_TypeError, "the module has no __dict__");
    return nullptr;
  }
  PyObject* self = type->tp_alloc(type, 0);
  if (self == nullptr) return nullptr;
  Entrance* own = entrance(self);
  own->known = new Calls;
  own->dict = *place;
  own->type = Py_NewRef(made);
  own->seen_type = Py_NewRef(made);
  own->find_plain = Py_NewRef(find_plain);
  own->keeper = Py_NewRef(keeper);
  own->made = is_made != 0;
  if (!take_plain(own)) {
    Py_DECREF(self);
    return nullptr;
  }
  PyObject* on_death = PyObject_GetAttrString(self, "shut");
  own->module = on_death == nullptr ? nullptr : PyWeakref_NewRef(module, on_death);
  Py_XDECREF(on_death);
  if (own->module == nullptr) {
    Py_DECREF(self);
    return nullptr;
  }
  return self;
}

}  // namespace

void register_entrance(py::module_& module) {
  set_up_passing();
  static std::array<PyMethodDef, 9> methods{{way_in<Door::kCall, enter>("call"),
                                             way_in<Door::kForward, enter>("forward"),
                                             way_in<Door::kCall, serve_elsewhere>("who_serves_call"),
                                             way_in<Door::kForward, serve_elsewhere>("who_serves_forward"),
                                             {"note_served", note_served, METH_O, ""},
                                             {"shut", shut_entrance, METH_O, ""},
                                             {"open", open_predictor, METH_NOARGS, ""},
                                             {"watch", watch_class, METH_NOARGS, ""},
                                             {nullptr, nullptr, 0, nullptr}}};
  static std::array<PyGetSetDef, 5> attributes{{{"module", get_module, nullptr, "", nullptr},
                                                {"keeper", get_keeper, nullptr, "", nullptr},
                                                {"opened", get_opened, nullptr, "", nullptr},
                                                {"counts", get_counts, nullptr, "", nullptr},
                                                {nullptr, nullptr, nullptr, nullptr, nullptr}}};
  std::array<PyType_Slot, 8> slots{{{Py_tp_new, reinterpret_cast<void*>(make_entrance)},
                                    {Py_tp_dealloc, reinterpret_cast<void*>(dealloc_entrance)},
                                    {Py_tp_traverse, reinterpret_cast<void*>(traverse_entrance)},
                                    {Py_tp_clear, reinterpret_cast<void*>(clear_entrance)},
                                    {Py_tp_methods, methods.data()},
                                    {Py_tp_getset, attributes.data()},
                                    {Py_tp_doc, const_cast<char*>("The way into an accelerated module.")},
                                    {0, nullptr}}};
  entrance_type = add_raw_type(module, "torchpool._core.Entrance", sizeof(Entrance), slots.data());
}

}  // namespace torchpool
