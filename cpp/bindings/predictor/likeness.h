// What calls have in common that differ in the values of their one tensor alone, as the items of a map mostly do.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "bindings/predictor/prepared_call.h"
#include "core/schedule/channel.h"

namespace torchpool {

// Holds for as long as no Python code has run since the call that it is of, and the interpreter's lock was not let go:
// the model and the caller's state are then as they were for that call.
struct Likeness {
  RequestInfo info;
  std::shared_ptr<const Contract> contract;
  std::shared_ptr<Backend> backend;
  std::shared_ptr<const CallForm> form;
  std::shared_ptr<const AmbientState> ambient;
  std::shared_ptr<const ResultForm> result_form;
  CallShape shape;
  std::int64_t useful_calls = 0;
  std::shared_ptr<Channel> channel;
  c10::DispatchKeySet keys;
  at::ScalarType dtype = at::kFloat;
  std::vector<std::int64_t> sizes;

  // Of a call that shares batches and has one tensor with rows; empty for any other. `request`: made of it, and not
  // admitted yet.
  static std::shared_ptr<const Likeness> of(const PreparedCall& call, const CallRequest& request,
                                            const std::shared_ptr<Channel>& channel);
  // Whether a call of that tensor differs in nothing but its values.
  bool holds_for(const at::Tensor& tensor) const;
};

}  // namespace torchpool
