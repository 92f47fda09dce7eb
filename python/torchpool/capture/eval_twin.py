"""Whether a module in train mode computes what it would in eval mode, seen on a copy that shares its weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchpool.call import Call, replace_tensors, tensors, tree
from torchpool.capture import module_copy
from torchpool.contract import mode_surely_matters
from torchpool.contract.probe import ModuleState, PlainDraws, Stopped


def same_in_eval(target: Callable[..., Any], module: nn.Module | None, call: Call) -> bool:
    """Whether a call gives the same, bit for bit, by a copy in eval mode, which neither draws nor writes what it shares
    with the module. False where there can be no such copy.

    `target` is `module` or a method of it, and neither draws nor writes.
    """
    if module is None or isinstance(module, torch.jit.ScriptModule) or mode_surely_matters(module):
        return False
    name = None if target is module else getattr(target, "__name__", "")
    try:
        twin = module_copy.share(module)
        run = twin if name is None else getattr(twin, name)
    except Exception:  # whatever cannot be copied, or found in the copy
        return False
    parts = list(twin.modules())
    if not {id(part) for part in module.modules()}.isdisjoint(map(id, parts)):
        return False  # a part that copies to itself is the module's own
    for part in parts:
        part.training = False
    state, draws, own = ModuleState(module), PlainDraws(run), PlainDraws(target)
    try:
        found, spec = _watched(state, own.watched(target), call)
        others, twin_spec = _watched(state, draws.watched(run), call)
    except (Stopped, Exception):  # in eval mode it may raise
        return False
    finally:
        written = state.written
        state.restore()
        draws.put_back()
        own.put_back()
    if written or draws.drawn is not None:
        return False
    return spec == twin_spec and all(_equal(one, other) for one, other in zip(found, others, strict=True))


def _watched(state: ModuleState, run: Callable[..., Any], call: Call) -> tuple[list[torch.Tensor], tree.TreeSpec]:
    """A run's result."""
    args, kwargs = replace_tensors(call, [leaf.detach().clone() for leaf in tensors(call)])
    watch = state.watch()
    state.begin_run()
    try:
        with torch.inference_mode(False), torch.no_grad(), watch:
            result = tree.flatten(run(*args, **kwargs))
    finally:
        state.note_run()
    if watch.stopped:  # and the model caught what should have ended it
        raise Stopped
    return result


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.layout != torch.strided or other.layout != torch.strided or one.dtype != other.dtype:
        return False
    return one.shape == other.shape and bool(((one == other) | ((one != one) & (other != other))).all())
