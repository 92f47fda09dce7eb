"""The module in what a user holds: a module, or an object around one, such as a pipeline."""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import nn

from torchpool.predictor import Calls


def module_in(model: Any) -> nn.Module:
    """`model`, its `.model`, or the only module among its attributes. Raises TypeError where there is none, or several,
    or one whose class cannot be another."""
    found = _found(model)
    _refuse(found)
    return found


def _found(model: Any) -> nn.Module:
    if isinstance(model, nn.Module):
        return model
    if isinstance(model, Calls):
        raise TypeError("accelerate() takes the model, not its predictor, which serves calls already")
    owner = getattr(model, "__self__", None)
    if inspect.ismethod(model) and isinstance(owner, nn.Module):
        raise TypeError(
            f"accelerate() takes the module, not its method {model.__name__}: accelerate(model) speeds up what its "
            "methods call; wrap(model.method) makes a predictor of one method"
        )
    inner = _attribute(model, "model")
    if isinstance(inner, nn.Module):
        return inner
    names = [name for name, value in _attributes(model).items() if isinstance(value, nn.Module)]
    if len(names) == 1:
        found: nn.Module = _attributes(model)[names[0]]
        return found
    what = f"{type(model).__name__} has several: {', '.join(names)}" if names else f"got {type(model).__name__}"
    raise TypeError(
        f"accelerate() takes an nn.Module, a class of such, or an object that holds one, and {what}. "
        + ("Accelerate one of them" if names else "A plain function goes to torchpool.wrap()")
    )


def _refuse(module: nn.Module) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise TypeError(
            "accelerate() cannot change the class of a ScriptModule, which is compiled: use torchpool.wrap(model), or "
            "accelerate the module that it was made of"
        )
    if "_orig_mod" in module._modules:
        raise TypeError(
            "accelerate() takes the module inside of what torch.compile() returned, which answers the calls itself: "
            "accelerate(model) in place of torch.compile(model), or torchpool.wrap(compiled)"
        )


def _attribute(model: Any, name: str) -> Any:
    try:
        return getattr(model, name, None)
    except Exception:  # a property of somebody else's, which raises what it likes
        return None


def _attributes(model: Any) -> dict[str, Any]:
    found = getattr(model, "__dict__", None)
    return found if isinstance(found, dict) else {}
