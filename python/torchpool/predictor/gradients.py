"""What calls with grad mode are told: a predictor computes no gradients."""

from __future__ import annotations

from torch import nn

_LOST = (
    "grad mode is on and the model's weights require grad, but a predictor computes no gradients: its results have no "
    "grad_fn. Call it under torch.no_grad(), or freeze the weights by model.requires_grad_(False); "
    "torchpool.accelerate(model) leaves such calls to the model"
)


def gradients_lost(module: nn.Module | None) -> str | None:
    """That results lack the gradients that the model's own would have in grad mode, in words; None where they do not.

    A plain function is not known to have weights."""
    if module is None or not any(weight.requires_grad for weight in module.parameters()):
        return None
    return _LOST
