// Makes a call into a request, and admits it to its channel.
#pragma once

#include <memory>

#include "bindings/interpreter/bound_runtime.h"
#include "bindings/predictor/bound_learner.h"
#include "bindings/predictor/likeness.h"
#include "bindings/predictor/predictor_options.h"
#include "bindings/predictor/prepared_call.h"

namespace torchpool {

// Whom to tell that a request is done, beside those who wait for it.
struct Notify {
  py::object object = py::none();  // given to the runtime's notifier; None: nobody
  bool to_loop = false;            // to that of event loops instead of that of futures
};

// Of the inputs, which their owner may write to once they are submitted. One that is not copied, and was written to by
// the time that it is used, fails its call.
enum class Snapshot : std::uint8_t {
  kNone,    // the owner waits
  kSmall,   // copies of small ones
  kIfRoom,  // the same, where the queue has room: what waits in line is to cost no memory
};

// Every method requires the interpreter's lock.
class RequestMaker {
 public:
  // `unnotified` counts the requests of which somebody is still to be told. `reject`: a full queue refuses.
  RequestMaker(std::shared_ptr<BoundRuntime> runtime, BoundLearner& learner, std::shared_ptr<Unnotified> unnotified,
               bool reject);

  // Takes the call's tensors. `channel`: where it is to go.
  std::shared_ptr<CallRequest> make(PreparedCall& call, const py::tuple& args, const py::object& kwargs,
                                    const CallOptions& options, Notify notify, Snapshot snapshot,
                                    Channel& channel) const;
  // The same for a call of that tensor, which is like one before it.
  static std::shared_ptr<CallRequest> make_like(const Likeness& like, const at::Tensor& tensor, TurnPtr turn);
  // Waits for room with the lock released, unless `full` says otherwise. Requires: a call that must run
  // inline does not come here, unless it lines up.
  void admit(const PreparedCall& call, const std::shared_ptr<CallRequest>& request,
             const std::shared_ptr<Channel>& channel, Full full) const;
  // As admit(), of one that has neither promise nor deadline. Whether the lock was held all the time.
  bool admit_like(const std::shared_ptr<CallRequest>& request, Channel& channel) const;
  void watch_deadline(const std::shared_ptr<CallRequest>& request) const;
  bool rejects_when_full() const noexcept { return reject_; }

 private:
  // Whether the lock was held all the time.
  bool push(const std::shared_ptr<CallRequest>& request, Channel& channel, Full full) const;
  Admission admission(Full full) const;
  static void take_snapshot(CallRequest& request, std::size_t most);

  std::shared_ptr<BoundRuntime> runtime_;
  BoundLearner& learner_;
  std::shared_ptr<Unnotified> unnotified_;
  const bool reject_;
};

}  // namespace torchpool
