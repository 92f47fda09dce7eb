// Makes a call into a request, and admits it to its channel.
#pragma once

#include <memory>

#include "bindings/interpreter/bound_runtime.h"
#include "bindings/predictor/bound_learner.h"
#include "bindings/predictor/predictor_options.h"
#include "bindings/predictor/prepared_call.h"

namespace torchpool {

// Whom to tell that a request is done, beside those who wait for it.
struct Notify {
  py::object object = py::none();  // given to the runtime's notifier; None: nobody
  bool to_loop = false;            // to that of event loops instead of that of futures
};

// Every method requires the interpreter's lock.
class RequestMaker {
 public:
  // `unnotified` counts the requests of which somebody is still to be told. `reject`: a full queue refuses.
  RequestMaker(std::shared_ptr<BoundRuntime> runtime, BoundLearner& learner, std::shared_ptr<Unnotified> unnotified,
               bool reject);

  // Takes the call's tensors. `snapshot`: their owner may write to them meanwhile.
  std::shared_ptr<CallRequest> make(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                    const CallOptions& options, Notify notify, bool snapshot) const;
  // Waits for room with the lock released, unless `full` says otherwise. Requires: a call that must run
  // inline does not come here, unless it lines up.
  void admit(const PreparedCall& call, const std::shared_ptr<CallRequest>& request,
             const std::shared_ptr<Channel>& channel, Full full) const;
  void watch_deadline(const std::shared_ptr<CallRequest>& request) const;
  bool rejects_when_full() const noexcept { return reject_; }

 private:
  void push(const std::shared_ptr<CallRequest>& request, Channel& channel, Full full) const;
  Admission admission(Full full) const;
  static void take_snapshot(CallRequest& request);

  std::shared_ptr<BoundRuntime> runtime_;
  BoundLearner& learner_;
  std::shared_ptr<Unnotified> unnotified_;
  const bool reject_;
};

}  // namespace torchpool
