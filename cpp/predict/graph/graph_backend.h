// Runs captured graphs of a module in C++.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/sync/mutex.h"
#include "predict/backends/backend.h"
#include "predict/batch/call_request.h"
#include "predict/graph/interpreter.h"
#include "predict/graph/packed_weight.h"
#include "predict/weights/weight_state.h"
#include "predict/weights/weight_watch.h"

namespace torchpool::graph {

// One captured kind of call in two forms: packed, whose prologue has prepared the weights for the processor, and plain,
// which reads the module's weights as they are. Calls after a change of the weights run the plain form at once. Changed
// weights are packed anew behind the calls, and not at all while they keep changing (WeightState). Runs that began with
// the old weights end with the old weights. See Note [Packed weights are shared]. An invariant program serves changed
// weights, too: each batch packs them for itself until they are packed for all.
class GraphBackend : public Backend {
 public:
  // `weights` are the module's own tensors; the destructor gives them to `reclaimer`. Requires the lock that the
  // weights' writers hold.
  GraphBackend(std::shared_ptr<const Program> packed, std::shared_ptr<const Program> plain,
               const std::vector<at::Tensor>& weights, Reclaimer& reclaimer);
  ~GraphBackend() override;

  std::string name() const override { return "graph"; }
  Lane lane() const noexcept override { return Lane::kCompute; }
  bool runs_operators_only() const noexcept override { return true; }
  // Throws GuardFailed where the graph does not hold for the inputs.
  BackendResult run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                    WorkerContext& context) override;
  // Somebody has written the weights, perhaps in a way that leaves no trace. Requires the lock that such writers hold,
  // and that nothing runs.
  void weights_written() TP_EXCLUDES(mutex_);
  // An update of some model ends. Those that serve its calls are told by weights_written(), one that is compared with
  // the module now by catch_up(), before it serves. Both require what weights_written() does.
  static void count_update() noexcept { updates_.fetch_add(1, std::memory_order_relaxed); }
  void catch_up();
  // The graph stands for the module no longer: later runs throw GuardFailed.
  void retire() noexcept { retired_.store(true, std::memory_order_release); }
  // Packed copies of weights that the module is to have soon.
  struct Staged {
    std::vector<PackedWeight::Aside> parts;  // of the packed program
    std::vector<std::uint64_t> samples;      // of the weights, as the watch takes them
    std::uint64_t writes = 0;                // before it read those that are not staged
  };
  // Results of parts that backends share, by part.
  using SharedAside = std::map<const PackedWeight*, PackedWeight::Aside>;
  // `staged` gives the new tensor for a live one; null: it stays. Throws what an operator throws.
  Staged pack_aside(const std::function<const at::Tensor*(const at::Tensor& live)>& staged, SharedAside& shared) const;
  // How often weights_written() was called.
  std::uint64_t writes() const noexcept { return writes_.load(std::memory_order_relaxed); }
  // The weights have been written: they are now those that were packed aside, if that is what they hold. Requires the
  // lock that writers hold, and that nothing runs.
  void adopt(const Staged& staged) TP_EXCLUDES(mutex_);
  // Whether upkeep is due and nobody has been asked for it yet: now the caller is.
  bool ask_upkeep() noexcept { return upkeep_due() && !upkeep_asked_.exchange(true); }
  bool upkeep_due() const noexcept override;
  void upkeep() override;

  // Whether the weights have other storage or another form than when this backend was made. If so, a new backend is
  // needed. Requires the lock that the weights' writers hold.
  WeightChange form_change() const noexcept { return watch_.form_change(); }

  // Another backend of the same graph and weights, for a process that was forked since: it has locks of its own.
  // Requires the lock that the weights' writers hold when it begins.
  std::shared_ptr<GraphBackend> made_anew() const {
    return std::make_shared<GraphBackend>(packed_, plain_, watch_.live(), reclaimer_);
  }

  // Whether the graph holds for the sizes of a call, as far as these are not those of the batch.
  bool takes(const Contract& contract, const std::vector<at::Tensor>& inputs_of_call) const;

  // For a graph that only tells which sizes the module's batches may have: later runs read the weights as they are.
  // Requires that nothing runs it.
  void drop_packed();

  // Whether a batch costs what its calls' own lengths sum up to, whatever they are padded to. For as long as weights
  // that have changed are not packed, runs cost more than that.
  bool padding_is_free() const noexcept { return packed_->padding_is_free; }

  // Whether a run would read packed copies, as far as the weights were looked at.
  bool is_packed() const TP_EXCLUDES(mutex_);

  // A run that does not look at the weights' state. No other run uses `profile`, where it is given.
  std::vector<at::Tensor> run_leaves(std::vector<at::Tensor> inputs, bool plain, Profile* profile) const;
  const Program& program(bool plain) const noexcept { return plain ? *plain_ : *packed_; }

 private:
  // All constants of the packed program, of one state of the weights. PackedWeights owns the packed ones.
  struct Packed {
    std::vector<std::weak_ptr<const Constants>> folds;
    ConstantRefs constants;
  };
  using PackedPtr = std::shared_ptr<const Packed>;
  // Owns the constants during a run.
  struct Pinned {
    PackedPtr packed;
    std::vector<std::shared_ptr<const Constants>> folds;
  };
  // Empty where some of the constants have been replaced.
  static std::optional<Pinned> pin(PackedPtr packed);
  std::vector<at::Tensor> run_with(const std::optional<Pinned>& pinned, std::vector<at::Tensor> inputs,
                                   Profile* profile) const;

  // The packed constants if they are those of the present weights. Looks at the weights.
  std::optional<Pinned> present_constants() TP_EXCLUDES(mutex_);
  std::vector<at::Tensor> run_packed_now(std::vector<at::Tensor> inputs) const;
  // Null where the weights differ from `seen`.
  PackedPtr packed_of(const WeightFingerprint& seen);
  using Results = std::vector<PackedWeight::Results>;
  PackedPtr packed_from(const Results& results) const;  // of the parts

  // One fold of the packed program, and the cache entry with its results.
  struct Part {
    Fold fold;
    std::vector<at::Tensor> weights;  // handles
    std::shared_ptr<PackedWeight> shared;
  };
  static std::vector<Part> parts_of(const Program& program, const std::vector<at::Tensor>& live,
                                    const std::vector<at::Tensor>& handles);

  static inline std::atomic<std::uint64_t> updates_{0};

  const std::uint64_t updates_before_ = updates_.load(std::memory_order_relaxed);  // the first look at the weights
  const std::shared_ptr<const Program> packed_;
  const std::shared_ptr<const Program> plain_;
  Reclaimer& reclaimer_;
  WeightWatch watch_;
  // The members below refer to the module's tensors by handles and views of handles only. They are dropped before the
  // watch gives its handles away, so that none of them is the last owner.
  Constants weights_;       // the handles again
  Constants plain_values_;  // of the plain program
  ConstantRefs plain_refs_;
  std::vector<Part> parts_;

  std::atomic<bool> retired_{false};
  std::atomic<bool> upkeep_asked_{false};
  std::atomic<std::uint64_t> writes_{0};
  mutable Mutex mutex_;
  WeightState state_ TP_GUARDED_BY(mutex_);
  std::shared_ptr<const WeightFingerprint> seen_ TP_GUARDED_BY(mutex_);  // of state_'s epoch
  PackedPtr constants_ TP_GUARDED_BY(mutex_);                            // of the weights' last packed state
};

}  // namespace torchpool::graph
