"""What the weights of linear layers are stored in where that is less than what they are computed in."""

from __future__ import annotations

import torch
from torch import nn

FP32 = "fp32"
TOLERANCES = {"bf16": 5e-2, "fp16": 5e-3, "int8": 2e-1}
"""By storage how far a graph may be from its module, as a part of the largest value of an output. More than that is no
rounding: what rounding makes is told."""
OF_DTYPE = {torch.bfloat16: "bf16", torch.float16: "fp16"}
"""As what weights are stored that are to be of a dtype."""


def fp32_of(module: nn.Module) -> torch.dtype | None:
    """What has a copy of the module compute in fp32: None where it does."""
    tensors = (*module.parameters(), *module.buffers())
    same = all(tensor.dtype == torch.float32 for tensor in tensors if tensor.is_floating_point())
    return None if same else torch.float32


def has_products(dtype: torch.dtype) -> bool:
    """Whether this processor multiplies matrices of the dtype without making them fp32 first."""
    if dtype == torch.bfloat16:
        return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return dtype != torch.float16 or torch.cpu._is_amx_fp16_supported()
