"""A call's arguments as tensors and back, in the extension's own order."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

Call = tuple[tuple[Any, ...], dict[str, Any]]


def as_call(example: Any) -> Call:
    """One call's arguments: a tuple is positional, a mapping is keywords, any other value is the only argument."""
    if isinstance(example, tuple):
        return example, {}
    if isinstance(example, Mapping):
        return (), dict(example)
    return (example,), {}


def is_leaf(value: Any) -> bool:
    """Whether a value is taken as a tensor of the call; subclasses of Tensor are left to the model."""
    return type(value) in (torch.Tensor, torch.nn.Parameter)


def tensors(call: Call) -> list[torch.Tensor]:
    """The call's tensors: positional arguments first, then keywords by name."""
    args, kwargs = call
    found = list(_tensors(args))
    for name in sorted(kwargs):
        found.extend(_tensors(kwargs[name]))
    return found


def _tensors(value: Any) -> Iterator[torch.Tensor]:
    if is_leaf(value):
        yield value
    elif type(value) in (tuple, list):
        for item in value:
            yield from _tensors(item)
    elif type(value) is dict:
        for item in value.values():
            yield from _tensors(item)


def values(call: Call) -> list[tuple[str, str]]:
    """Path and text of every value in the call that is no tensor, keywords by name; empty containers are values."""
    args, kwargs = call
    found: list[tuple[str, str]] = []
    for index, value in enumerate(args):
        found.extend(_values(value, str(index)))
    for name in sorted(kwargs):
        found.extend(_values(kwargs[name], name))
    return found


def _values(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if is_leaf(value):
        return
    if value and type(value) in (tuple, list):
        for index, item in enumerate(value):
            yield from _values(item, f"{path}[{index}]")
    elif value and type(value) is dict:
        for key, item in value.items():
            yield from _values(item, f"{path}[{key}]")
    else:
        yield path, repr(value)


def replace_tensors(call: Call, leaves: Sequence[torch.Tensor]) -> Call:
    """The same call with other tensors in their places."""
    rest = iter(leaves)

    def put(value: Any) -> Any:
        if is_leaf(value):
            return next(rest)
        if type(value) in (tuple, list):
            return type(value)(put(item) for item in value)
        if type(value) is dict:
            return {key: put(item) for key, item in value.items()}
        return value

    args, kwargs = call
    new_args = tuple(put(value) for value in args)
    replaced = {name: put(kwargs[name]) for name in sorted(kwargs)}
    return new_args, {name: replaced[name] for name in kwargs}


def parameter_names(target: Callable[..., Any]) -> list[str]:
    """Names of the target's positional parameters; empty where they are unknown."""
    return [p.name for p in parameters(target) if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]


def argument_names(target: Callable[..., Any]) -> set[str]:
    """Names of all of the target's parameters; empty where it takes any name, or where they are unknown."""
    found = parameters(target)
    if any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in found):
        return set()
    return {p.name for p in found}


def parameters(target: Callable[..., Any]) -> list[inspect.Parameter]:
    """Of a module those of its forward; empty where they are unknown."""
    function = target.forward if isinstance(target, torch.nn.Module) else target
    try:
        return list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        pass
    schema = getattr(function, "schema", None)  # of a traced or loaded script
    names = [argument.name for argument in getattr(schema, "arguments", [])]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return [inspect.Parameter(name, kind) for name in names if name != "self"]


def readable_names(paths: Sequence[str], parameters: Sequence[str]) -> list[str]:
    """Leaf paths ("0", "mask", "1[0]") with positions replaced by the parameters' names."""

    def readable(path: str) -> str:
        head, bracket, rest = path.partition("[")
        if head.isdecimal():
            index = int(head)
            head = parameters[index] if index < len(parameters) else f"args[{index}]"
        return head + bracket + rest

    return [readable(path) for path in paths]
