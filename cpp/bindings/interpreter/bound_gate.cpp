#include "bindings/interpreter/bound_gate.h"

#include <algorithm>
#include <optional>
#include <vector>

#include "bindings/executor/pool_worker.h"
#include "bindings/interpreter/gil.h"
#include "bindings/interpreter/waiting.h"

namespace torchpool {

namespace {

using Gates = std::vector<std::shared_ptr<UpdateGate>>;

// False when `seconds` passed before nothing ran any more: the gates stay closing.
bool take_gates(const Gates& gates, double seconds) {
  const bool slices = handles_signals();
  const TimePoint until = after_seconds(seconds);
  for (;;) {
    bool taken = false;
    {
      const GilRelease release;
      taken = UpdateGate::take_all(gates, Clock::steady(), slices ? std::min(until, signal_slice()) : until);
    }
    if (taken) return true;
    if (PyErr_CheckSignals() != 0) {
      const py::error_already_set raised;
      UpdateGate::open_all(gates);
      throw raised;
    }
    if (Clock::steady().now() >= until) return false;
  }
}

py::object run_inside(const std::shared_ptr<UpdateGate>& gate, const py::object& work) {
  const GateEntry entry = enter_gate(gate);
  const InGate in_gate(gate.get());
  return work();
}

// What an update's Python class has of C++: no signal's handler runs between the end of a with block and this.
class UpdateScope {
 public:
  // Has `self` leave, again where a handler (Ctrl-C) has ended that: calls would wait for it for ever.
  static void exit(const py::object& self, const py::args& error) {
    std::optional<py::error_already_set> interrupt;
    for (bool left = false; !left;) {
      try {
        self.attr("_leave")(*error);
        left = true;
      } catch (py::error_already_set& raised) {
        if (raised.matches(PyExc_Exception)) throw;
        interrupt = raised;
      }
    }
    if (interrupt) throw py::error_already_set(*interrupt);
  }
};

}  // namespace

GateEntry enter_gate(const std::shared_ptr<UpdateGate>& gate, TimePoint deadline) {
  if (gate->try_enter()) return GateEntry(gate);
  const ParkedTask parked(0);
  const bool slices = handles_signals();
  for (;;) {
    bool entered = false;
    {
      const GilRelease release;
      entered = gate->enter(Clock::steady(), slices ? std::min(deadline, signal_slice()) : deadline);
    }
    if (entered) return GateEntry(gate);
    if (Clock::steady().now() >= deadline) {
      PyErr_SetString(PyExc_TimeoutError, "the deadline of the call passed while the model's weights were updated");
      throw py::error_already_set();
    }
    if (PyErr_CheckSignals() != 0) throw py::error_already_set();
  }
}

void register_gates(py::module_& module) {
  py::class_<UpdateGate, std::shared_ptr<UpdateGate>>(module, "UpdateGate",
                                                      "Keeps runs of a model and changes of its weights apart.")
      .def(py::init<>())
      .def("run", &run_inside, py::arg("work"))
      .def("hold", &UpdateGate::hold, py::arg("here"))
      .def_property_readonly("one_at_a_time", &UpdateGate::admits_one_at_a_time)
      .def_property_readonly("held_here", &UpdateGate::held_by_this_thread)
      .def_property_readonly("entered_here", &UpdateGate::entered_by_this_thread);
  py::class_<UpdateScope>(module, "UpdateScope", "The scope of an update, which is left whatever signals come.")
      .def(py::init<>())
      .def("__exit__", &UpdateScope::exit);
  module.def("take_gates", &take_gates, py::arg("gates"), py::arg("seconds"),
             "Waits until nothing runs behind any of them, and holds them all; False when time ran out.");
  module.def("open_gates", [](const Gates& gates) { UpdateGate::open_all(gates); }, py::arg("gates"));
}

}  // namespace torchpool
