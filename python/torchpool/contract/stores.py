"""Which attributes code binds on objects that are no parts of the model, as the instructions before each store tell."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

from torch import nn

from torchpool.contract.held import dict_of
from torchpool.contract.reached import codes_in

_LOCALS = frozenset({"LOAD_FAST", "LOAD_FAST_BORROW", "LOAD_FAST_CHECK"})
_TWO_LOCALS = frozenset({"LOAD_FAST_LOAD_FAST", "LOAD_FAST_BORROW_LOAD_FAST_BORROW"})
_STORES = frozenset({"STORE_ATTR", "DELETE_ATTR"})
_GLOBALS = frozenset({"LOAD_GLOBAL", "LOAD_NAME"})
_NOTHING = frozenset({"CACHE", "PUSH_NULL", "PRECALL"})


class OtherObjects:
    """Those that the code of a model's functions binds attributes of, beside the model's parts."""

    def __init__(self, parts: Sequence[Any]) -> None:
        self._parts = parts

    def take(self, function: types.FunctionType, name: str) -> bool:
        """Whether all that the function's code binds by this name is an attribute of another object than a part."""
        found = (store for code in codes_in(function.__code__) for store in self._stores(function, code, name))
        return all(found)

    def take_any(self, function: types.FunctionType, ways: frozenset[str]) -> bool:
        """The same of attributes that it binds by whatever name: by setattr() and other such `ways`."""
        if not self._is_of_another(function):
            return False
        return all(_only_of_self(code, ways) for code in codes_in(function.__code__))

    def _stores(self, function: types.FunctionType, code: types.CodeType, name: str) -> Iterator[bool]:
        instructions = _instructions(code) if name in code.co_names else []
        for i, one in enumerate(instructions):
            if one.opname in _STORES and one.argval == name:
                yield code is function.__code__ and self._is_elsewhere(function, instructions[max(0, i - 2) : i])

    def _is_elsewhere(self, function: types.FunctionType, before: list[dis.Instruction]) -> bool:
        """`before`: what the store's object was loaded by, last."""
        if not _keeps_self(function.__code__) or not before:
            return False
        if _is_self(before[-1]):
            return self._is_of_another(function)
        if before[-1].opname != "LOAD_ATTR" or len(before) < 2 or not _is_self(before[-2]):
            return False
        cls, attribute = _class_of(function), before[-1].argval
        own = [part for part in self._parts if cls is not None and isinstance(part, cls)]
        return bool(own) and all(self._is_no_part(dict_of(part).get(attribute)) for part in own)

    def _is_no_part(self, value: Any) -> bool:
        return value is not None and not isinstance(value, nn.Module) and all(value is not part for part in self._parts)

    def _is_of_another(self, function: types.FunctionType) -> bool:
        """Whether it is a method of objects that are no parts."""
        cls = _class_of(function)
        if cls is None or not _keeps_self(function.__code__) or issubclass(cls, nn.Module):
            return False
        return not any(isinstance(part, cls) for part in self._parts)


def _class_of(function: types.FunctionType) -> type | None:
    """That it is a method of, as its name says."""
    *path, name = function.__qualname__.split(".")
    owner: Any = sys.modules.get(function.__module__)
    for part in path:
        owner = dict_of(owner).get(part)
        if not isinstance(owner, type):
            return None
    member = dict_of(owner).get(name)
    return owner if path and isinstance(member, types.FunctionType | property) else None


def _keeps_self(code: types.CodeType) -> bool:
    """Whether the first argument is the method's own object, all the time."""
    named = code.co_argcount > 0 and code.co_varnames[0] == "self"
    return named and not any(
        one.opname.startswith("STORE_FAST") and "self" in _names(one) for one in _instructions(code)
    )


def _only_of_self(code: types.CodeType, ways: frozenset[str]) -> bool:
    """Whether each use of one of the ways is setattr(self, ...), or self.__dict__ and the like."""
    instructions = [] if ways.isdisjoint(code.co_names) else _instructions(code)
    for i, one in enumerate(instructions):
        if one.argval not in ways or not isinstance(one.argval, str):
            continue
        if one.opname in _GLOBALS:
            beside = instructions[i + 1] if i + 1 < len(instructions) else None
            known = beside is not None and (_is_self(beside) or _names(beside)[:1] == ("self",))
        else:
            known = one.opname not in _STORES and i > 0 and _is_self(instructions[i - 1])
        if not known:
            return False
    return True


@functools.lru_cache(maxsize=32)  # of one function at a time
def _instructions(code: types.CodeType) -> list[dis.Instruction]:
    return [one for one in dis.get_instructions(code) if one.opname not in _NOTHING]


def _names(one: dis.Instruction) -> tuple[Any, ...]:
    return one.argval if isinstance(one.argval, tuple) else (one.argval,)


def _is_self(one: dis.Instruction) -> bool:
    """Whether `self` is what it leaves on top."""
    return (one.opname in _LOCALS or one.opname in _TWO_LOCALS) and _names(one)[-1] == "self"
