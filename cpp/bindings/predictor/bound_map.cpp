// The part of BoundPredictor that maps use.
#include <torch/csrc/autograd/python_variable.h>

#include <utility>

#include "bindings/predictor/bound_predictor.h"

namespace torchpool {

void BoundPredictor::submit_to(MapResults& results, const py::tuple& args, const CallOptions& options) {
  results.like.reset();
  std::shared_ptr<const Likeness> like;
  Pending pending = submit(args, py::none(), options, {}, Full::kBlock, false, &like);
  results.put(std::move(pending));
  results.like = std::move(like);
}

// Between two of these calls runs no code but this: what was looked at for the one that they are like still holds. What
// refuses one of them, which then goes the whole way, tells its caller there.
py::object BoundPredictor::submit_like(MapResults& results, const py::iterator& items, std::int64_t most) {
  std::shared_ptr<const Likeness> like = std::exchange(results.like, nullptr);
  for (std::int64_t left = most; left > 0; --left) {
    const auto item = py::reinterpret_steal<py::object>(PyIter_Next(items.ptr()));
    if (!item) {
      if (PyErr_Occurred() != nullptr) throw py::error_already_set();
      throw py::stop_iteration();
    }
    if (!like || !THPVariable_CheckExact(item.ptr())) return py::make_tuple(item);
    const at::Tensor& tensor = THPVariable_Unpack(item.ptr());
    const bool has_turn = CallTurns::apply_here();
    if (!like->holds_for(tensor) || channels_.closed() || (has_turn && !turns_.open())) return py::make_tuple(item);
    const auto request = RequestMaker::make_like(*like, tensor, has_turn ? turns_.take_shared() : nullptr);
    bool held = false;
    try {
      held = requests_.admit_like(request, *like->channel);
    } catch (const Error&) {  // closed meanwhile, say
      return py::make_tuple(item);
    }
    results.put(Pending(request, like->channel));
    if (!held) like.reset();
  }
  return py::none();
}

}  // namespace torchpool
