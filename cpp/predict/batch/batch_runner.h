// Runs batches of calls: collate, backend, split; isolates the calls that fail.
#pragma once

#include <atomic>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "core/schedule/runtime.h"
#include "predict/backends/backend.h"
#include "predict/batch/call_request.h"

namespace torchpool {

// Handles the batches of the channels that merge. Owned by a shared_ptr: a running batch keeps it.
class BatchRunner : public BatchHandler, public std::enable_shared_from_this<BatchRunner> {
 public:
  // `backend` null: each call names its own backend. `fallback` runs the calls again that fail, on the fallback's own
  // lane; may be null. `cost` is told which batches memory could not hold; may be null.
  BatchRunner(std::shared_ptr<Backend> backend, std::shared_ptr<ChannelStats> stats, Clock& clock,
              std::shared_ptr<BatchRunner> fallback = nullptr, std::shared_ptr<CostModel> cost = nullptr)
      : backend_(std::move(backend)),
        stats_(std::move(stats)),
        clock_(clock),
        fallback_(std::move(fallback)),
        cost_(std::move(cost)) {}

  std::unique_ptr<Task> make_task(Batch batch) override;

  Backend& backend() noexcept { return *backend_; }
  ChannelStats& stats() noexcept { return *stats_; }
  // A call of more rows than this runs in parts of at most `rows`, where its contract allows.
  void set_max_rows(std::int64_t rows) noexcept { max_rows_.store(rows, std::memory_order_relaxed); }

  using Members = std::span<const std::shared_ptr<CallRequest>>;
  // Runs the members and resolves each of them. Where there is a fallback, members that fail are left unresolved and
  // returned.
  std::vector<std::shared_ptr<CallRequest>> run(Members members, WorkerContext& context) noexcept;
  const std::shared_ptr<BatchRunner>& fallback() const noexcept { return fallback_; }

 private:
  using Left = std::vector<std::shared_ptr<CallRequest>>;
  void run_members(Members members, WorkerContext& context, Left& left) noexcept;
  void run_together(Members members, WorkerContext& context);
  void run_in_parts(CallRequest& request, std::int64_t max_rows, WorkerContext& context);
  std::int64_t most_rows(std::int64_t extent) const noexcept;
  void note_out_of_memory(Members members) noexcept;
  BackendResult run_backend(const CallRequest& like, std::vector<at::Tensor> inputs, WorkerContext& context);

  std::shared_ptr<Backend> backend_;
  std::shared_ptr<ChannelStats> stats_;
  Clock& clock_;
  std::shared_ptr<BatchRunner> fallback_;
  std::shared_ptr<CostModel> cost_;
  std::atomic<std::int64_t> max_rows_{std::int64_t{1} << 40};
};

// One call's own outputs, by a backend that needs no gate, on the calling thread with its own thread settings. Throws
// what the backend throws.
std::vector<at::Tensor> run_one(Backend& backend, const Contract& contract, const CallForm& form,
                                const std::vector<at::Tensor>& inputs, const CallShape& shape);

}  // namespace torchpool
