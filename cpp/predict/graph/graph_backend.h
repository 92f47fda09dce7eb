// Runs captured graphs of a module in C++.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "core/mutex.h"
#include "predict/backend.h"
#include "predict/call_request.h"
#include "predict/graph/interpreter.h"
#include "predict/weight_state.h"
#include "predict/weight_watch.h"

namespace torchpool::graph {

// One captured kind of call in two forms: packed, whose prologue has prepared the weights for the processor, and plain,
// which reads the module's weights as they are. Weights that changed are served plain at once; they are packed anew
// behind the calls, and not at all while they keep changing (WeightState). Runs that began with the old ones end so.
class GraphBackend : public Backend {
 public:
  // `weights` are the module's own tensors; `reclaimer` takes them back when this goes. Requires the lock that the
  // weights' writers hold.
  GraphBackend(std::shared_ptr<const Program> packed, std::shared_ptr<const Program> plain,
               std::vector<at::Tensor> weights, Reclaimer& reclaimer);
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
  using ConstantsPtr = std::shared_ptr<const Constants>;
  // The packed constants if they are those of the present weights, else null. Looks at the weights.
  ConstantsPtr present_constants();
  ConstantsPtr packed_constants() const TP_EXCLUDES(mutex_);

  const std::shared_ptr<const Program> packed_;
  const std::shared_ptr<const Program> plain_;
  WeightWatch watch_;
  Reclaimer& reclaimer_;
  const Constants plain_constants_;

  mutable Mutex mutex_;
  WeightState state_ TP_GUARDED_BY(mutex_);
  std::shared_ptr<const WeightFingerprint> seen_ TP_GUARDED_BY(mutex_);  // of state_'s epoch
  ConstantsPtr packed_constants_ TP_GUARDED_BY(mutex_);                  // of the weights as they were packed last
};

}  // namespace torchpool::graph
