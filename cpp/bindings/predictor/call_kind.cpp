#include "bindings/predictor/call_kind.h"

#include <algorithm>
#include <utility>

#include "core/sync/error.h"

namespace torchpool {

namespace {

bool same_leaves(const CallKind& kind, const FlatCall& call) {
  return std::equal(kind.leaves.begin(), kind.leaves.end(), call.leaves.begin(), call.leaves.end(),
                    [](const CallKind::Leaf& leaf, const at::Tensor& tensor) {
                      return leaf.dtype == tensor.scalar_type() && leaf.rank == tensor.dim() &&
                             leaf.device == tensor.device();
                    });
}

// All calls of one kind have the same ranks, so that the sizes need no separators.
std::vector<std::int64_t> sizes_of(const std::vector<at::Tensor>& inputs) {
  std::vector<std::int64_t> sizes;
  for (const at::Tensor& input : inputs) sizes.insert(sizes.end(), input.sizes().begin(), input.sizes().end());
  return sizes;
}

}  // namespace

Route route_from_string(const std::string& name) {
  for (const Route route : {Route::kMerge, Route::kDirect, Route::kCaller, Route::kParallel, Route::kSerial}) {
    if (name == to_string(route)) return route;
  }
  throw py::value_error("unknown route '" + name + "'");
}

Merging merging_from_string(const std::string& name) {
  if (name == "no") return Merging::kNo;
  if (name == "trust") return Merging::kTrust;
  if (name == "verify") return Merging::kVerify;
  throw py::value_error("unknown merging '" + name + "'");
}

const char* to_string(Route route) noexcept {
  switch (route) {
    case Route::kUnknown:
      return "unknown";
    case Route::kLearning:
      return "learning";
    case Route::kMerge:
      return "merge";
    case Route::kDirect:
      return "direct";
    case Route::kCaller:
      return "caller";
    case Route::kParallel:
      return "parallel";
    case Route::kSerial:
      return "serial";
  }
  return "?";
}

bool CallKind::has_new_sizes(const std::vector<at::Tensor>& inputs) const {
  const auto found = sizes_.find(sizes_of(inputs));
  if (found == sizes_.end()) return sizes_.size() < kMaxSizes;
  return found->second && !found->second->load();
}

void CallKind::note_sizes(const std::vector<at::Tensor>& inputs) {
  std::vector<std::int64_t> sizes = sizes_of(inputs);
  if (sizes_.size() < kMaxSizes || sizes_.contains(sizes)) sizes_[std::move(sizes)] = nullptr;
}

std::shared_ptr<std::atomic<bool>> CallKind::expect_sizes(const std::vector<at::Tensor>& inputs) {
  std::vector<std::int64_t> sizes = sizes_of(inputs);
  const auto found = sizes_.find(sizes);
  if (found != sizes_.end()) return found->second;
  if (sizes_.size() >= kMaxSizes) return nullptr;
  return sizes_[std::move(sizes)] = std::make_shared<std::atomic<bool>>(false);
}

std::shared_ptr<CallKind> CallKinds::find_or_add(const FlatCall& call, std::uint64_t torch_key, PyObject* args,
                                                 PyObject* kwargs, const c10::FunctionSchema* schema,
                                                 std::shared_ptr<CallKind>& evicted) {
  ++uses_;
  const auto found = by_structure_.find(call.key);
  if (found != by_structure_.end()) {
    for (const auto& kind : found->second) {
      if (kind->torch_key != torch_key || !same_leaves(*kind, call)) continue;
      ++kind->used;
      kind->used_at = uses_;
      return kind;
    }
  }
  if (count_ >= kMaxKinds) {
    evicted = evict();
    if (!evicted) return nullptr;
  }
  auto kind = std::make_shared<CallKind>();
  kind->used = 1;
  kind->used_at = uses_;
  kind->id = next_id_++;
  kind->structure = call.key;
  for (const at::Tensor& tensor : call.leaves) {
    kind->leaves.push_back({tensor.scalar_type(), tensor.dim(), tensor.device()});
  }
  kind->torch_key = torch_key;
  kind->form = make_form(args, kwargs, schema);
  by_structure_[call.key].push_back(kind);
  ++count_;
  return kind;
}

std::shared_ptr<CallKind> CallKinds::evict() {
  std::shared_ptr<CallKind> last;
  for (const auto& [structure, kinds] : by_structure_) {
    for (const auto& kind : kinds) {
      const bool busy = kind->route == Route::kUnknown || kind->route == Route::kLearning || kind->widening;
      if (!busy && (!last || kind->used_at < last->used_at)) last = kind;
    }
  }
  if (!last || uses_ - last->used_at < idle_) return nullptr;
  idle_ = last->used < kWorthwhile ? std::min(idle_ * 2, kMostIdle) : kIdle;
  remove(*last);
  return last;
}

std::shared_ptr<CallKind> CallKinds::find(std::int64_t id) const {
  for (const auto& [structure, kinds] : by_structure_) {
    for (const auto& kind : kinds) {
      if (kind->id == id) return kind;
    }
  }
  return nullptr;
}

std::vector<std::shared_ptr<CallKind>> CallKinds::all() const {
  std::vector<std::shared_ptr<CallKind>> all;
  for (const auto& [structure, kinds] : by_structure_) all.insert(all.end(), kinds.begin(), kinds.end());
  return all;
}

void CallKinds::add(const std::shared_ptr<CallKind>& kind) {
  next_id_ = std::max(next_id_, kind->id + 1);
  uses_ = std::max(uses_, kind->used_at);
  by_structure_[kind->structure].push_back(kind);
  ++count_;
}

void CallKind::give_up_promise() noexcept {
  if (promised()) route = Route::kUnknown;
}

CallKinds::Taken CallKinds::take() noexcept {
  count_ = 0;
  return std::exchange(by_structure_, {});
}

CallKinds::Taken CallKinds::exchange(Taken others) noexcept {
  Taken taken = std::exchange(by_structure_, std::move(others));
  count_ = 0;
  for (const auto& [structure, kinds] : by_structure_) count_ += kinds.size();
  for (auto& [structure, kinds] : taken) {
    for (const auto& kind : kinds) kind->give_up_promise();
    std::erase_if(kinds, [](const auto& kind) {
      return kind->mixed || kind->route == Route::kUnknown || kind->route == Route::kLearning ||
             kind->put_off > Duration::zero();
    });
  }
  std::erase_if(taken, [](const auto& entry) { return entry.second.empty(); });
  return taken;
}

void CallKinds::remove(const CallKind& kind) {
  const auto found = by_structure_.find(kind.structure);
  if (found == by_structure_.end()) return;
  count_ -= std::erase_if(found->second, [&](const auto& other) { return other->id == kind.id; });
  if (found->second.empty()) by_structure_.erase(found);
}

}  // namespace torchpool
