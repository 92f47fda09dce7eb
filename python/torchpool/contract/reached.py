"""A function that a call may run, and what its code says: names, what they stand for outside, attributes it binds."""

from __future__ import annotations

import dis
import functools
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from torchpool.contract.held import dict_of, is_library

_STORES = frozenset(dis.opmap[name] for name in ("STORE_ATTR", "DELETE_ATTR"))
_IMPORTS = frozenset({dis.opmap["IMPORT_NAME"]})
_MAX_WRAPPERS = 10
BY_ANY_NAME = frozenset({"setattr", "delattr", "__setattr__", "__delattr__", "__dict__", "vars"})
"""Code that has one of these names may write attributes whose names stand in it as text, or of any name."""
_BY_TEXT = frozenset({"getattr", "attrgetter", "methodcaller", "hasattr"})


@dataclass(frozen=True)
class Reached:
    """A function that was reached."""

    function: types.FunctionType
    helper: bool
    """From outside the modules' own classes."""
    guessed: bool
    """By a name that most often stands for a method of a collection."""
    names: frozenset[str]
    """In its code."""

    @staticmethod
    def of(function: types.FunctionType, *, helper: bool, guessed: bool) -> Reached:
        """With the names in its code."""
        return Reached(function, helper, guessed, names_in(function.__code__))

    @property
    def home(self) -> str | None:
        """The module whose code it is: a wrapper may call itself after what it wraps."""
        name = self.function.__globals__.get("__name__")
        return name if isinstance(name, str) else None

    @property
    def where(self) -> str:
        """Its name as a user knows it."""
        return f"{self.function.__qualname__}()"

    @property
    def said(self) -> frozenset[str]:
        """The names in its code, and texts where it asks for attributes by text."""
        return self.names | self.texts if not self.names.isdisjoint(_BY_TEXT) else self.names

    @property
    def binds_by_any_name(self) -> bool:
        """Whether it may bind attributes by names that its code does not tell."""
        return not self.guessed and not self.names.isdisjoint(BY_ANY_NAME)

    @property
    def texts(self) -> frozenset[str]:
        """Text constants in its code."""
        found = (one for code in codes_in(self.function.__code__) for one in code.co_consts)
        return frozenset(one for one in found if isinstance(one, str))

    def outside(self, *, deep: bool = False) -> Iterator[tuple[str, Any]]:
        """What it reads from outside its arguments, by name: globals, and of modules among them the names that it has,
        what its closure holds, and defaults. `deep`: of modules in modules, too, and of those that it imports."""
        function = self.function
        for name in sorted(self.names):
            value = function.__globals__.get(name)
            if isinstance(value, types.ModuleType):
                yield from self._of_module(name, value, 3 if deep else 0)
            elif value is not None:
                yield name, value
        if deep:
            for name in sorted(imports_in(function.__code__)):
                if (module := _imported(name, function.__globals__)) is not None:
                    yield from self._of_module(name, module, 3)
        yield from self.enclosed()
        yield from ((f"default {i}", value) for i, value in enumerate(function.__defaults__ or ()))
        yield from (function.__kwdefaults__ or {}).items()

    def enclosed(self) -> Iterator[tuple[str, Any]]:
        """What its closure holds, by name."""
        function = self.function
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not bound yet
                continue

    def _of_module(self, path: str, module: types.ModuleType, depth: int) -> Iterator[tuple[str, Any]]:
        if is_library(module.__name__):
            return
        for name in sorted(self.names & vars(module).keys()):
            value = vars(module)[name]
            if depth and isinstance(value, types.ModuleType):
                yield from self._of_module(f"{path}.{name}", value, depth - 1)
            else:
                yield f"{path}.{name}", value


def _imported(name: str, scope: dict[str, Any]) -> types.ModuleType | None:
    """A module that code imports, as far as it is there; relative to the package of its globals, if need be."""
    package = str(scope.get("__package__") or "")
    for full in (name, f"{package}.{name}".rstrip(".")):
        if isinstance(module := sys.modules.get(full), types.ModuleType):
            return module
    return None


def functions_of(value: Any) -> list[types.FunctionType]:
    """The Python functions that calling a value, or reading it from a class, runs first."""
    if isinstance(value, functools.partial):
        return [function for part in (value.func, *value.args) for function in functions_of(part)]
    if isinstance(value, property):
        return [f for f in (value.fget, value.fset) if isinstance(f, types.FunctionType)]
    if isinstance(value, functools.cached_property):
        return functions_of(value.func)
    bound = isinstance(value, types.MethodType | staticmethod | classmethod)
    function: Any = value.__func__ if bound else value
    if isinstance(function, types.FunctionType):
        return [function, *_wrapped_by(function)]
    if callable(value) and not isinstance(value, type | nn.Module | types.BuiltinFunctionType):
        call = vars(type(value)).get("__call__")
        return [*([call] if isinstance(call, types.FunctionType) else []), *_wrapped_by(value)]
    return []


def _wrapped_by(value: Any) -> list[types.FunctionType]:
    """What decorators have put themselves around, as far as they say so."""
    found: list[types.FunctionType] = []
    for _ in range(_MAX_WRAPPERS):
        value = dict_of(value).get("__wrapped__")
        if value is None:
            break
        if isinstance(value, types.FunctionType):
            found.append(value)
    return found


def stored_in(code: types.CodeType) -> Iterator[str]:
    """Names of the attributes that code binds or deletes."""
    return _told(code, _STORES)


def _told(code: types.CodeType, wanted: frozenset[int]) -> Iterator[str]:
    """The names that operations of these kinds have in code."""
    ops, arguments = code.co_code[::2], code.co_code[1::2]
    if wanted.isdisjoint(ops):
        return
    extended = 0
    for op, argument in zip(ops, arguments, strict=True):
        number = extended | argument
        extended = number << 8 if op == dis.EXTENDED_ARG else 0
        if op in wanted:
            yield code.co_names[number]


def names_in(code: types.CodeType) -> frozenset[str]:
    """Those of globals, attributes and imports, also of functions inside."""
    return frozenset(name for inner in codes_in(code) for name in inner.co_names)


def imports_in(code: types.CodeType) -> frozenset[str]:
    """Modules that the code imports itself, also in functions inside."""
    return frozenset(name for inner in codes_in(code) for name in _told(inner, _IMPORTS))


def codes_in(code: types.CodeType) -> Iterator[types.CodeType]:
    """The code and that of functions inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes_in(constant)
