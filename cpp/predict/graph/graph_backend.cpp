#include "predict/graph/graph_backend.h"

#include <c10/core/InferenceMode.h>

#include <algorithm>
#include <map>
#include <utility>

#include "predict/kernels/weight_arena.h"

namespace torchpool::graph {

namespace {

Constants prepared(const Program& program, const std::vector<at::Tensor>& weights) {
  const c10::InferenceMode inference;
  return prepare(program, weights);
}

}  // namespace

GraphBackend::GraphBackend(std::shared_ptr<const Program> packed, std::shared_ptr<const Program> plain,
                           const std::vector<at::Tensor>& weights, Reclaimer& reclaimer)
    : packed_(std::move(packed)),
      plain_(std::move(plain)),
      reclaimer_(reclaimer),
      watch_(weights),
      weights_(watch_.handles().begin(), watch_.handles().end()),
      plain_values_(prepared(*plain_, watch_.handles())),
      plain_refs_(refs_to(plain_values_)),
      parts_(parts_of(*packed_, weights, watch_.handles())),
      seen_(std::make_shared<const WeightFingerprint>(watch_.take())) {
  upkeep();
}

GraphBackend::~GraphBackend() {
  parts_.clear();
  plain_values_.clear();
  weights_.clear();
  reclaimer_.reclaim(std::move(watch_).release());
}

std::vector<GraphBackend::Part> GraphBackend::parts_of(const Program& program, const std::vector<at::Tensor>& live,
                                                       const std::vector<at::Tensor>& handles) {
  std::vector<Part> parts;
  for (Fold& fold : split_prologue(program)) {
    std::vector<at::Tensor> own_live;
    std::vector<at::Tensor> own_handles;
    for (const std::size_t weight : fold.weights) {
      own_live.push_back(live[weight]);
      own_handles.push_back(handles[weight]);
    }
    auto shared = PackedWeights::of_this_process().find_or_make(fold, own_live, own_handles);
    parts.push_back({std::move(fold), std::move(own_handles), std::move(shared)});
  }
  return parts;
}

std::optional<GraphBackend::Pinned> GraphBackend::pin(PackedPtr packed) {
  if (packed == nullptr) return std::nullopt;
  Pinned pinned;
  pinned.folds.reserve(packed->folds.size());
  for (const std::weak_ptr<const Constants>& weak : packed->folds) {
    auto fold = weak.lock();
    if (fold == nullptr) return std::nullopt;
    pinned.folds.push_back(std::move(fold));
  }
  pinned.packed = std::move(packed);
  return pinned;
}

std::optional<GraphBackend::Pinned> GraphBackend::present_constants() {
  std::shared_ptr<const WeightFingerprint> seen;
  PackedPtr constants;
  std::uint64_t epoch = 0;
  {
    MutexLock lock(mutex_);
    seen = seen_;
    epoch = state_.epoch();
    if (state_.phase() == WeightState::Phase::kPacked) constants = constants_;
  }
  if (watch_.same(*seen)) {
    const bool packed = constants != nullptr;
    auto pinned = pin(std::move(constants));
    MutexLock lock(mutex_);
    state_.looked(epoch, false);
    if (packed && !pinned) state_.lost(epoch);
    return pinned;
  }
  auto present = std::make_shared<const WeightFingerprint>(watch_.take());
  MutexLock lock(mutex_);
  state_.looked(epoch, true);
  if (state_.epoch() != epoch) seen_ = std::move(present);
  return std::nullopt;
}

std::vector<at::Tensor> GraphBackend::run_with(const std::optional<Pinned>& pinned, std::vector<at::Tensor> inputs,
                                               Profile* profile) const {
  const c10::InferenceMode inference;
  if (pinned) return graph::run(*packed_, pinned->packed->constants, std::move(inputs), profile);
  return graph::run(*plain_, plain_refs_, std::move(inputs), profile);
}

// The plain form's kernels round differently.
std::vector<at::Tensor> GraphBackend::run_packed_now(std::vector<at::Tensor> inputs) const {
  const c10::InferenceMode inference;
  const Constants constants = prepare(*packed_, watch_.handles());
  return graph::run(*packed_, refs_to(constants), std::move(inputs));
}

std::vector<at::Tensor> GraphBackend::run_leaves(std::vector<at::Tensor> inputs, bool plain, Profile* profile) const {
  PackedPtr constants;
  if (!plain) {
    MutexLock lock(mutex_);
    constants = constants_;
  }
  return run_with(pin(std::move(constants)), std::move(inputs), profile);
}

bool GraphBackend::takes(const Contract& contract, const std::vector<at::Tensor>& inputs_of_call) const {
  const Guards& guards = packed_->guards;
  // Sizes of the merged input; a batch dim has as many rows as come together.
  const auto size_of = [&](std::size_t input, std::int64_t dim) -> std::optional<std::int64_t> {
    const InputSpec& spec = contract.inputs[input];
    if (spec.batch_dim == dim) return std::nullopt;
    return inputs_of_call[input].size(spec.stacked ? dim - 1 : dim);
  };
  return std::all_of(guards.ranges.begin(), guards.ranges.end(),
                     [&](const ShapeGuard& guard) {
                       const auto size = size_of(guard.input, guard.dim);
                       return !size || (*size >= guard.low && *size <= guard.high);
                     }) &&
         std::all_of(guards.equal.begin(), guards.equal.end(), [&](const EqualGuard& guard) {
           const auto size = size_of(guard.input, guard.dim);
           const auto other = size_of(guard.other_input, guard.other_dim);
           return !size || !other || *size == *other;
         });
}

void GraphBackend::drop_packed() {
  PackedPtr packed;
  {
    MutexLock lock(mutex_);
    constants_.swap(packed);
  }
  parts_.clear();
}

bool GraphBackend::is_packed() const {
  MutexLock lock(mutex_);
  return state_.phase() == WeightState::Phase::kPacked;
}

void GraphBackend::weights_written() {
  writes_.fetch_add(1, std::memory_order_relaxed);
  if (form_change() != WeightChange::kSame) return retire();
  auto present = std::make_shared<const WeightFingerprint>(watch_.take());
  MutexLock lock(mutex_);
  state_.looked(state_.epoch(), true);
  seen_ = std::move(present);
}

void GraphBackend::catch_up() {
  if (updates_.load(std::memory_order_relaxed) != updates_before_) weights_written();
}

BackendResult GraphBackend::run(const CallForm& /*form*/, std::vector<at::Tensor> inputs,
                                const AmbientState* /*ambient*/, WorkerContext& /*context*/) {
  if (retired_.load(std::memory_order_acquire)) throw GuardFailed("the graph is of a module that has changed since");
  BackendResult result;
  const std::optional<Pinned> pinned = present_constants();
  result.outputs =
      !pinned && packed_->invariant ? run_packed_now(std::move(inputs)) : run_with(pinned, std::move(inputs), nullptr);
  return result;
}

bool GraphBackend::upkeep_due() const noexcept {
  MutexLock lock(mutex_);
  return state_.should_pack();
}

GraphBackend::PackedPtr GraphBackend::packed_of(const WeightFingerprint& seen) {
  const kernels::WeightArena arena;
  Results results;  // kept until all are there
  for (const Part& part : parts_) {
    results.push_back(part.shared->get(part.fold, part.weights, [&] { return watch_.same(seen); }));
    if (results.back() == nullptr) return nullptr;
  }
  return packed_from(results);
}

GraphBackend::PackedPtr GraphBackend::packed_from(const Results& results) const {
  auto packed = std::make_shared<Packed>();
  std::map<SlotIndex, const c10::IValue*> values;
  for (std::size_t i = 0; i < weights_.size(); ++i) values[packed_->weight_slots[i]] = &weights_[i];
  for (std::size_t part = 0; part < parts_.size(); ++part) {
    const Constants& own = *results[part];
    for (std::size_t i = 0; i < own.size(); ++i) values[parts_[part].fold.results[i]] = &own[i];
    packed->folds.emplace_back(results[part]);
  }
  for (const SlotIndex slot : packed_->constant_slots) packed->constants.push_back(values.at(slot));
  return packed;
}

GraphBackend::Staged GraphBackend::pack_aside(const std::function<const at::Tensor*(const at::Tensor& live)>& staged,
                                              SharedAside& shared) const {
  const kernels::WeightArena arena;
  Staged made;
  made.writes = writes();
  std::vector<at::Tensor> all = watch_.handles();
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (const at::Tensor* other = staged(watch_.live()[i])) all[i] = *other;
  }
  for (const Part& part : parts_) {
    auto known = shared.find(part.shared.get());
    if (known == shared.end()) {
      std::vector<at::Tensor> weights;
      weights.reserve(part.fold.weights.size());
      for (const std::size_t weight : part.fold.weights) weights.push_back(all[weight].detach());
      known = shared.emplace(part.shared.get(), PackedWeight::pack_aside(part.fold, weights)).first;
    }
    made.parts.push_back(known->second);
  }
  made.samples = WeightWatch(std::move(all)).take().samples;
  return made;
}

void GraphBackend::adopt(const Staged& staged) {
  auto present = std::make_shared<const WeightFingerprint>(watch_.take());
  if (form_change() != WeightChange::kSame || present->samples != staged.samples) return;
  if (staged.parts.size() != parts_.size()) return;  // dropped meanwhile
  Results results;
  for (std::size_t i = 0; i < parts_.size(); ++i) {
    parts_[i].shared->adopt(staged.parts[i]);
    results.push_back(staged.parts[i].results);
  }
  PackedPtr constants = packed_from(results);
  MutexLock lock(mutex_);
  state_.replaced();
  seen_ = std::move(present);
  constants_.swap(constants);
}

void GraphBackend::upkeep() {
  upkeep_asked_.store(false);
  std::shared_ptr<const WeightFingerprint> seen;
  std::uint64_t epoch = 0;
  {
    MutexLock lock(mutex_);
    if (!state_.should_pack()) return;
    state_.start_packing();
    seen = seen_;
    epoch = state_.epoch();
  }
  PackedPtr constants;
  try {
    constants = packed_of(*seen);
  } catch (...) {
    MutexLock lock(mutex_);
    state_.packing_failed(epoch);
    throw;
  }
  const bool same = constants != nullptr && watch_.same(*seen);
  auto present = same ? nullptr : std::make_shared<const WeightFingerprint>(watch_.take());
  MutexLock lock(mutex_);
  if (!same) {
    state_.looked(epoch, true);
    if (state_.epoch() != epoch) seen_ = std::move(present);
  }
  state_.packed(epoch);
  if (state_.phase() == WeightState::Phase::kPacked && same) constants_.swap(constants);
}

}  // namespace torchpool::graph
