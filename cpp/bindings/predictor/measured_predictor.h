// A predictor as a measurement sees it: what cpp/lab, an extension module of its own, may do beside calling it.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "bindings/interpreter/gil.h"
#include "core/schedule/channel.h"
#include "predict/batch/call_request.h"

namespace torchpool {

// The other module has no objects of this one, only its headers: whatever crosses is a virtual call.
class MeasuredPredictor {
 public:
  // A call that is submitted again and again without Python. Its tensors are copies that Python has never seen.
  struct RepeatedCall {
    RequestInfo info;
    std::shared_ptr<const Contract> contract;
    std::shared_ptr<Backend> backend;
    std::shared_ptr<const CallForm> form;
    std::shared_ptr<const ResultForm> result_form;
    std::vector<at::Tensor> inputs;
    CallShape shape;
    std::shared_ptr<Channel> channel;
  };
  enum class Submitted : std::uint8_t { kAdmitted, kRejected, kExpired, kClosed };

  virtual ~MeasuredPredictor() = default;
  // Nothing for a call that shares no batch. Requires the interpreter's lock.
  virtual std::optional<RepeatedCall> repeated(const py::tuple& args, const py::object& kwargs) = 0;
  // `request` has what `call` has; `block`: waits for room. Runs no Python, on any thread.
  virtual Submitted submit_again(const RepeatedCall& call, const std::shared_ptr<CallRequest>& request,
                                 bool block) noexcept = 0;
  // How large batches are from now on; empty: as learned. Requires the interpreter's lock.
  virtual void set_policy(PolicyMaker make) = 0;
};

}  // namespace torchpool
