// A request that carries tensors.
#pragma once

#include <ATen/core/Tensor.h>

#include <atomic>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/queue/request.h"
#include "predict/backends/backend.h"
#include "predict/batch/contract.h"
#include "predict/batch/opaque_argument.h"

namespace torchpool {

// Note [Who drops an input]
// The last handle to a tensor that the interpreter has seen may have to take the interpreter's lock. Inputs therefore
// stay in their request; a request gives them to the reclaimer when it dies, and the reclaimer (supplied by the
// bindings) keeps them until a thread that may drop them comes by.
class Reclaimer {
 public:
  virtual ~Reclaimer() = default;
  virtual void reclaim(std::vector<at::Tensor> tensors) noexcept = 0;
};

// Whether a call may depend on those before it, as seen in runs of the module.
enum class HasState : std::uint8_t { kUnknown, kNo, kYes };

class CallRequest : public Request {
 public:
  CallRequest(const RequestInfo& facts, Reclaimer& reclaimer) : Request(facts), reclaimer_(reclaimer) {}
  ~CallRequest() override { reclaimer_.reclaim(std::move(inputs)); }

  // Set before admission.
  std::shared_ptr<const Contract> contract;  // null: an opaque call, run alone through `object`
  std::shared_ptr<Backend> backend;          // the backend of this kind of call; null: the predictor's
  std::shared_ptr<const CallForm> form;
  std::shared_ptr<const AmbientState> ambient;
  std::vector<at::Tensor> inputs;
  std::vector<std::int64_t> versions;  // of inputs that were not copied, which their owner may write to; else empty
  CallShape shape;

  // The bindings' function that says what the caller is to be told where the module raises, from its arguments and the
  // error. Null for a call that fits what was learned: the error itself.
  std::shared_ptr<void> refusal;

  // The bindings' function that runs the module for a call that nothing is known of, and looks whether the module keeps
  // state or draws random numbers; and where that is noted. Null where it is known.
  std::shared_ptr<void> look;
  std::shared_ptr<std::atomic<HasState>> has_state;

  // Where its processor time is added up, in ns. Null where nobody asks.
  std::shared_ptr<std::atomic<std::int64_t>> spent;

  // Where to note that the module has run for it, whatever came of that. Null where nobody asks.
  std::shared_ptr<std::atomic<bool>> ran;
  // How many calls like this one fill the batches that pay when they are in flight at a time, as was known when it was
  // made; 0: it runs alone.
  std::int64_t useful_calls = 0;

  // Whether a worker has it, from before it looks whether the request is still wanted until the module is done with it.
  std::atomic<bool> in_module{false};
  bool turn_held = false;  // belongs to the batch's task, which holds its turn while the module may run for it

  // Set before it succeeds.
  std::vector<at::Tensor> outputs;
  std::shared_ptr<const ResultForm> result_form;

  // The bindings' function that copies an opaque call's result. Set where the model hands out memory that it keeps.
  std::shared_ptr<void> copy_result;

  OpaqueArgument opaque;  // of an opaque call; empty where all of its arguments could be taken apart

  // The bindings' own object: the arguments of an opaque call, later its result. The deleter may run on any thread.
  std::shared_ptr<void> object;

  // Throws Error when an input that was not copied has been written since it was submitted.
  void check_unwritten() const;

  // Drops the owner that on_resolved() would have told. For a request that was not admitted.
  virtual void forget_notified() noexcept {}

 private:
  Reclaimer& reclaimer_;
};

}  // namespace torchpool
