"""Which context variables a model may read: calls share a batch only where those have equal values.

Python cannot hook such reads. A run under a profile function shows those that Python code makes, variables that its
code can reach count as read, too, and a run without any variable set must give the same.
"""

from __future__ import annotations

import contextvars
import dis
import operator
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

from torchpool.call.tree import TreeSpec, flatten
from torchpool.contract.probe.reachable import TooMany, names_of, reachable
from torchpool.contract.probe.state import ModuleState
from torchpool.contract.probe.watch import Stopped
from torchpool.contract.reached import codes_in

_READS = ("get", "set", "reset")
# Built-in functions, and what else finds a variable by a text that no name in the code shows.
_BY_TEXT = frozenset({"globals", "vars", "eval", "exec", "__import__"})
_GETTERS = (operator.attrgetter, operator.methodcaller)
_FINDERS = frozenset({"attrgetter", "methodcaller", "import_module"})
# Libraries whose own variables change nothing in a result, or collect values for it.
_OWN = ("torch", "torchpool", "transformers")
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
    except (_MayReadAny, Stopped):  # without them it may draw random numbers
        return None
    finally:
        state.restore()


def variables_read(target: Any, run: Callable[[], Any]) -> str | None:
    """The variables that code of the target reads while `run` runs it, in words; None where it reads none.

    Under somebody's profile function, which hides such reads, those that its code can reach.
    """
    try:
        variables = _seen(run, but_of=_OWN)[0] if sys.getprofile() is None else list(_reachable(target))
    except _MayReadAny:
        return "context variables that cannot be told"
    names = sorted({variable.name for variable in variables})
    return f"the context variable {', '.join(names)}" if names else None


def _seen(run: Callable[[], Any], but_of: tuple[str, ...] = ()) -> tuple[list[_Variable], _Result]:
    """Those that Python code of a run, but of these libraries, reads or sets on this thread, and the run's result."""
    if sys.getprofile() is not None:
        raise _MayReadAny  # somebody measures this thread
    found: list[_Variable] = []
    copied: list[str] = []

    def see(frame: types.FrameType, event: str, called: Any) -> None:
        if event != "c_call":
            return
        owner = getattr(called, "__self__", None)
        if but_of and str(frame.f_globals.get("__name__")).partition(".")[0] in but_of:
            return
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
    """Those among what the code of the target names."""
    try:
        for one in reachable(target):
            if isinstance(one, contextvars.ContextVar):
                yield one
            elif _hides(one):
                raise _MayReadAny
    except TooMany:
        raise _MayReadAny from None


def _hides(one: Any) -> bool:
    """Whether it may come to a variable that no name shows."""
    if type(one).__name__ == "LocalProxy":  # stands for what a variable holds, by a function that is hidden
        return True
    if isinstance(one, types.FunctionType):
        return _finds_by_text(one)
    return one is sys.modules or isinstance(one, _GETTERS) or (isinstance(one, type) and issubclass(one, _GETTERS))


def _finds_by_text(function: types.FunctionType) -> bool:
    """Whether a function may come to a variable by a text."""
    names = names_of(function)
    if names & _FINDERS or (sys in (function.__globals__.get(name) for name in names) and "modules" in names):
        return True
    return any(name not in function.__globals__ for name in names & _BY_TEXT & set(_globals_of(function.__code__)))


def _globals_of(code: types.CodeType) -> Iterator[str]:
    """Names that the code looks up as globals, and not as attributes."""
    for inner in codes_in(code):
        loads = (one for one in dis.get_instructions(inner) if one.opname in ("LOAD_GLOBAL", "LOAD_NAME"))
        yield from (str(one.argval) for one in loads)
