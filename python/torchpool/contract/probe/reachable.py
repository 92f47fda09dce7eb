"""What the code of a model names: attributes, closures, defaults and globals, and what those hold."""

from __future__ import annotations

import contextlib
import functools
import sys
import types
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from torchpool.contract.reached import imports_in, names_in

_NOT_ENTERED = ("torch", "numpy", "transformers", "builtins", "torchpool")
_MAX_OBJECTS = 20_000


class TooMany(Exception):
    """There is more than is looked through."""


def reachable(target: Any) -> Iterator[Any]:
    """Each object once; of libraries those that are named, not what they hold. Raises TooMany beyond 20,000."""
    owner = getattr(target, "__self__", target)
    waiting: deque[Any] = deque([owner, target, *getattr(owner, "__dict__", {}).values()])
    known: dict[int, Any] = {}  # which keeps them, so that their addresses stay their own
    while waiting:
        one = waiting.popleft()
        if id(one) in known:
            continue
        if len(known) >= _MAX_OBJECTS:
            raise TooMany
        known[id(one)] = one
        yield one
        waiting.extend(_named_by(one))


def modules_of(target: Any) -> list[nn.Module]:
    """Those that its code can reach, as far as is looked."""
    found: list[nn.Module] = []
    with contextlib.suppress(TooMany):
        found.extend(one for one in reachable(target) if isinstance(one, nn.Module))
    return found


def _named_by(one: Any) -> Iterator[Any]:
    if isinstance(one, nn.Module):
        for part in one.modules():
            yield type(part)
            yield from (value for name, value in vars(part).items() if not isinstance(value, torch.Tensor))
        return
    if isinstance(one, list | tuple | set | frozenset | deque):
        yield from (item for item in list(one) if not _is_plain(item))
    elif isinstance(one, dict):
        yield from (item for item in list(one.values()) if not _is_plain(item))
    elif isinstance(one, types.MethodType):
        yield one.__func__
        yield one.__self__
    elif isinstance(one, types.BuiltinMethodType):
        yield one.__self__
    elif isinstance(one, functools.partial):
        yield from (one.func, *one.args, *one.keywords.values())
    elif isinstance(one, staticmethod | classmethod):
        yield one.__func__
    elif isinstance(one, property):
        yield from (one.fget,) if one.fget is not None else ()
    elif isinstance(one, types.FunctionType):
        if not _is_library(one.__module__):
            yield from _outside(one)
    elif not isinstance(one, type) and callable(one) and "__wrapped__" in getattr(one, "__dict__", {}):
        yield vars(one)["__wrapped__"]
    elif isinstance(one, type):
        if not _is_library(type(one).__module__):
            yield type(one)
        for cls in one.__mro__:
            if not _is_library(cls.__module__):
                yield from vars(cls).values()
    elif not _is_library(type(one).__module__) and not isinstance(one, types.ModuleType | torch.Tensor):
        yield type(one)
        yield from getattr(one, "__dict__", {}).values()
        yield from _in_slots(one)


def _in_slots(one: Any) -> Iterator[Any]:
    for cls in type(one).__mro__:
        for slot in vars(cls).values() if not _is_library(cls.__module__) else ():
            if isinstance(slot, types.MemberDescriptorType):
                try:
                    yield slot.__get__(one)
                except AttributeError:  # nothing is in it
                    continue


def _outside(function: types.FunctionType) -> Iterator[Any]:
    """What a function takes from outside: closure, defaults, and globals by the names in its code."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = names_of(function)
    outside = [function.__globals__[name] for name in names & function.__globals__.keys()]
    outside += [sys.modules[name] for name in imports_in(function.__code__) & sys.modules.keys()]
    for value in outside:
        yield value
        if isinstance(value, types.ModuleType):
            yield from _of_module(value, names)
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield wrapped


def _of_module(module: types.ModuleType, names: frozenset[str]) -> Iterator[Any]:
    library = _is_library(module.__name__)
    for name in names & vars(module).keys():
        value = vars(module)[name]
        if not library or isinstance(value, types.ModuleType | types.BuiltinMethodType | types.MethodType):
            yield value


def names_of(function: types.FunctionType) -> frozenset[str]:
    """All names in its code that are no local variables."""
    return names_in(function.__code__)


def _is_library(name: Any) -> bool:
    top = (name if isinstance(name, str) and name else "builtins").partition(".")[0]
    return top in _NOT_ENTERED or top in sys.stdlib_module_names


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bytes | int | float | complex | torch.Tensor | None)
