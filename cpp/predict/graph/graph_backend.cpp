#include "predict/graph/graph_backend.h"

#include <c10/core/InferenceMode.h>

#include <utility>

namespace torchpool::graph {

namespace {

Constants prepared(const Program& program, const std::vector<at::Tensor>& weights) {
  const c10::InferenceMode inference;
  return prepare(program, weights);
}

}  // namespace

GraphBackend::GraphBackend(std::shared_ptr<const Program> packed, std::shared_ptr<const Program> plain,
                           std::vector<at::Tensor> weights, Reclaimer& reclaimer)
    : packed_(std::move(packed)),
      plain_(std::move(plain)),
      watch_(std::move(weights)),
      reclaimer_(reclaimer),
      plain_constants_(prepared(*plain_, watch_.handles())),
      seen_(std::make_shared<const WeightFingerprint>(watch_.take())) {
  upkeep();
}

// Constants hold nothing of the module's but handles, which are among what goes back here.
GraphBackend::~GraphBackend() {
  reclaimer_.reclaim(std::move(watch_).release());
}

GraphBackend::ConstantsPtr GraphBackend::packed_constants() const {
  MutexLock lock(mutex_);
  return packed_constants_;
}

GraphBackend::ConstantsPtr GraphBackend::present_constants() {
  std::shared_ptr<const WeightFingerprint> seen;
  ConstantsPtr constants;
  std::uint64_t epoch = 0;
  {
    MutexLock lock(mutex_);
    seen = seen_;
    epoch = state_.epoch();
    if (state_.phase() == WeightState::Phase::kPacked) constants = packed_constants_;
  }
  if (watch_.same(*seen)) {
    MutexLock lock(mutex_);
    state_.looked(epoch, false);
    return constants;
  }
  auto present = std::make_shared<const WeightFingerprint>(watch_.take());
  MutexLock lock(mutex_);
  state_.looked(epoch, true);
  if (state_.epoch() != epoch) seen_ = std::move(present);
  return nullptr;
}

std::vector<at::Tensor> GraphBackend::run_leaves(std::vector<at::Tensor> inputs, bool plain, Profile* profile) const {
  const ConstantsPtr constants = plain ? nullptr : packed_constants();
  const c10::InferenceMode inference;
  return constants == nullptr ? graph::run(*plain_, plain_constants_, std::move(inputs), profile)
                              : graph::run(*packed_, *constants, std::move(inputs), profile);
}

BackendResult GraphBackend::run(const CallForm& /*form*/, std::vector<at::Tensor> inputs,
                                const AmbientState* /*ambient*/, WorkerContext& /*context*/) {
  const ConstantsPtr constants = present_constants();
  BackendResult result;
  {
    const c10::InferenceMode inference;
    result.outputs = constants == nullptr ? graph::run(*plain_, plain_constants_, std::move(inputs))
                                          : graph::run(*packed_, *constants, std::move(inputs));
  }
  return result;
}

bool GraphBackend::upkeep_due() const noexcept {
  MutexLock lock(mutex_);
  return state_.should_pack();
}

void GraphBackend::upkeep() {
  std::shared_ptr<const WeightFingerprint> seen;
  std::uint64_t epoch = 0;
  {
    MutexLock lock(mutex_);
    if (!state_.should_pack()) return;
    state_.start_packing();
    seen = seen_;
    epoch = state_.epoch();
  }
  ConstantsPtr constants;
  try {
    constants = std::make_shared<const Constants>(prepared(*packed_, watch_.handles()));
  } catch (...) {
    MutexLock lock(mutex_);
    state_.packing_failed();
    throw;
  }
  const bool same = watch_.same(*seen);
  auto present = same ? nullptr : std::make_shared<const WeightFingerprint>(watch_.take());
  {
    MutexLock lock(mutex_);
    if (!same) {
      state_.looked(epoch, true);
      if (state_.epoch() != epoch) seen_ = std::move(present);
    }
    state_.packed(epoch);
    if (state_.phase() == WeightState::Phase::kPacked) packed_constants_.swap(constants);
  }
}

}  // namespace torchpool::graph
