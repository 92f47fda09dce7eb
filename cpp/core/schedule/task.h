// The unit of work: something that steps on a worker.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

namespace torchpool {

// Which threads a task runs on. Compute workers never wait for an interpreter; interpreter workers may.
enum class Lane : std::uint8_t { kCompute, kInterpreter };

// Held by an interpreter worker from before it takes a batch (so that the batch grows until it can really
// start) until the task gives it up or the step ends. The bindings supply the one that holds the GIL.
class LaneGate {
 public:
  virtual ~LaneGate() = default;
  virtual void enter() = 0;
  virtual void leave() noexcept = 0;  // idempotent
};

// What a task knows of the worker that steps it.
struct WorkerContext {
  int worker = 0;
  Lane lane = Lane::kCompute;
  int cores = 1;             // leased for this step; use as many intra-op threads
  LaneGate* gate = nullptr;  // null on lanes without one
  bool typical = true;       // whether the time of this step tells what such a batch takes; false after a failure
  void leave_gate() noexcept {
    if (gate != nullptr) gate->leave();
  }
};

class Event;

struct Step {
  enum class Kind : std::uint8_t { kDone, kAgain, kPending };
  Kind kind = Kind::kDone;
  Event* event = nullptr;      // kPending: step again once it is set
  std::optional<Lane> lane{};  // kAgain: the lane of the next step; empty: the same
  static Step done() { return {}; }
  static Step again() { return {Kind::kAgain}; }
  // Requires: the lane has workers.
  static Step again_on(Lane lane) { return {Kind::kAgain, nullptr, lane}; }
  static Step pending_on(Event& event) { return {Kind::kPending, &event}; }
};

class Task {
 public:
  virtual ~Task() = default;
  // Must not throw: a task resolves whoever waits for it, with an error where need be.
  virtual Step step(WorkerContext& context) noexcept = 0;
};

}  // namespace torchpool
