#include "lab/simulator/simulator.h"

#include <algorithm>
#include <functional>
#include <map>
#include <queue>
#include <stdexcept>
#include <tuple>
#include <utility>

#include "core/schedule/scheduler.h"
#include "core/sync/error.h"

namespace torchpool {
namespace {

class SimulatedRequest final : public Request {
 public:
  SimulatedRequest(const RequestInfo& facts, const Clock& clock, TimePoint arrival, SimulatedOutcome& outcome)
      : Request(facts), clock_(clock), arrival_(arrival), outcome_(outcome) {}

  void note_start(TimePoint start) noexcept { outcome_.started = start - arrival_; }

 protected:
  void on_resolved() noexcept override {
    outcome_.ended = clock_.now() - arrival_;
    outcome_.end =
        state() == RequestState::kSucceeded ? SimulatedOutcome::End::kSucceeded : SimulatedOutcome::End::kExpired;
  }

 private:
  const Clock& clock_;
  const TimePoint arrival_;
  SimulatedOutcome& outcome_;
};

// Batches are taken by the simulated workers themselves.
class NoTasks final : public BatchHandler {
 public:
  std::unique_ptr<Task> make_task(Batch /*batch*/) override { throw std::logic_error("a simulation makes no tasks"); }
};

struct Worker {
  WorkerSlot* slot = nullptr;
  Assignment assignment;
  Batch batch;
  bool busy = false;
};

enum class What : std::uint8_t { kStepEnds, kDeadline, kArrival, kTimedPark };

// In order of time, then kind (what ends frees room for what begins), then as they were made.
struct Happening {
  TimePoint time;
  What what = What::kArrival;
  std::uint64_t number = 0;
  std::size_t index = 0;  // of the worker or the call
  bool operator>(const Happening& other) const noexcept {
    return std::tie(time, what, number) > std::tie(other.time, other.what, other.number);
  }
};

class Simulator {
 public:
  Simulator(int workers, int cores_per_batch, std::vector<SimulatedPredictor> predictors,
            const std::vector<SimulatedCall>& calls)
      : calls_(calls),
        start_(clock_.now()),
        scheduler_(std::make_shared<Scheduler>(workers * cores_per_batch, clock_)) {
    scheduler_->set_cores(workers * cores_per_batch, cores_per_batch);
    scheduler_->set_workers(Lane::kCompute, workers);
    for (SimulatedPredictor& predictor : predictors) {
      predictor.options.lane = Lane::kCompute;
      costs_.push_back(std::move(predictor.cost));
      channels_.push_back(
          std::make_shared<ChannelState>(std::move(predictor.options), handler_, nullptr, scheduler_, clock_));
      scheduler_->add_channel(channels_.back());
    }
    result_.outcomes.resize(calls.size());
    requests_.resize(calls.size());
    workers_.resize(static_cast<std::size_t>(workers));
    for (std::size_t i = 0; i < workers_.size(); ++i) {
      workers_[i].slot = &scheduler_->worker(Lane::kCompute, static_cast<int>(i));
      look_for_work(i);
    }
  }

  Simulation run() {
    if (!calls_.empty()) add(start_ + calls_[0].arrival, What::kArrival, 0);
    while (!happenings_.empty()) {
      const Happening next = happenings_.top();
      happenings_.pop();
      if (next.time > clock_.now()) clock_.advance(next.time - clock_.now());
      happen(next);
      run_woken();
    }
    result_.lasted = clock_.now() - start_;
    scheduler_->close();
    return std::move(result_);
  }

 private:
  void add(TimePoint time, What what, std::size_t index) {
    happenings_.push({std::max(time, clock_.now()), what, next_number_++, index});
  }

  void happen(const Happening& next) {
    switch (next.what) {
      case What::kArrival:
        arrive(next.index);
        break;
      case What::kDeadline:
        if (const RequestPtr request = requests_[next.index]) {
          channels_[calls_[next.index].predictor]->queue->forget(*request);
          request->try_expire();
        }
        break;
      case What::kStepEnds:
        end_step(next.index);
        break;
      case What::kTimedPark: {
        Worker& worker = workers_[next.index];
        // It may have been woken since, and be parked for another time.
        if (worker.busy || worker.slot->park_until != next.time) break;
        if (worker.slot->parker.try_take()) {
          look_for_work(next.index);
          break;
        }
        scheduler_->stop_parking(*worker.slot);
        look_for_work(next.index);
        break;
      }
    }
  }

  void arrive(std::size_t index) {
    const SimulatedCall& call = calls_[index];
    if (index + 1 < calls_.size()) add(start_ + calls_[index + 1].arrival, What::kArrival, index + 1);
    RequestInfo info;
    info.rows = call.rows;
    info.length = call.length;
    info.extent = std::max<std::int64_t>(1, call.length);
    info.priority = call.priority;
    if (call.deadline > Duration::zero()) info.deadline = clock_.now() + call.deadline;
    const auto request = std::make_shared<SimulatedRequest>(info, clock_, clock_.now(), result_.outcomes[index]);
    const ChannelStatePtr& channel = channels_[call.predictor];
    try {
      channel->queue->push(request, Admission::kReject, kNever);
    } catch (const QueueFull&) {
      return;  // as its outcome says already
    }
    requests_[index] = request;
    if (info.deadline != kNever) add(info.deadline, What::kDeadline, index);
    scheduler_->notify(channel);
  }

  // Those that the scheduler has given a permit, one after the other: each may wake the next.
  void run_woken() {
    for (bool any = true; any;) {
      any = false;
      for (std::size_t i = 0; i < workers_.size(); ++i) {
        if (workers_[i].busy || !workers_[i].slot->parker.try_take()) continue;
        any = true;
        look_for_work(i);
      }
    }
  }

  // What core/worker does between two steps.
  void look_for_work(std::size_t index) {
    Worker& worker = workers_[index];
    while (scheduler_->expect_work(*worker.slot)) {
      worker.assignment = Assignment{};
      if (scheduler_->pick(*worker.slot, worker.assignment) && begin_step(index)) return;
    }
    if (worker.slot->park_until != kNever) add(worker.slot->park_until, What::kTimedPark, index);
  }

  bool begin_step(std::size_t index) {
    Worker& worker = workers_[index];
    Assignment& assignment = worker.assignment;
    const ChannelStatePtr channel = assignment.run.channel;
    Taken taken = channel->queue->take(assignment.limits);
    if (taken.batch.empty() && taken.hold_until > clock_.now()) {
      scheduler_->hold(*worker.slot, assignment, taken.hold_until);
      return false;
    }
    const BatchSize size = taken.batch.empty() ? BatchSize{0} : taken.batch.cost_size();
    scheduler_->started(*worker.slot, assignment,
                        size.rows > 0 && channel->cost->gains_by_cores(size.rows, size.length));
    if (taken.batch.empty()) {
      scheduler_->finished(*worker.slot, assignment);
      return false;
    }
    SimulatedBatch batch;
    batch.predictor =
        static_cast<std::size_t>(std::find(channels_.begin(), channels_.end(), channel) - channels_.begin());
    batch.worker = worker.slot->index;
    batch.cores = assignment.cores;
    batch.start = clock_.now() - start_;
    batch.size = taken.batch.cost_size();
    batch.size.limit = taken.limit;
    batch.took = std::max(Duration(1), costs_[batch.predictor](batch.size, assignment.cores));
    for (const RequestPtr& request : taken.batch.requests()) {
      static_cast<SimulatedRequest&>(*request).note_start(clock_.now());
    }
    worker.batch = std::move(taken.batch);
    worker.busy = true;
    assignment.step_took = batch.took;
    result_.batches.push_back(batch);
    steps_[index] = result_.batches.size() - 1;
    add(clock_.now() + batch.took, What::kStepEnds, index);
    return true;
  }

  void end_step(std::size_t index) {
    Worker& worker = workers_[index];
    const SimulatedBatch& batch = result_.batches[steps_[index]];
    channels_[batch.predictor]->cost->record(batch.size, batch.took, batch.cores == 1);
    for (const RequestPtr& request : worker.batch.requests()) request->succeed();
    worker.batch = Batch();
    worker.busy = false;
    scheduler_->finished(*worker.slot, worker.assignment);
    look_for_work(index);
  }

  const std::vector<SimulatedCall>& calls_;
  ManualClock clock_;
  const TimePoint start_;
  const std::shared_ptr<NoTasks> handler_ = std::make_shared<NoTasks>();
  std::shared_ptr<Scheduler> scheduler_;
  std::vector<CostCurve> costs_;
  std::vector<ChannelStatePtr> channels_;
  std::vector<RequestPtr> requests_;  // by call
  std::vector<Worker> workers_;
  std::map<std::size_t, std::size_t> steps_;  // by worker: its batch
  std::priority_queue<Happening, std::vector<Happening>, std::greater<>> happenings_;
  std::uint64_t next_number_ = 0;
  Simulation result_;
};

}  // namespace

Simulation simulate(int workers, int cores_per_batch, std::vector<SimulatedPredictor> predictors,
                    const std::vector<SimulatedCall>& calls) {
  if (workers < 1 || cores_per_batch < 1)
    throw std::invalid_argument("a simulation needs at least one worker and core");
  for (const SimulatedCall& call : calls) {
    if (call.predictor >= predictors.size()) throw std::invalid_argument("a call names a predictor that is not there");
  }
  return Simulator(workers, cores_per_batch, std::move(predictors), calls).run();
}

}  // namespace torchpool
