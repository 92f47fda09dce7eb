"""Whether what a module gave its caller can be differentiated, which no predictor's result can."""

from __future__ import annotations

from typing import Any

from torchpool.call.tree import flatten

_MAX_DEPTH = 8


def gradients_in(result: Any, leaves: bool) -> bool:
    """Whether a tensor of the result has a gradient function, or, with `leaves`, requires grad.

    Objects are looked into by their attributes. True where a result cannot be looked at.
    """
    try:
        return _wants(result, leaves, set(), _MAX_DEPTH)
    except Exception:  # of properties and items of the user's own
        return True


def _wants(value: Any, leaves: bool, seen: set[int], depth: int) -> bool:
    if id(value) in seen or depth == 0:
        return False
    seen.add(id(value))
    tensors, spec = flatten(value)
    if any(tensor.grad_fn is not None or (leaves and tensor.requires_grad) for tensor in tensors):
        return True
    inner = (vars(one) for _, one in spec.opaque() if hasattr(one, "__dict__") and not callable(one))
    return any(_wants(item, leaves, seen, depth - 1) for attributes in inner for item in list(attributes.values()))
