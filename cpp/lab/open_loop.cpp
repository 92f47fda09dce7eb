#include "lab/open_loop.h"

#include <sys/prctl.h>
#include <time.h>

#include <atomic>
#include <cerrno>
#include <cmath>
#include <thread>

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

using RepeatedCall = MeasuredPredictor::RepeatedCall;
using Submitted = MeasuredPredictor::Submitted;

enum Status : std::int8_t { kSucceeded, kExpired, kFailed, kRejected };

class ScheduledRequest : public CallRequest {
 public:
  ScheduledRequest(const RepeatedCall& call, const RequestInfo& facts, TimePoint scheduled, Outcome& outcome,
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
    outcome_.latency = to_seconds(Clock::steady().now() - scheduled_);
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

py::dict open_loop(MeasuredPredictor& predictor, const py::list& calls, const std::vector<double>& arrivals,
                   std::optional<double> deadline, int priority, bool block) {
  if (calls.empty()) throw py::value_error("open_loop needs at least one call");
  for (std::size_t i = 0; i < arrivals.size(); ++i) {
    if (!(arrivals[i] >= (i > 0 ? arrivals[i - 1] : 0.0) && arrivals[i] < 1e9)) {
      throw py::value_error("arrivals must be seconds of 0 or more, in order");
    }
  }
  if (deadline && std::isnan(*deadline)) throw py::value_error("deadline must be a number of seconds");
  if (deadline && *deadline >= 1e9) deadline.reset();  // never
  std::vector<RepeatedCall> repeated;
  for (const py::handle item : calls) {
    const auto pair = py::cast<py::tuple>(item);
    std::optional<RepeatedCall> call = predictor.repeated(pair[0], pair[1]);
    if (!call) throw py::value_error("open_loop takes calls that share batches; explain() says why these do not");
    call->info.priority = priority;
    repeated.push_back(std::move(*call));
  }

  std::vector<Outcome> outcomes(arrivals.size());
  std::atomic<std::int64_t> open{0};
  std::atomic<bool> stopped{false};
  double cpu_seconds = 0;
  double wall_seconds = 0;
  const auto generate = [&] {
    prctl(PR_SET_TIMERSLACK, 1000UL);  // ns; the usual 50 us would be half of a small model's latency
    const double cpu_before = thread_cpu_seconds();
    const TimePoint start = Clock::steady().now() + std::chrono::milliseconds(1);
    for (std::size_t i = 0; i < arrivals.size() && !stopped.load(std::memory_order_relaxed); ++i) {
      const TimePoint scheduled = start + from_seconds(arrivals[i]);
      if (Clock::steady().now() < scheduled) sleep_until(scheduled);
      const RepeatedCall& call = repeated[i % repeated.size()];
      RequestInfo info = call.info;
      if (deadline) info.deadline = scheduled + from_seconds(*deadline);
      Outcome& outcome = outcomes[i];
      outcome.seconds_late = to_seconds(Clock::steady().now() - scheduled);
      const auto request = std::make_shared<ScheduledRequest>(call, info, scheduled, outcome, open);
      open.fetch_add(1, std::memory_order_relaxed);
      const Submitted submitted = predictor.submit_again(call, request, block);
      if (submitted == Submitted::kAdmitted) continue;
      open.fetch_sub(1, std::memory_order_relaxed);
      outcome.status = submitted == Submitted::kExpired ? kExpired : kRejected;
      if (submitted == Submitted::kClosed) stopped = true;
    }
    cpu_seconds = thread_cpu_seconds() - cpu_before;
    while (open.load(std::memory_order_acquire) > 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    wall_seconds = to_seconds(Clock::steady().now() - start);
  };
  std::atomic<bool> done{false};
  std::thread generator([&] {
    generate();
    done.store(true, std::memory_order_release);
  });
  bool interrupted = false;
  while (!done.load(std::memory_order_acquire)) {
    {
      const py::gil_scoped_release release;
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
    }
    if (!interrupted && PyErr_CheckSignals() != 0) {
      interrupted = true;
      stopped = true;
    }
  }
  {
    const py::gil_scoped_release release;
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
