#include "bindings/predictor/likeness.h"

namespace torchpool {

std::shared_ptr<const Likeness> Likeness::of(const PreparedCall& call, const CallRequest& request,
                                             const std::shared_ptr<Channel>& channel) {
  const bool plain = request.contract && request.inputs.size() == 1 && request.contract->inputs[0].batch_dim &&
                     !call.new_sizes && !call.learns_alone && !call.promise && !call.look && !request.ran &&
                     request.versions.empty();
  if (!plain) return nullptr;
  const at::Tensor& input = request.inputs[0];  // a copy, or what the caller passed
  if (!input.is_cpu()) return nullptr;
  auto like = std::make_shared<Likeness>();
  like->info = request.info;
  like->contract = request.contract;
  like->backend = request.backend;
  like->form = request.form;
  like->ambient = request.ambient;
  like->result_form = request.result_form;
  like->shape = request.shape;
  like->useful_calls = request.useful_calls;
  like->channel = channel;
  like->keys = input.key_set();
  like->dtype = input.scalar_type();
  like->sizes = input.sizes().vec();
  return like;
}

bool Likeness::holds_for(const at::Tensor& tensor) const {
  return tensor.key_set() == keys && tensor.scalar_type() == dtype && tensor.sizes() == sizes &&
         !tensor.requires_grad();
}

}  // namespace torchpool
