"""A predictor behind an accelerated module, which it looks at by a twin and does not keep alive."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchpool import _core


@dataclass(frozen=True)
class Entered:
    """What such a predictor has to know of the module."""

    module: weakref.ref[nn.Module]
    """That runs for calls, for as long as it is alive; then its twin does, which was wrapped."""
    notes: Callable[[], list[str]]
    """For explain()."""


def model_of(model: Callable[..., Any], entered: Entered | None) -> Callable[..., Any]:
    """What a user knows as the model: of an accelerated one not the twin."""
    module = None if entered is None else entered.module()
    return model if module is None else module


def target_of(model: Callable[..., Any], module: nn.Module | None, entered: Entered | None) -> Callable[..., Any]:
    """What calls run: of a module so that accelerated ones in it, or it itself, answer its own calls themselves."""
    if entered is not None:
        return _core.InnerCall(model, entered.module)
    if module is None or isinstance(module, torch.jit.ScriptModule):
        return model
    return _core.InnerCall(model)


def notes_of(entered: Entered | None) -> list[str]:
    """For explain()."""
    return [] if entered is None else entered.notes()


def entrance_of(model: Any) -> _core.Entrance | None:
    """By which an accelerated module's calls come; None of what is not accelerated."""
    for base in type(model).__mro__:
        entered = vars(base).get("_torchpool_entered_class")  # for several objects
        if entered is not None and (found := entered.entrance_of(model)) is not None:
            return found  # type: ignore[no-any-return]
        found = vars(base).get("_torchpool_entrance")
        if found is not None and found.module is model:
            return found  # type: ignore[no-any-return]
    return None
