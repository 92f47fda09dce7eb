"""Whether a class could bear that one of its objects has a subclass of it in its place.

Code that says type(self) would compute something else, count elsewhere, pickle another class, or come back to itself by
super(type(self), self). A class that hears of its subclasses would register the one that was made.
"""

from __future__ import annotations

import dis
import types
from collections.abc import Iterator
from typing import Any

_LIBRARIES = frozenset({"torch", "transformers", "typing", "typing_extensions", "builtins", "abc", "torchpool"})
"""Whose classes bear subclasses."""
_NAMES = frozenset({"__name__", "__qualname__", "__module__"})
"""Of a class, which a made one shares."""
_RUN_ALREADY = frozenset({"__init__", "__new__", "__init_subclass__"})
_LOADS = frozenset({"LOAD_FAST", "LOAD_DEREF", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK", "LOAD_CLOSURE"})
_ATTRIBUTES = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_SILENT = frozenset(
    {"CACHE", "COPY_FREE_VARS", "EXTENDED_ARG", "MAKE_CELL", "NOP", "NOT_TAKEN", "PRECALL", "PUSH_NULL", "RESUME"}
)
_MAX_DEPTH = 8

Step = tuple[str, Any]


def bears_subclass(cls: type) -> bool:
    """Whether neither its code nor its metaclass makes a difference between the class and a subclass."""
    metaclass: Any = type(cls)
    if any(not _is_of_library(one) for one in metaclass.__mro__):
        return False
    for base in cls.__mro__:
        if _is_of_library(base):
            continue
        if "__init_subclass__" in vars(base):
            return False
        for name, member in list(vars(base).items()):
            if any(_tells_apart(*each, ran=name in _RUN_ALREADY) for each in _codes(member)):
                return False
    return True


def _is_of_library(cls: type) -> bool:
    return _is_library(cls.__module__)


def _is_library(module: object) -> bool:
    return str(module).partition(".")[0] in _LIBRARIES


def _codes(member: Any) -> Iterator[tuple[types.CodeType, bool]]:
    """Code of a member of a class, and whether its first argument is the class: that behind decorators, too."""
    seen: set[int] = set()
    waiting = [(member, False, 0)]
    while waiting:
        one, of_class, depth = waiting.pop()
        if id(one) in seen or depth == _MAX_DEPTH:
            continue
        seen.add(id(one))
        if isinstance(one, types.FunctionType):
            if not _is_library(one.__globals__.get("__name__")):  # as that of torch.no_grad() is
                yield one.__code__, of_class
            cells = [cell.cell_contents for cell in one.__closure__ or () if cell != types.CellType()]
            waiting += [(cell, of_class, depth + 1) for cell in cells if callable(cell) and not isinstance(cell, type)]
        elif isinstance(one, types.ModuleType | type):
            continue
        inside = [_static(one, name) for name in ("__func__", "__wrapped__", "func", "fget", "fset", "fdel")]
        waiting += [(each, of_class or isinstance(one, classmethod), depth + 1) for each in inside if callable(each)]


def _static(one: Any, name: str) -> Any:
    """An attribute of a decorator's object, whose own lookup may do what it likes."""
    try:
        return getattr(one, name, None)
    except Exception:  # as of a proxy that is not set up
        return None


def _tells_apart(code: types.CodeType, of_class: bool, ran: bool) -> bool:
    """Whether code asks for its object's type, for more than its name. `ran`: what it does itself has been done."""
    if not code.co_varnames and not code.co_freevars:
        return False
    return _any_code(code, code.co_varnames[:1], of_class, ran)


def _any_code(code: types.CodeType, first: tuple[str, ...], of_class: bool, ran: bool) -> bool:
    if not ran and first and _asks(code, first[0], of_class):
        return True
    # A function in it has the object by that name, or as its own first argument, as where it decorates.
    inner = [one for one in code.co_consts if isinstance(one, types.CodeType)]
    return any(
        _any_code(one, names, of_class, False) for one in inner for names in {first, one.co_varnames[:1]} if names
    )


def _asks(code: types.CodeType, own: str, of_class: bool) -> bool:
    if not of_class and "type" not in code.co_names and "__class__" not in {*code.co_names, *code.co_consts}:
        return False
    steps = list(_steps(code))
    ends: list[Step] = [("", None)] * 3
    for at, step in enumerate(steps):
        after = steps[at + 1 :][:3] + ends
        if step[0] in _LOADS and step[1] == own:
            before = steps[at - 1] if at else ends[0]
            if of_class and not _is_use_of_class(code, before, after):
                return True
            if after[0][0] in _ATTRIBUTES and after[0][1] == "__class__" and not _is_name(after[1]):
                return True
            if before == ("LOAD_GLOBAL", "type") and after[0][0].startswith("CALL") and not _is_name(after[1]):
                return True
            if after[0] == ("LOAD_CONST", "__class__"):  # getattr(self, "__class__")
                return True
    return False


def _is_use_of_class(code: types.CodeType, before: Step, after: list[Step]) -> bool:
    """Whether a class method does with its class what it may do with a subclass: read an attribute, make an object."""
    if {"setattr", "super"} & set(code.co_names):
        return False
    if after[0][0] in _ATTRIBUTES:
        name = str(after[0][1])
        return _is_name(after[0]) or not (name.startswith("__") and name.endswith("__"))
    return ("CALLS", None) in (before, after[0])


def _is_name(step: Step) -> bool:
    return step[0] in _ATTRIBUTES and step[1] in _NAMES


def _steps(code: types.CodeType) -> Iterator[Step]:
    """Instructions, one name each. ("CALLS", None) stands before what is called without an object of its own."""
    for step in dis.get_instructions(code):
        if step.opname == "PUSH_NULL":
            yield "CALLS", None
        elif step.opname in _SILENT:
            continue
        elif "FAST" in step.opname and isinstance(step.argval, tuple):  # two variables at once
            first, _, second = step.opname.partition("_LOAD_FAST")
            names = [first, "LOAD_FAST" + second]
            yield from zip(names, step.argval, strict=False)
        else:
            yield step.opname, step.argval
