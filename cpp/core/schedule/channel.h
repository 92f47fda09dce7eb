// One predictor's way into a runtime.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "core/queue/admission_queue.h"
#include "core/schedule/rotation.h"
#include "core/schedule/task.h"

namespace torchpool {

// Makes a task of a batch: a predictor, as the runtime sees it. Called on the worker with no lock held. An exception
// from make_task() fails the batch.
class BatchHandler {
 public:
  virtual ~BatchHandler() = default;
  virtual std::unique_ptr<Task> make_task(Batch batch) = 0;
};

struct ChannelOptions {
  std::string name;
  Lane lane = Lane::kCompute;
  std::int64_t max_rows = 1;    // most rows of a batch, whatever the policy says
  std::int64_t first_rows = 0;  // most rows of a batch until the policy knows more; 0: max_rows
  int max_running = 0;          // batches at a time; 0: as many as there are workers; 1: in order of arrival
  QueueLimits limits;
  // How large batches are; null: as large as the limits allow, at once.
  PolicyMaker make_policy;
  std::shared_ptr<CostModel> cost;  // the learned costs of batches; null: a new model
  FairSharePtr share;               // of the workers' time; null: a share of the channel's own, of weight 1
};

struct ChannelState;

// Which cores a caller gets that runs its own call.
enum class InlineKind : std::uint8_t {
  kAllCores,  // all cores: work that arrives meanwhile waits, as it would for a worker
  kTiny,      // no core of its own: for calls that end sooner than a worker could be woken; any number at a time
  kPlace,     // no core of its own: it counts as a running batch of its channel
};

// One stream of requests of one predictor in one lane: the queue, the statistics, the place in the runtime's rotation.
// Safe to use and to destroy after the runtime was closed or destroyed.
class Channel {
 public:
  explicit Channel(std::shared_ptr<ChannelState> state);
  // Closes, fails waiting requests, and waits for running batches, unless the batches share the handler (see
  // Runtime::open). On a worker's thread the destructor does not wait, since a running batch may be on that very
  // thread: the handler must then outlive the running batches.
  ~Channel();
  Channel(const Channel&) = delete;
  Channel& operator=(const Channel&) = delete;

  // As AdmissionQueue::push, then wakes a worker.
  PushResult submit(const RequestPtr& request, Admission admission, TimePoint give_up);
  bool has_room(const RequestInfo& info);  // as AdmissionQueue::has_room
  // Cancels a request that has not started, and frees its place. True when this call cancelled the request.
  bool cancel(Request& request) noexcept;
  void close(bool fail_waiting);       // refuses from now on; idempotent
  bool wait_drained(TimePoint until);  // nothing waits and nothing runs
  void set_rows(std::int64_t first, std::int64_t most) noexcept;
  void set_policy(std::unique_ptr<BatchPolicy> policy);
  const CostModel& cost() const noexcept;
  // Tells the cost model how long an inline call took, on one core or on all.
  void record_inline(const BatchSize& size, Duration took, bool one_core) noexcept;
  std::shared_ptr<const CostModel> shared_cost() const noexcept;
  std::int64_t waiting_rows() const noexcept;
  // How many rows in flight fill the batches that pay, as far as has been learned: see AdmissionQueue::useful_rows. A
  // few before the first batch, 0 where each call runs alone.
  std::int64_t useful_rows() const noexcept;
  int running() const noexcept;

 private:
  friend class Runtime;
  std::shared_ptr<ChannelState> state_;
};

// Permission for a caller to run its own call; given back at destruction. Requires: not held while the channel is
// destroyed.
class InlineLease {
 public:
  InlineLease() = default;
  // Of a granted Scheduler::try_inline.
  InlineLease(std::shared_ptr<ChannelState> state, InlineKind kind) noexcept;
  InlineLease(InlineLease&&) noexcept = default;
  InlineLease& operator=(InlineLease&&) noexcept;
  ~InlineLease() { give_back(); }
  explicit operator bool() const noexcept { return state_ != nullptr; }
  // True while this thread has a lease. A nested call must then run at once on this thread: in the queue it would wait
  // for the lease, which waits for the call. Requires: a lease is given back by the thread that got it.
  static bool held_by_this_thread() noexcept;
  // Of all cores: workers start again, and only the channel's place is kept. For calls that may wait for other work.
  void give_back_cores() noexcept;

 private:
  void give_back() noexcept;
  std::shared_ptr<ChannelState> state_;
  InlineKind kind_ = InlineKind::kAllCores;
};

}  // namespace torchpool
