// A call on its way from its arguments to whoever runs it.
#pragma once

#include <memory>
#include <optional>

#include "bindings/call/ambient.h"
#include "bindings/call/call_form.h"
#include "bindings/predictor/call_kind.h"
#include "core/sync/call_order.h"

namespace torchpool {

class LearnPromise;

struct PreparedCall {
  FlatCall flat;
  Ambient ambient;
  std::shared_ptr<CallKind> kind;  // null: a call that nothing is learned from
  Route route = Route::kSerial;
  std::shared_ptr<const Contract> contract;  // kMerge; the kind may have another one soon
  CallShape shape;                           // by that contract
  std::optional<Mismatch> mismatch;
  TimePoint until = kNever;                     // its deadline, where it runs on its caller's thread
  TurnPtr turn;                                 // among the calls of the module; null: it is inside of another's
  bool new_sizes = false;                       // the module runs it by itself, and has not been run with such sizes
  bool learns_alone = false;                    // it is to be learned from once all calls before it are over
  std::shared_ptr<graph::GraphBackend> graph;   // null: the module serves it
  std::shared_ptr<std::atomic<HasState>> look;  // where to note whether the module has state; null: it is known
  std::shared_ptr<LearnPromise> promise;        // of a call with a deadline, which does not wait for what it teaches
};

}  // namespace torchpool
