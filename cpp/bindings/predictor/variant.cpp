#include "bindings/predictor/variant.h"

#include <algorithm>

#include "core/sync/error.h"

namespace torchpool {

namespace {

bool same_leaves(const Variant& variant, const FlatCall& call) {
  return std::equal(variant.leaves.begin(), variant.leaves.end(), call.leaves.begin(), call.leaves.end(),
                    [](const Variant::Leaf& leaf, const at::Tensor& tensor) {
                      return leaf.dtype == tensor.scalar_type() && leaf.rank == tensor.dim() &&
                             leaf.device == tensor.device();
                    });
}

}  // namespace

Route route_from_string(const std::string& name) {
  for (const Route route : {Route::kMerge, Route::kDirect, Route::kParallel, Route::kSerial}) {
    if (name == to_string(route)) return route;
  }
  throw py::value_error("unknown route '" + name + "'");
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
    case Route::kParallel:
      return "parallel";
    case Route::kSerial:
      return "serial";
  }
  return "?";
}

std::shared_ptr<Variant> VariantTable::find_or_add(const FlatCall& call, std::uint64_t torch_key, PyObject* args,
                                                   PyObject* kwargs, const c10::FunctionSchema* schema) {
  const auto found = by_structure_.find(call.key);
  if (found != by_structure_.end()) {
    for (const auto& variant : found->second) {
      if (variant->torch_key == torch_key && same_leaves(*variant, call)) return variant;
    }
  }
  if (count_ >= kMaxVariants) return nullptr;
  auto variant = std::make_shared<Variant>();
  variant->id = next_id_++;
  variant->structure = call.key;
  for (const at::Tensor& tensor : call.leaves) {
    variant->leaves.push_back({tensor.scalar_type(), tensor.dim(), tensor.device()});
  }
  variant->torch_key = torch_key;
  variant->form = make_form(args, kwargs, schema);
  by_structure_[call.key].push_back(variant);
  ++count_;
  return variant;
}

std::shared_ptr<Variant> VariantTable::find(std::int64_t id) const {
  for (const auto& [structure, variants] : by_structure_) {
    for (const auto& variant : variants) {
      if (variant->id == id) return variant;
    }
  }
  return nullptr;
}

void VariantTable::clear() noexcept {
  by_structure_.clear();
  count_ = 0;
}

void VariantTable::remove(const Variant& variant) {
  auto& variants = by_structure_[variant.structure];
  count_ -= std::erase_if(variants, [&](const auto& other) { return other->id == variant.id; });
}

}  // namespace torchpool
