// What the tests of the core share. No test sleeps or looks at the wall clock: gates and manual clocks order
// threads.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "core/schedule/runtime.h"
#include "core/schedule/stats.h"

namespace torchpool::testing {

// Holds those who enter until it is released. A gate that nobody entered fails its test: the test proved
// nothing.
class Gate {
 public:
  Gate() = default;
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  ~Gate() {
    release();
    MutexLock lock(mutex_);
    while (inside_ > 0) changed_.wait(mutex_);
    EXPECT_GT(entered_, 0) << "nobody entered the gate";
  }
  void enter() {
    MutexLock lock(mutex_);
    ++entered_;
    ++inside_;
    changed_.notify_all();
    while (!released_) changed_.wait(mutex_);
    --inside_;
    changed_.notify_all();
  }
  void await(int entered) {
    MutexLock lock(mutex_);
    while (entered_ < entered) changed_.wait(mutex_);
  }
  void release() {
    MutexLock lock(mutex_);
    released_ = true;
    changed_.notify_all();
  }
  int entered() {
    MutexLock lock(mutex_);
    return entered_;
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  int entered_ TP_GUARDED_BY(mutex_) = 0;
  int inside_ TP_GUARDED_BY(mutex_) = 0;
  bool released_ TP_GUARDED_BY(mutex_) = false;
};

// A log that several threads write; compared as a whole.
template <typename T>
class Log {
 public:
  void add(T value) {
    const std::lock_guard lock(mutex_);
    values_.push_back(std::move(value));
  }
  std::vector<T> values() const {
    const std::lock_guard lock(mutex_);
    return values_;
  }

 private:
  mutable std::mutex mutex_;
  std::vector<T> values_;
};

// A batch starts when `rows` wait, or `delay` after the oldest came.
class HoldingPolicy : public BatchPolicy {
 public:
  HoldingPolicy(std::int64_t rows, Duration delay) : rows_(rows), delay_(delay) {}
  RowLimit rows(const QueueView& /*queue*/) override { return {rows_, true}; }
  std::int64_t full_rows(const QueueView& /*queue*/) const noexcept override { return rows_; }
  bool shares() const noexcept override { return false; }
  TimePoint hold_until(const QueueView& queue, TimePoint now) override {
    return queue.waiting_rows >= rows_ ? now : queue.oldest + delay_;
  }

 private:
  const std::int64_t rows_;
  const Duration delay_;
};

class TestRequest : public Request {
 public:
  explicit TestRequest(RequestInfo what, std::atomic<int>* resolutions = nullptr)
      : Request(what), resolutions_(resolutions) {}
  int id = 0;

 protected:
  void on_resolved() noexcept override {
    if (resolutions_ != nullptr) ++*resolutions_;
  }

 private:
  std::atomic<int>* resolutions_;
};

struct Spec {
  std::int64_t rows = 1;
  std::int64_t length = 0;
  std::uint64_t key = 0;
  int priority = 0;
  TimePoint deadline = kNever;
  std::int64_t bytes = 0;
};

inline RequestInfo make_info(const Spec& spec) {
  RequestInfo info;
  info.key = {spec.key, 0};
  info.rows = spec.rows;
  info.length = spec.length;
  info.bytes = spec.bytes;
  info.priority = spec.priority;
  info.deadline = spec.deadline;
  return info;
}

inline std::shared_ptr<TestRequest> make_request(const Spec& spec = {}, int id = 0) {
  auto request = std::make_shared<TestRequest>(make_info(spec));
  request->id = id;
  return request;
}

inline int id_of(const RequestPtr& request) {
  return static_cast<const TestRequest&>(*request).id;
}

inline std::vector<int> ids_of(const Batch& batch) {
  std::vector<int> ids;
  for (const RequestPtr& request : batch.requests()) ids.push_back(id_of(request));
  return ids;
}

inline void wait(Request& request) {
  Parker parker;
  EXPECT_TRUE(request.wait_until(parker, kNever));
}

template <typename E>
bool failed_with(const Request& request) {
  if (!request.done() || request.error() == nullptr) return false;
  try {
    std::rethrow_exception(request.error());
  } catch (const E&) {
    return true;
  } catch (...) {
    return false;
  }
}

inline void succeed_all(const Batch& batch) {
  for (const RequestPtr& request : batch.requests()) request->succeed();
}

class FunctionTask : public Task {
 public:
  using Function = std::function<Step(WorkerContext&)>;
  explicit FunctionTask(Function function) : function_(std::move(function)) {}
  Step step(WorkerContext& context) noexcept override { return function_(context); }

 private:
  Function function_;
};

inline std::unique_ptr<Task> make_task(FunctionTask::Function function) {
  return std::make_unique<FunctionTask>(std::move(function));
}

// Steps each batch with the test's function, which resolves the requests or leaves it to the batch's end.
class TestHandler : public BatchHandler {
 public:
  using Function = std::function<Step(const Batch&, WorkerContext&)>;
  TestHandler()
      : function_([](const Batch& batch, WorkerContext&) {
          succeed_all(batch);
          return Step::done();
        }) {}
  explicit TestHandler(Function function) : function_(std::move(function)) {}
  std::unique_ptr<Task> make_task(Batch batch) override {
    auto shared = std::make_shared<Batch>(std::move(batch));
    return testing::make_task([this, shared](WorkerContext& context) { return function_(*shared, context); });
  }

 private:
  Function function_;
};

inline RuntimeOptions with_workers(int workers, Clock* clock = nullptr) {
  RuntimeOptions options;
  options.workers = workers;
  options.clock = clock;
  return options;
}

inline ChannelOptions with_rows(std::int64_t max_rows, int max_running = 0) {
  ChannelOptions options;
  options.max_rows = max_rows;
  options.max_running = max_running;
  return options;
}

inline void run_threads(int threads, const std::function<void(int)>& body) {
  std::vector<std::thread> running;
  for (int i = 0; i < threads; ++i) running.emplace_back(body, i);
  for (std::thread& thread : running) thread.join();
}

}  // namespace torchpool::testing
