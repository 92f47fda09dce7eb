// Calls that arrive by a schedule, whatever becomes of those before: load as servers see it, from a native thread.
#include <sys/prctl.h>
#include <time.h>

#include <cerrno>
#include <thread>

#include "bindings/predictor/bound_predictor.h"
#include "core/sync/error.h"

namespace torchpool {

namespace {

// The inputs are detached copies that Python has never seen, and the schedule keeps a handle to each: any thread may
// drop one.
class DropsAtOnce : public Reclaimer {
 public:
  static DropsAtOnce& instance() {
    static auto* const only = new DropsAtOnce;
    return *only;
  }
  void reclaim(std::vector<at::Tensor> tensors) noexcept override { tensors.clear(); }
};

// Of one arrival. `latency` counts from the scheduled time, so that a generator or a queue that lags is not forgotten.
struct Outcome {
  double seconds_late = 0;  // its submission
  double latency = -1;
  std::int8_t status = -1;
};

// What is submitted again and again.
struct Template {
  RequestInfo info;
  std::shared_ptr<const Contract> contract;
  std::shared_ptr<Backend> backend;
  std::shared_ptr<const CallForm> form;
  std::shared_ptr<const ResultForm> result_form;
  std::vector<at::Tensor> inputs;
  CallShape shape;
  std::shared_ptr<Channel> channel;
};

enum Status : std::int8_t { kSucceeded, kExpired, kFailed, kRejected };

class ScheduledRequest : public CallRequest {
 public:
  ScheduledRequest(const Template& call, const RequestInfo& facts, TimePoint scheduled, Outcome& outcome,
                   std::atomic<std::int64_t>& open)
      : CallRequest(facts, DropsAtOnce::instance()), scheduled_(scheduled), outcome_(outcome), open_(open) {
    contract = call.contract;
    backend = call.backend;
    form = call.form;
    result_form = call.result_form;
    inputs = call.inputs;
    shape = call.shape;
  }

 protected:
  void on_resolved() noexcept override {
    outcome_.latency = std::chrono::duration<double>(Clock::steady().now() - scheduled_).count();
    outcome_.status = state() == RequestState::kSucceeded ? kSucceeded
                      : state() == RequestState::kExpired ? kExpired
                                                          : kFailed;
    outputs.clear();
    open_.fetch_sub(1, std::memory_order_release);
  }

 private:
  const TimePoint scheduled_;
  Outcome& outcome_;
  std::atomic<std::int64_t>& open_;
};

double thread_cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

// steady_clock is CLOCK_MONOTONIC.
void sleep_until(TimePoint until) {
  const auto ns = std::chrono::duration_cast<std::chrono::nanoseconds>(until.time_since_epoch()).count();
  const timespec time{ns / 1'000'000'000, ns % 1'000'000'000};
  while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &time, nullptr) == EINTR) {
  }
}

}  // namespace

py::dict BoundPredictor::open_loop(const py::list& calls, const std::vector<double>& arrivals,
                                   std::optional<double> deadline, int priority, bool block) {
  if (calls.empty()) throw py::value_error("open_loop needs at least one call");
  for (std::size_t i = 0; i < arrivals.size(); ++i) {
    if (!(arrivals[i] >= (i > 0 ? arrivals[i - 1] : 0.0) && arrivals[i] < 1e9)) {
      throw py::value_error("arrivals must be seconds of 0 or more, in order");
    }
  }
  if (deadline && std::isnan(*deadline)) throw py::value_error("deadline must be a number of seconds");
  if (deadline && *deadline >= 1e9) deadline.reset();  // never
  std::vector<Template> templates;
  for (const py::handle item : calls) {
    const auto pair = py::cast<py::tuple>(item);
    const py::tuple args = pair[0];
    const py::object kwargs = pair[1];
    PreparedCall call;
    reader_.read(args, kwargs, call);
    if (call.route != Route::kMerge || call.mismatch) {
      throw py::value_error("open_loop takes calls that share batches; explain() says why these do not");
    }
    Template one;
    one.info =
        call.variant->contract->request_info(call.flat.leaves, call.shape, call.graph ? 0 : call.ambient.merge_key);
    one.info.priority = priority;
    one.contract = call.variant->contract;
    one.backend = call.graph;
    one.form = call.variant->form;
    one.result_form = call.variant->result_form;
    for (const at::Tensor& leaf : call.flat.leaves) one.inputs.push_back(leaf.detach().clone());
    one.shape = call.shape;
    one.channel = channels_.of(call);
    templates.push_back(std::move(one));
  }

  std::vector<Outcome> outcomes(arrivals.size());
  std::atomic<std::int64_t> open{0};
  std::atomic<bool> stopped{false};
  double cpu_seconds = 0;
  double wall_seconds = 0;
  Runtime& core = runtime_->core();
  const auto generate = [&] {
    prctl(PR_SET_TIMERSLACK, 1000UL);  // ns; the usual 50 us would be half of a small model's latency
    const double cpu_before = thread_cpu_seconds();
    const TimePoint start = Clock::steady().now() + std::chrono::milliseconds(1);
    for (std::size_t i = 0; i < arrivals.size() && !stopped.load(std::memory_order_relaxed); ++i) {
      const TimePoint scheduled =
          start + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(arrivals[i]));
      if (Clock::steady().now() < scheduled) sleep_until(scheduled);
      const Template& call = templates[i % templates.size()];
      RequestInfo info = call.info;
      if (deadline)
        info.deadline = scheduled + std::chrono::duration_cast<Duration>(std::chrono::duration<double>(*deadline));
      Outcome& outcome = outcomes[i];
      outcome.seconds_late = std::chrono::duration<double>(Clock::steady().now() - scheduled).count();
      const auto request = std::make_shared<ScheduledRequest>(call, info, scheduled, outcome, open);
      open.fetch_add(1, std::memory_order_relaxed);
      try {
        call.channel->submit(request, block ? Admission::kBlock : Admission::kTry, kNever);
        if (deadline) core.watch_deadline(request);
      } catch (const Error& error) {  // it has no place; a queue that is closed ends the load
        open.fetch_sub(1, std::memory_order_relaxed);
        outcome.status = dynamic_cast<const DeadlineExceeded*>(&error) != nullptr ? kExpired : kRejected;
        if (dynamic_cast<const Closed*>(&error) != nullptr) stopped = true;
      }
    }
    cpu_seconds = thread_cpu_seconds() - cpu_before;
    while (open.load(std::memory_order_acquire) > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    wall_seconds = std::chrono::duration<double>(Clock::steady().now() - start).count();
  };
  std::atomic<bool> done{false};
  std::thread generator([&] {
    generate();
    done.store(true, std::memory_order_release);
  });
  bool interrupted = false;
  while (!done.load(std::memory_order_acquire)) {
    {
      const GilRelease release;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    if (!interrupted && PyErr_CheckSignals() != 0) {
      interrupted = true;
      stopped = true;
    }
  }
  {
    const GilRelease release;
    generator.join();
  }
  if (interrupted) throw py::error_already_set();

  py::list latency;
  py::list late;
  py::list status;
  for (const Outcome& outcome : outcomes) {
    latency.append(outcome.latency);
    late.append(outcome.seconds_late);
    status.append(static_cast<int>(outcome.status));
  }
  py::dict result;
  result["latency"] = latency;
  result["late"] = late;
  result["status"] = status;
  result["generator_cpu_seconds"] = cpu_seconds;
  result["seconds"] = wall_seconds;
  return result;
}

}  // namespace torchpool
