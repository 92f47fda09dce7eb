// Runs batches of calls: collate, backend, split; isolates the calls that fail.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "core/schedule/runtime.h"
#include "core/sync/update_gate.h"
#include "predict/backends/backend.h"
#include "predict/batch/call_request.h"
#include "predict/batch/verifier.h"

namespace torchpool {

// Handles the batches of the channels that merge. Owned by a shared_ptr: a running batch keeps it.
class BatchRunner : public BatchHandler, public std::enable_shared_from_this<BatchRunner> {
 public:
  // `backend` null: each call names its own backend. `fallback` runs the calls again that fail, on the fallback's own
  // lane; may be null. `cost` is told which batches memory could not hold; may be null. `gate` keeps batches and
  // updates of the weights apart; may be null.
  BatchRunner(std::shared_ptr<Backend> backend, std::shared_ptr<ChannelStats> stats, Clock& clock,
              std::shared_ptr<BatchRunner> fallback = nullptr, std::shared_ptr<CostModel> cost = nullptr,
              std::shared_ptr<UpdateGate> gate = nullptr)
      : backend_(std::move(backend)),
        stats_(std::move(stats)),
        clock_(clock),
        fallback_(std::move(fallback)),
        cost_(std::move(cost)),
        gate_(std::move(gate)) {}

  std::unique_ptr<Task> make_task(Batch batch) override;

  Backend& backend() noexcept { return *backend_; }
  ChannelStats& stats() noexcept { return *stats_; }
  // A call of more rows than this runs in parts of at most `rows`, where its contract allows.
  void set_max_rows(std::int64_t rows) noexcept { max_rows_.store(rows, std::memory_order_relaxed); }

  using Members = std::span<const std::shared_ptr<CallRequest>>;
  using Left = std::vector<std::shared_ptr<CallRequest>>;
  // Runs the members as a batch and resolves each of them. Where there is a fallback, members that fail are left
  // unresolved and returned.
  Left run(Members members, WorkerContext& context) noexcept;
  // The same one call at a time, as a whole: no row meets one that its caller did not pass with it, and none is kept
  // from those.
  Left run_apart(Members members, WorkerContext& context) noexcept;
  const std::shared_ptr<BatchRunner>& fallback() const noexcept { return fallback_; }
  const std::shared_ptr<UpdateGate>& gate() const noexcept { return gate_; }

 private:
  // A batch while it runs.
  struct Round {
    WorkerContext& context;
    Left left{};
    bool apart = false;  // each call runs alone and as a whole
  };
  // What a call is answered with.
  struct Answer {
    std::vector<at::Tensor> outputs;
    std::shared_ptr<const ResultForm> form;
    bool as_expected = true;  // the form is that of the call's kind, or one of the two is not known
  };
  void run_members(Members members, Round& round) noexcept;
  void run_members_apart(Members members, Round& round) noexcept;
  // Those of equal lengths together.
  void run_members_by_lengths(Members members, Round& round) noexcept;
  void run_together(Members members, Round& round);
  void run_alone(CallRequest& request, Round& round);
  // What a batch was run to.
  struct Whole {
    BackendResult result;
    std::vector<std::int64_t> padded_to;
    std::int64_t rows = 0;
    Duration took{};
  };
  // Nothing where calls' parts are not in it, or where rows may meet for all that is proven.
  std::optional<Whole> run_whole(Members members, WorkerContext& context);

  // Runs calls of a batch alone, too, as its verifier wants, and compares what it gave them. False where that is not
  // known to be right: then they are all to be answered by runs alone.
  bool agrees_alone(Members members, Whole& whole, WorkerContext& context);
  bool members_agree(Members members, Whole& whole, const Verifier::Sample& sample, std::int64_t& agreed,
                     WorkerContext& context);
  bool member_agrees(Members members, std::size_t index, std::int64_t row, const std::vector<double>& largest,
                     const Whole& whole, WorkerContext& context);
  using Alone = std::optional<Answer>;  // empty: the module raises
  // Throws where nothing is known of the call alone: a graph refuses some, and others have no room.
  Alone ask_alone(const CallRequest& call, WorkerContext& context);
  static std::optional<std::string> difference_from(const CallRequest& call, const Alone& alone,
                                                    const std::vector<at::Tensor>& outputs,
                                                    const std::vector<double>& largest);
  static bool same(const CallRequest& call, const Alone& one, const Alone& other);
  bool differs_again(Members members, std::size_t index, std::int64_t row, const Alone& before, WorkerContext& context);

  bool run_in_parts(CallRequest& request, std::int64_t max_rows, WorkerContext& context);
  Answer answer_alone(const CallRequest& request, WorkerContext& context);
  std::int64_t most_rows(std::int64_t extent) const noexcept;
  void note_out_of_memory(Members members) noexcept;
  Backend& backend_of(const CallRequest& like) const noexcept { return backend_ ? *backend_ : *like.backend; }
  BackendResult run_backend(const CallRequest& like, std::vector<at::Tensor> inputs, WorkerContext& context);

  std::shared_ptr<Backend> backend_;
  std::shared_ptr<ChannelStats> stats_;
  Clock& clock_;
  std::shared_ptr<BatchRunner> fallback_;
  std::shared_ptr<CostModel> cost_;
  std::shared_ptr<UpdateGate> gate_;
  std::atomic<std::int64_t> max_rows_{std::int64_t{1} << 40};
};

// One call's own outputs, by a backend that needs no gate, on the calling thread with its own thread settings. Throws
// what the backend throws.
std::vector<at::Tensor> run_one(Backend& backend, const Contract& contract, const CallForm& form,
                                const std::vector<at::Tensor>& inputs, const CallShape& shape);

}  // namespace torchpool
