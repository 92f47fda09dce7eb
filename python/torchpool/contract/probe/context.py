"""Which context variables a model may read: calls share a batch only where those have equal values.

Python cannot hook such reads. A run under a profile function shows those that Python code makes, variables that its
code can reach count as read, too, and a run without any variable set must give the same.
"""

from __future__ import annotations

import contextvars
import functools
import sys
import types
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from torchpool.call.tree import TreeSpec, flatten
from torchpool.contract.probe.state import ModuleState
from torchpool.contract.probe.watch import Drew

_READS = ("get", "set", "reset")
_NOT_ENTERED = ("torch", "numpy", "transformers", "builtins", "torchpool")
_MAX_OBJECTS = 20_000
_Variable = contextvars.ContextVar[Any]
_Result = tuple[list[torch.Tensor], TreeSpec]


class _MayReadAny(Exception):
    """Which variables are read cannot be told."""


def context_variables(target: Any, module: nn.Module | None, run: Callable[[], Any]) -> tuple[_Variable, ...] | None:
    """Those that the target may read when `run` runs it on one call; None where it may be any.

    `run` is called once or twice, the second time without any variable set. What it changes of `module` is put back.
    """
    if isinstance(target, torch.jit.ScriptModule | torch._C.ScriptMethod):
        # A script reads what functions in Python read that it calls.
        graph: Any = target.inlined_graph  # type: ignore[union-attr]  # of methods, too
        return None if "PythonOp" in str(graph) else ()
    state = ModuleState(module)

    def watched() -> Any:
        with state.watched_run():
            return run()

    try:
        seen, result = _seen(run)  # not watched: what watches reads variables of its own
        found = {id(variable): variable for variable in (*seen, *_reachable(target))}
        return tuple(found.values()) if found or _same_without(watched, *result) else None
    except (_MayReadAny, Drew):  # without them it may draw random numbers
        return None
    finally:
        state.restore()


def _seen(run: Callable[[], Any]) -> tuple[list[_Variable], _Result]:
    """Those that Python code of a run reads or sets on this thread, and the run's result."""
    if sys.getprofile() is not None:
        raise _MayReadAny  # somebody measures this thread
    found: list[_Variable] = []
    copied: list[str] = []

    def see(frame: types.FrameType, event: str, called: Any) -> None:
        if event != "c_call":
            return
        owner = getattr(called, "__self__", None)
        if isinstance(owner, contextvars.ContextVar) and called.__name__ in _READS:
            found.append(owner)
        elif called is contextvars.copy_context or isinstance(owner, contextvars.Context):
            copied.append(called.__name__)

    def profiled() -> _Result:
        sys.setprofile(see)
        try:
            return _flat(run)
        finally:
            sys.setprofile(None)

    result = contextvars.copy_context().run(profiled)
    if copied:
        raise _MayReadAny
    return found, result


def _same_without(run: Callable[[], Any], leaves: list[torch.Tensor], spec: TreeSpec) -> bool:
    """Whether a run with no variable set gives the same as the one with those of the caller gave."""
    if not contextvars.copy_context():
        return True
    try:
        others, other_spec = contextvars.Context().run(_flat, run)
    except Exception:
        return False
    return spec == other_spec and all(torch.equal(one, other) for one, other in zip(leaves, others, strict=True))


def _flat(run: Callable[[], Any]) -> _Result:
    with torch.inference_mode(False), torch.no_grad():
        return flatten(run())


def _reachable(target: Any) -> Iterator[_Variable]:
    """Those among what the code of the target names: attributes, closures, defaults and globals, of helpers, too."""
    owner = getattr(target, "__self__", target)
    waiting: deque[Any] = deque([owner, target])
    for value in list(vars(owner).values()) if hasattr(owner, "__dict__") else []:
        waiting.append(value)
    known: set[int] = set()
    kept: list[Any] = []  # whose addresses stay their own meanwhile
    while waiting:
        one = waiting.popleft()
        if id(one) in known:
            continue
        if len(known) >= _MAX_OBJECTS:
            raise _MayReadAny
        known.add(id(one))
        kept.append(one)
        if isinstance(one, contextvars.ContextVar):
            yield one
        elif type(one).__name__ == "LocalProxy":  # stands for what a variable holds, by a function that is hidden
            raise _MayReadAny
        else:
            waiting.extend(_named_by(one))


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
        for cls in one.__mro__:
            if not _is_library(cls.__module__):
                yield from vars(cls).values()
    elif not _is_library(type(one).__module__) and not isinstance(one, types.ModuleType | torch.Tensor):
        yield type(one)
        yield from getattr(one, "__dict__", {}).values()


def _outside(function: types.FunctionType) -> Iterator[Any]:
    """What a function takes from outside: closure, defaults, and globals by the names in its code."""
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not bound yet
            continue
    yield from function.__defaults__ or ()
    yield from (function.__kwdefaults__ or {}).values()
    names = set(_names(function.__code__))
    for name in names & function.__globals__.keys():
        value = function.__globals__[name]
        yield value
        if isinstance(value, types.ModuleType) and not _is_library(value.__name__):
            yield from (vars(value)[inner] for inner in names & vars(value).keys())
    wrapped = getattr(function, "__wrapped__", None)
    if wrapped is not None:
        yield wrapped


def _names(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)


def _is_library(name: str | None) -> bool:
    top = (name or "builtins").partition(".")[0]
    return top in _NOT_ENTERED or top in sys.stdlib_module_names


def _is_plain(value: Any) -> bool:
    return isinstance(value, str | bytes | int | float | complex | torch.Tensor | None)
