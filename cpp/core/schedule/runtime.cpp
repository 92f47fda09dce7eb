#include "core/schedule/runtime.h"

#include <stdexcept>
#include <utility>

#include "core/machine/topology.h"
#include "core/schedule/scheduler.h"
#include "core/schedule/worker.h"
#include "core/sync/error.h"

namespace torchpool {

Runtime::Runtime(RuntimeOptions options)
    : options_(std::move(options)),
      workers_(options_.workers > 0 ? options_.workers : usable_cores(read_topology())),
      clock_(options_.clock != nullptr ? *options_.clock : Clock::steady()),
      scheduler_(std::make_shared<Scheduler>(workers_.load(), clock_)),
      timer_(clock_) {}

Runtime::~Runtime() {
  close();
}

std::shared_ptr<Channel> Runtime::open(ChannelOptions options, BatchHandler& handler,
                                       std::shared_ptr<ChannelStats> stats) {
  return open(std::move(options), std::shared_ptr<BatchHandler>(std::shared_ptr<void>(), &handler), std::move(stats));
}

std::shared_ptr<Channel> Runtime::open(ChannelOptions options, std::shared_ptr<BatchHandler> handler,
                                       std::shared_ptr<ChannelStats> stats) {
  ensure_started(options.lane);
  auto state =
      std::make_shared<ChannelState>(std::move(options), std::move(handler), std::move(stats), scheduler_, clock_);
  scheduler_->add_channel(state);
  return std::make_shared<Channel>(std::move(state));
}

void Runtime::post(Lane lane, std::unique_ptr<Task> task) {
  ensure_started(lane);
  TaskRun run;
  run.task = std::move(task);
  run.lane = lane;
  scheduler_->post(std::move(run));
}

InlineLease Runtime::try_inline(Channel& channel, InlineKind kind) {
  return scheduler_->try_inline(*channel.state_, kind) ? InlineLease(channel.state_, kind) : InlineLease();
}

void Runtime::watch_deadline(const RequestPtr& request) noexcept {
  timer_.watch(request);
}

void Runtime::ensure_started(Lane lane) {
  std::atomic<bool>& up = lane_up_[static_cast<std::size_t>(lane)];
  if (up.load(std::memory_order_acquire)) return;
  MutexLock lock(start_mutex_);
  if (up.load(std::memory_order_relaxed)) return;
  if (scheduler_->stopping()) throw Closed("the runtime is closed");
  const LaneHooks& hooks = lane == Lane::kCompute ? options_.compute : options_.interpreter;
  const int workers = this->workers();
  scheduler_->set_workers(lane, workers);
  ThreadGroup::Hooks thread_hooks;
  thread_hooks.start = hooks.start;
  thread_hooks.stop = hooks.stop;
  // `hooks` lives as long as this runtime, which joins; the scheduler may be needed by a channel for longer.
  thread_hooks.body = [scheduler = scheduler_, lane, &hooks](int worker) {
    run_worker(*scheduler, scheduler->worker(lane, worker), hooks);
  };
  try {
    threads_[static_cast<std::size_t>(lane)] = std::make_unique<ThreadGroup>(workers, std::move(thread_hooks));
  } catch (...) {
    scheduler_->set_workers(lane, 0);
    throw;
  }
  up.store(true, std::memory_order_release);
}

void Runtime::close() {
  if (scheduler_of_this_thread() == scheduler_.get())
    throw std::logic_error("a runtime cannot be closed by its worker");
  scheduler_->close();
  {
    MutexLock joining(join_mutex_);
    for (ThreadGroup* group : threads()) {
      if (group != nullptr) group->join();
    }
  }
  timer_.stop();
}

void Runtime::resize(int workers, int cores_per_batch) {
  if (workers < 1 || cores_per_batch < 1) throw std::invalid_argument("a runtime needs at least one worker and core");
  if (scheduler_of_this_thread() == scheduler_.get()) {
    throw std::logic_error("a runtime cannot be resized by its worker");
  }
  MutexLock joining(join_mutex_);
  std::exception_ptr error;
  {
    MutexLock lock(start_mutex_);
    if (scheduler_->stopping()) throw Closed("the runtime is closed");
    try {
      set_workers_locked(workers);
      workers_.store(workers, std::memory_order_relaxed);
      cores_per_batch_.store(cores_per_batch, std::memory_order_relaxed);
      scheduler_->set_cores(workers * cores_per_batch, cores_per_batch);
    } catch (...) {
      error = std::current_exception();
      set_workers_locked(this->workers());
    }
  }
  for (ThreadGroup* group : threads()) {
    if (group != nullptr) group->shrink(this->workers());
  }
  if (error != nullptr) std::rethrow_exception(error);
}

bool Runtime::pause(TimePoint until) {
  scheduler_->pause();
  return scheduler_->wait_paused(until);
}

void Runtime::resume() {
  scheduler_->resume();
}

void Runtime::set_workers_locked(int workers) {
  for (const Lane lane : {Lane::kCompute, Lane::kInterpreter}) {
    const std::unique_ptr<ThreadGroup>& group = threads_[static_cast<std::size_t>(lane)];
    if (group == nullptr) continue;
    scheduler_->set_workers(lane, workers);
    if (workers > group->size()) group->grow(workers - group->size());
  }
}

std::array<ThreadGroup*, 2> Runtime::threads() {
  MutexLock lock(start_mutex_);
  return {threads_[0].get(), threads_[1].get()};
}

Clock& Runtime::clock() const noexcept {
  return clock_;
}

bool Runtime::on_worker_thread() noexcept {
  return scheduler_of_this_thread() != nullptr;
}

}  // namespace torchpool
