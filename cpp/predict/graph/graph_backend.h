// Runs captured graphs of a module in C++.
#pragma once

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
// which reads the module's weights as they are. Weights that changed are served plain at once; they are packed anew
// behind the calls, and not at all while they keep changing (WeightState). Runs that began with the old ones end so.
// See Note [Packed weights are shared].
class GraphBackend : public Backend {
 public:
  // `weights` are the module's own tensors; `reclaimer` takes them back when this goes. Requires the lock that the
  // weights' writers hold.
  GraphBackend(std::shared_ptr<const Program> packed, std::shared_ptr<const Program> plain,
               const std::vector<at::Tensor>& weights, Reclaimer& reclaimer);
  ~GraphBackend() override;

  std::string name() const override { return "graph"; }
  Lane lane() const noexcept override { return Lane::kCompute; }
  // Throws GuardFailed where the graph does not hold for the inputs.
  BackendResult run(const CallForm& form, std::vector<at::Tensor> inputs, const AmbientState* ambient,
                    WorkerContext& context) override;
  bool upkeep_due() const noexcept override;
  void upkeep() override;

  // Whether the weights have other storage or another form than when this was made: then it is to be made anew.
  // Requires the lock that the weights' writers hold.
  WeightChange form_change() const noexcept { return watch_.form_change(); }

  // Without looking at the weights' state. `profile`, where given, belongs to this run alone.
  std::vector<at::Tensor> run_leaves(std::vector<at::Tensor> inputs, bool plain, Profile* profile) const;
  const Program& program(bool plain) const noexcept { return plain ? *plain_ : *packed_; }

 private:
  // All constants of the packed program, of one state of the weights. Those that are packed belong to PackedWeights.
  struct Packed {
    std::vector<std::weak_ptr<const Constants>> folds;
    ConstantRefs constants;
  };
  using PackedPtr = std::shared_ptr<const Packed>;
  // Keeps them for a run.
  struct Pinned {
    PackedPtr packed;
    std::vector<std::shared_ptr<const Constants>> folds;
  };
  // Null where somebody has replaced some of them.
  static std::optional<Pinned> pin(PackedPtr packed);
  std::vector<at::Tensor> run_with(const std::optional<Pinned>& pinned, std::vector<at::Tensor> inputs,
                                   Profile* profile) const;

  // The packed constants if they are those of the present weights. Looks at the weights.
  std::optional<Pinned> present_constants() TP_EXCLUDES(mutex_);
  // Null where the weights are not as they were `seen`.
  PackedPtr packed_of(const WeightFingerprint& seen);

  // One fold of the packed program, and whose results it needs.
  struct Part {
    Fold fold;
    std::vector<at::Tensor> weights;  // handles
    std::shared_ptr<PackedWeight> shared;
  };
  static std::vector<Part> parts_of(const Program& program, const std::vector<at::Tensor>& live,
                                    const std::vector<at::Tensor>& handles);

  const std::shared_ptr<const Program> packed_;
  const std::shared_ptr<const Program> plain_;
  Reclaimer& reclaimer_;
  WeightWatch watch_;
  // Those below hold nothing of the module's but handles and views of them: to be dropped before the watch gives its
  // own away, so that none of them is the last.
  Constants weights_;       // the handles again
  Constants plain_values_;  // of the plain program
  ConstantRefs plain_refs_;
  std::vector<Part> parts_;

  mutable Mutex mutex_;
  WeightState state_ TP_GUARDED_BY(mutex_);
  std::shared_ptr<const WeightFingerprint> seen_ TP_GUARDED_BY(mutex_);  // of state_'s epoch
  PackedPtr constants_ TP_GUARDED_BY(mutex_);                            // of the weights as they were packed last
};

}  // namespace torchpool::graph
