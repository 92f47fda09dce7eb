"""Copies a module for export: torch.export changes the module that it works on while it runs."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn


def share(module: nn.Module) -> nn.Module:
    """A copy of everything but the tensors, which both have in common. Raises what copying an attribute raises."""
    memo: dict[int, Any] = {}
    for part in module.modules():
        for tensor in _tensors(vars(part), set()):
            memo[id(tensor)] = tensor
    return copy.deepcopy(module, memo)


def _tensors(value: Any, seen: set[int]) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict | list | tuple | set) and id(value) not in seen:
        seen.add(id(value))
        for item in value.values() if isinstance(value, dict) else value:
            yield from _tensors(item, seen)


def convert(module: nn.Module, dtype: torch.dtype, *, all_buffers: bool) -> None:
    """Gives a copy made by `share` floating-point parameters and buffers of `dtype`.

    Without `all_buffers` those that are not saved keep theirs, as they do when a model is loaded in `dtype`: such
    tables (rotary frequencies) are computed with on purpose in a wider type.
    """
    converted: dict[int, Tensor] = {}

    def change(tensor: Tensor) -> Tensor:
        if id(tensor) not in converted:
            other: Tensor = tensor.detach().to(dtype)
            converted[id(tensor)] = nn.Parameter(other, False) if isinstance(tensor, nn.Parameter) else other
        return converted[id(tensor)]

    for part in module.modules():
        for name, parameter in part._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                part._parameters[name] = change(parameter)  # type: ignore[assignment]
        for name, buffer in part._buffers.items():
            kept = name in part._non_persistent_buffers_set and not all_buffers
            if buffer is not None and buffer.is_floating_point() and not kept:
                part._buffers[name] = change(buffer)


def ignore_conversions(module: nn.Module) -> None:
    """Lets a copy that is exported call `.to()` on its parts, which export cannot follow: of the right type and device
    they are already, and where they are not, the tensors that come in are refused."""
    for part in module.modules():
        vars(part)["_apply"] = lambda convert, recurse=True, part=part: part


def find(module: nn.Module, path: str) -> Tensor | None:
    """The tensor that the module holds at a path like "encoder.layer.0.weight"."""
    value: Any = module
    for name in path.split("."):
        value = getattr(value, name, None)
        if value is None:
            return None
    return value if isinstance(value, Tensor) else None
