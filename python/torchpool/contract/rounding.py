"""How far merged rows may be from the same rows alone where more than inputs and outputs is computed in less."""

from __future__ import annotations

import torch
from torch import nn

# Of the largest value of an output: rounding to the 8 bits of bfloat16 at each of some 20 layers stays within.
_COARSE = {torch.bfloat16: 5e-2, torch.float16: 5e-3}


def tolerance(module: nn.Module | None, dtype: torch.dtype | None) -> float | None:
    """For a module that is computed in `dtype` (None: in its own), under the present autocast state; None for the
    bounds that the dtypes of inputs and outputs give by themselves."""
    dtypes = {dtype} if dtype is not None else set()
    if module is not None and not isinstance(module, torch.jit.ScriptModule):
        dtypes |= {tensor.dtype for tensor in (*module.parameters(), *module.buffers())}
    if torch.is_autocast_enabled("cpu"):
        dtypes.add(torch.get_autocast_dtype("cpu"))
    return max((_COARSE[one] for one in dtypes if one in _COARSE), default=None)
