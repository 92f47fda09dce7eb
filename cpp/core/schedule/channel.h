// One predictor's way into a runtime.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "core/queue/admission_queue.h"
#include "core/schedule/rotation.h"
#include "core/schedule/task.h"

namespace torchpool {

// Makes a task of a batch: what a predictor is to the runtime. Called on the worker with no lock held. What
// it throws fails the batch.
class BatchHandler {
 public:
  virtual ~BatchHandler() = default;
  virtual std::unique_ptr<Task> make_task(Batch batch) = 0;
};

struct ChannelOptions {
  std::string name;
  Lane lane = Lane::kCompute;
  std::int64_t max_rows = 1;    // of a batch, whatever the policy says
  std::int64_t first_rows = 0;  // of a batch until the policy knows more; 0: max_rows
  int max_running = 0;          // batches at a time; 0: as many as there are workers; 1: in order of arrival
  QueueLimits limits;
  // How large batches are; null: as large as may be, at once.
  std::function<std::unique_ptr<BatchPolicy>(const std::shared_ptr<const CostModel>&)> make_policy;
  std::shared_ptr<CostModel> cost;  // what is learned of batches; null: a new one
  FairSharePtr share;               // of the workers' time; null: one of its own, of weight 1
};

struct ChannelState;

// What a caller that runs its own call gets.
enum class InlineKind : std::uint8_t {
  kAllCores,  // to itself: work that arrives meanwhile waits, as it would for a worker
  kTiny,      // none: for calls that are over before a worker could have been told, any number at a time
};

// One stream of requests of one predictor in one lane: its queue, its statistics, its place in the runtime's
// rotation. Safe to use and destroy after its runtime was closed or destroyed.
class Channel {
 public:
  explicit Channel(std::shared_ptr<ChannelState> state);
  // Closes, fails what waits, and waits for what runs, unless that shares the handler (see Runtime::open).
  // On a worker thread it does not wait, since what runs may be that very worker: the handler must then outlive the
  // batches that run.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // As AdmissionQueue::push, then wakes a worker.
  PushResult submit(const RequestPtr& request, Admission admission, TimePoint give_up);
  // Runs these together, as one batch, when its turn comes; they take no place in the queue, whose bounds do not count
  // for them. Requires: the handler can run them together. Throws Closed; they have
  // failed with it then.
  void submit_batch(std::vector<RequestPtr> requests);
  // Cancels where it has not started; frees its place. True when this call cancelled it.
  bool cancel(Request& request) noexcept;
  void close(bool fail_waiting);       // refuses from now on; idempotent
  bool wait_drained(TimePoint until);  // nothing waits and nothing runs
  void set_rows(std::int64_t first, std::int64_t most) noexcept;
  void set_policy(std::unique_ptr<BatchPolicy> policy);
  const CostModel& cost() const noexcept;
  // An inline call took so long.
  void record_inline(const BatchSize& size, Duration took, InlineKind kind) noexcept;
  std::shared_ptr<const CostModel> shared_cost() const noexcept;
  Duration arrival_gap();
  std::int64_t waiting_rows() const noexcept;
  int running() const noexcept;

 private:
  friend class Runtime;
  std::shared_ptr<ChannelState> state_;
};

// Leave for a caller to run its own call; given back at destruction. Requires: not held while its channel is destroyed.
class InlineLease {
 public:
  InlineLease() = default;
  // Of a granted Scheduler::try_inline.
  InlineLease(std::shared_ptr<ChannelState> state, InlineKind kind) noexcept;
  InlineLease(InlineLease&&) noexcept = default;
  InlineLease& operator=(InlineLease&&) noexcept;
  ~InlineLease() { give_back(); }
  explicit operator bool() const noexcept { return state_ != nullptr; }
  int cores() const noexcept;  // 0 when not granted; 1 of a tiny one
  // True while this thread has one: what it submits then waits for itself, so nested calls must run on the
  // spot. Requires: a lease is given back by the thread that got it.
  static bool held_by_this_thread() noexcept;

 private:
  void give_back() noexcept;
  std::shared_ptr<ChannelState> state_;
  InlineKind kind_ = InlineKind::kAllCores;
};

}  // namespace torchpool
