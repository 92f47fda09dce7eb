// The unit of work: something that steps on a worker.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>

namespace torchpool {

// Which threads a task runs on. Compute workers never wait for an interpreter; interpreter workers may.
enum class Lane : std::uint8_t { kCompute, kInterpreter };

// An interpreter worker enters the gate before it takes a batch, so that the batch grows until it can start, and leaves
// it when the task says so or the step ends. The bindings supply a gate that holds the interpreter's lock.
class LaneGate {
 public:
  virtual ~LaneGate() = default;
  virtual void enter() = 0;
  virtual void leave() noexcept = 0;  // idempotent
};

// What a task knows of the worker that runs its step.
struct WorkerContext {
  int worker = 0;
  Lane lane = Lane::kCompute;
  int cores = 1;             // leased for this step: the number of intra-op threads to use
  LaneGate* gate = nullptr;  // null on lanes without one
  bool typical = true;       // whether the cost model may learn from this step's time; false after a failure
  void leave_gate() noexcept {
    if (gate != nullptr) gate->leave();
  }
};

class Event;

struct Step {
  enum class Kind : std::uint8_t { kDone, kAgain, kPending };
  Kind kind = Kind::kDone;
  Event* event = nullptr;      // kPending: step again once the event is set
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
  // Must not throw: the task itself resolves its requests, with an error where need be.
  virtual Step step(WorkerContext& context) noexcept = 0;
};

}  // namespace torchpool
