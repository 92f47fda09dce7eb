// The extension module: what Python sees, in the order that a call meets it.
#include "bindings/awaited/awaited_call.h"
#include "bindings/call/map_results.h"
#include "bindings/call/pending.h"
#include "bindings/executor/bind_executor.h"
#include "bindings/graph/bind_graph.h"
#include "bindings/graph/module_watch.h"
#include "bindings/inplace/entrance.h"
#include "bindings/inplace/inside.h"
#include "bindings/interpreter/around_fork.h"
#include "bindings/interpreter/bound_gate.h"
#include "bindings/interpreter/bound_runtime.h"
#include "bindings/interpreter/errors.h"
#include "bindings/interpreter/fork.h"
#include "bindings/predictor/bound_predictor.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of torchpool. Private: use the torchpool package.";
  module.attr("torch_version") = TORCHPOOL_TORCH_VERSION;
  torchpool::register_errors(module);
  torchpool::register_runtime(module);
  torchpool::register_gates(module);
  torchpool::register_around_fork(module);
  torchpool::register_pending(module);
  torchpool::register_map_results(module);
  torchpool::register_awaited_call(module);
  torchpool::register_graph(module);
  torchpool::register_predictor(module);
  torchpool::register_watches(module);
  torchpool::register_inside(module);
  torchpool::register_entrance(module);
  torchpool::register_executor(module);
  torchpool::register_fork(module);
}
