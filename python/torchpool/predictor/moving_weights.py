"""What is found out about a model while somebody writes its weights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

from torch import nn

from torchpool import _core
from torchpool.contract import Check, Reason
from torchpool.contract.probe import Found, modules_of
from torchpool.predictor.kinds import Kind

T = TypeVar("T")

_PROBES = 4


def at_rest(kind: Kind, target: Callable[..., Any], module: nn.Module | None, probe: Callable[[], T]) -> T:
    """What a probe of a kind finds during which no weights changed: between two of its runs a change would look like
    state, or like rows that meet. Of weights that never rest, what the last of some probes finds; `kind.restless` says
    so."""
    weights = [] if module is None else list(module.parameters())
    for _ in range(_PROBES):
        watch, kind.padded_with = _core.WeightWatch(weights), watch_all(target, module)
        found = probe()
        kind.restless = watch.look() != "same"
        if not kind.restless:
            break
    return found


def unsettled_by_moving(found: Found) -> Found:
    """What was found while weights never rested, which is no last word where it keeps calls apart: the weights may have
    made the difference."""
    contract = found.contract
    if contract.mode != "alone":
        return found
    text = f"weights changed during each of {_PROBES} probes"
    checks = (*contract.checks, Check("weights", False, text))
    reason = f"{contract.reason}, as far as can be told: its {text}"
    return Found(dataclasses.replace(contract, reason=reason, code=Reason.CHECK, checks=checks), None, found.spec)


def watch_all(target: Callable[..., Any], module: nn.Module | None) -> _core.WeightWatch:
    """A watch on parameters and buffers as they are now, also of modules that a function has at hand."""
    modules = modules_of(target) if module is None else [module]
    tensors = [tensor for one in modules for tensor in (*one.parameters(), *one.buffers())]
    known = {id(tensor): tensor for tensor in tensors if not nn.parameter.is_lazy(tensor)}
    return _core.WeightWatch(list(known.values()))
