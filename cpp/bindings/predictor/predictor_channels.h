// The channels of one predictor: opens and closes them, chooses a call's, and sets how large their batches are.
#pragma once

#include <atomic>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "bindings/interpreter/bound_runtime.h"
#include "bindings/predictor/predictor_options.h"
#include "bindings/predictor/prepared_call.h"
#include "bindings/predictor/python_backend.h"
#include "predict/batch/batch_runner.h"

namespace torchpool {

// Every method requires the interpreter's lock.
class PredictorChannels {
 public:
  // `alone` runs the calls that share no batch.
  PredictorChannels(std::shared_ptr<BoundRuntime> runtime, BoundPredictorOptions options,
                    std::shared_ptr<Backend> backend, std::shared_ptr<AloneRunner> alone,
                    std::shared_ptr<ChannelStats> stats);
  ~PredictorChannels();
  PredictorChannels(const PredictorChannels&) = delete;
  PredictorChannels& operator=(const PredictorChannels&) = delete;

  const std::shared_ptr<Channel>& of(const PreparedCall& call) const noexcept;
  std::vector<std::shared_ptr<Channel>> all() const;
  // Where calls share batches: the graph's as soon as there is one.
  const Channel& merging() const noexcept { return graph_ ? *graph_ : *merge_; }
  Backend& backend() const noexcept { return merge_runner_->backend(); }
  // What the runners of its calls refer to, for the cycle collector.
  int traverse(visitproc visit, void* arg) const;
  // Of the script that serves calls; null when none does.
  const c10::FunctionSchema* script_schema() const;

  // From now on a graph may serve calls, in batches of at most `max_batch` rows. False when the predictor is closed.
  bool open_graph();
  void set_graph_rows(std::int64_t first_batch, std::int64_t max_batch);
  void set_rows(std::int64_t first, std::int64_t most);
  // Empty: as learned.
  void set_policy(PolicyMaker make);

  // Throws Closed; Error for a thread that would wait for the end of an update of its own.
  void check_open() const;
  void close(bool fail_waiting) noexcept;
  bool closed() const noexcept { return closed_; }
  // Nothing waits, nothing runs, and whoever wanted to be told has been. False when `timeout` seconds passed first.
  bool wait_drained(std::optional<double> timeout);
  const std::shared_ptr<Unnotified>& unnotified() const noexcept { return unnotified_; }
  std::int64_t max_batch() const noexcept { return options_.max_batch; }
  const std::shared_ptr<UpdateGate>& gate() const noexcept { return options_.gate; }

 private:
  ChannelOptions channel_options(Lane lane) const;
  ChannelOptions merging_options(Lane lane) const;
  std::unique_ptr<BatchPolicy> make_policy(const std::shared_ptr<const CostModel>& cost) const;

  std::shared_ptr<BoundRuntime> runtime_;
  BoundPredictorOptions options_;
  std::shared_ptr<ChannelStats> stats_;
  FairSharePtr share_;       // of all of them
  PolicyMaker make_policy_;  // empty: sizes are learned
  std::shared_ptr<Unnotified> unnotified_ = std::make_shared<Unnotified>();
  std::shared_ptr<BatchRunner> merge_runner_;
  std::shared_ptr<AloneRunner> alone_runner_;
  std::shared_ptr<BatchRunner> graph_runner_;
  std::shared_ptr<Channel> merge_;
  std::shared_ptr<Channel> graph_;  // null until a graph is there
  std::shared_ptr<Channel> parallel_;
  std::shared_ptr<Channel> serial_;
  bool closed_ = false;
};

}  // namespace torchpool
