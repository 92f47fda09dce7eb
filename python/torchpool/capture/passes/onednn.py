"""Which types oneDNN can compute on this machine."""

from __future__ import annotations

import torch


def supported(dtype: torch.dtype) -> bool:
    """Whether oneDNN's own operators take tensors of this type here."""
    if not torch._C._has_mkldnn or not torch.backends.mkldnn.enabled:
        return False
    if dtype == torch.bfloat16:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return dtype == torch.float32
