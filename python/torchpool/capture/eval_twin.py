"""Whether a module in train mode computes what it would in eval mode, seen on a copy that shares its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchpool.call import Call, replace_tensors, tensors, tree
from torchpool.capture import module_copy
from torchpool.contract import mode_surely_matters


def same_in_eval(target: Callable[..., Any], module: nn.Module | None, call: Call) -> bool:
    """Whether a call gives the same, bit for bit, by a copy in eval mode. False where there can be no such copy.

    `target` is `module` or a method of it, and neither draws nor writes. Raises what the module raises.
    """
    if module is None or isinstance(module, torch.jit.ScriptModule) or mode_surely_matters(module):
        return False
    name = None if target is module else getattr(target, "__name__", "")
    try:
        twin = module_copy.share(module)
        run = twin if name is None else getattr(twin, name)
    except Exception:  # whatever cannot be copied, or found in the copy
        return False
    for part in twin.modules():
        part.training = False
    with torch.inference_mode(False), torch.no_grad():
        (found, spec), (others, twin_spec) = (_flat(function, call) for function in (target, run))
    return spec == twin_spec and all(_equal(one, other) for one, other in zip(found, others, strict=True))


def _flat(function: Callable[..., Any], call: Call) -> tuple[list[torch.Tensor], tree.TreeSpec]:
    args, kwargs = replace_tensors(call, [leaf.detach().clone() for leaf in tensors(call)])
    return tree.flatten(function(*args, **kwargs))


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.layout != torch.strided or other.layout != torch.strided or one.dtype != other.dtype:
        return False
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
