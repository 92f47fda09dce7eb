// Runs batches of calls: collate, backend, split; isolates the calls that fail.
#pragma once

#include <atomic>
#include <memory>
#include <span>

#include "core/runtime.h"
#include "predict/backend.h"
#include "predict/call_request.h"

namespace torchpool {

// Handles the batches of the channels that merge. Owned by a shared_ptr: a running batch keeps it.
class Predictor : public BatchHandler, public std::enable_shared_from_this<Predictor> {
 public:
  Predictor(std::shared_ptr<Backend> backend, std::shared_ptr<ChannelStats> stats, Clock& clock)
      : backend_(std::move(backend)), stats_(std::move(stats)), clock_(clock) {}

  std::unique_ptr<Task> make_task(Batch batch) override;

  Backend& backend() noexcept { return *backend_; }
  ChannelStats& stats() noexcept { return *stats_; }
  // Most rows that one run may have; a call with more is run in parts where its contract allows.
  void set_max_rows(std::int64_t rows) noexcept { max_rows_.store(rows, std::memory_order_relaxed); }

  // Runs the batch's requests and resolves each of them.
  void run(const Batch& batch, WorkerContext& context) noexcept;

 private:
  using Members = std::span<const std::shared_ptr<CallRequest>>;
  void run_members(Members members, WorkerContext& context) noexcept;
  void run_together(Members members, WorkerContext& context);
  void run_in_parts(CallRequest& request, std::int64_t max_rows, WorkerContext& context);
  BackendResult run_backend(const CallRequest& like, std::vector<at::Tensor> inputs, WorkerContext& context);

  std::shared_ptr<Backend> backend_;
  std::shared_ptr<ChannelStats> stats_;
  Clock& clock_;
  std::atomic<std::int64_t> max_rows_{std::int64_t{1} << 40};
};

}  // namespace torchpool
