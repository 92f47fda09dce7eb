"""The functions that a call of a model runs, as far as names lead: what they read from outside, and what they write.

Python can hook neither the reads of a `threading.local` nor the writes of one thread into an attribute. The code tells
which of them a call can make at all. Names are followed from the forward of each submodule through the methods and
globals that it names; libraries whose own state is of no matter here are not entered.
"""

from __future__ import annotations

import dis
import functools
import inspect
import threading
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

THREAD_STATE = (
    "the model reads the state of the thread that calls it, so that each call runs on the thread that makes it"
)
_NOT_ENTERED = ("torch", "numpy", "builtins", "torchpool")
# A container is changed in place by these, or by an item that is set or deleted.
_MUTATORS = frozenset(
    {"append", "appendleft", "extend", "extendleft", "insert", "add", "update", "setdefault", "remove", "discard"}
    | {"pop", "popleft", "popitem", "clear", "sort", "reverse", "rotate"}
)
# Code that has one of these names may write attributes whose names stand in it as text, or of any name.
_BY_TEXT = frozenset({"register_buffer", "register_parameter", "add_module", "register_module"})
_BY_ANY_NAME = frozenset({"setattr", "delattr", "__setattr__", "__delattr__", "__dict__", "vars"})
_STORES = frozenset(dis.opmap[name] for name in ("STORE_ATTR", "DELETE_ATTR"))
_ITEM_STORES = frozenset(dis.opmap[name] for name in ("STORE_SUBSCR", "DELETE_SUBSCR"))
_BASE_ATTRIBUTES = frozenset(vars(nn.Module()))
_MAX_FUNCTIONS = 2000


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

    @property
    def where(self) -> str:
        """Its name as a user knows it."""
        return f"{self.function.__qualname__}()"

    def outside(self) -> Iterator[tuple[str, Any]]:
        """What it reads from outside its arguments, by name: globals, and of modules among them the names that it has,
        what its closure holds, and defaults."""
        function = self.function
        for name in self.names:
            value = function.__globals__.get(name)
            if isinstance(value, types.ModuleType):
                if not is_library(value.__name__):
                    yield from ((f"{name}.{inner}", vars(value)[inner]) for inner in self.names if inner in vars(value))
            elif value is not None:
                yield name, value
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=False):
            try:
                yield name, cell.cell_contents
            except ValueError:  # not bound yet
                continue
        yield from ((f"default {i}", value) for i, value in enumerate(function.__defaults__ or ()))
        yield from (function.__kwdefaults__ or {}).items()


class Reach:
    """What a call of `target` may run, which is `module`, a method of it, or any callable."""

    def __init__(self, target: Callable[..., Any] | None, module: nn.Module | None) -> None:
        self._parts: list[Any] = []
        self._classes: set[type] = set()
        self._methods: dict[str, list[types.FunctionType]] = {}
        self._taken: set[int] = set()
        self.functions: list[Reached] = []
        owner = getattr(target, "__self__", target)
        roots = [] if module is None else [module]
        if module is None and not isinstance(owner, types.FunctionType | types.ModuleType | type | None):
            roots += [value for value in _dict_of(owner).values() if isinstance(value, nn.Module)]
            self._add_part(owner)
        for root in roots:
            self._add_parts(root)
        if target is not None and target is not module:
            self._take(target, helper=False)

    def thread_locals(self) -> Iterator[tuple[str, threading.local]]:
        """Thread-local objects among attributes, closures, defaults and globals, each with where it was found."""
        seen: set[int] = set()  # a configuration is kept by each submodule
        for part in self._parts:
            for name, value in own_attributes(part):
                if id(value) in seen:
                    continue
                seen.add(id(value))
                for path, inner in ((name, value), *((f"{name}.{k}", v) for k, v in kept_by(value))):
                    if _is_local(inner):
                        yield f"attribute {path!r} of {type(part).__name__}", inner
        for reached in self.functions:
            if is_library(reached.function.__module__):
                continue
            for name, value in reached.outside():
                if _is_local(value):
                    yield f"{name!r} in {reached.where}", value
                else:
                    for path, inner in kept_by(value):
                        if _is_local(inner) and path in reached.names:
                            yield f"'{name}.{path}' in {reached.where}", inner

    def writes(self, name: str) -> bool:
        """Whether some of the functions may bind or delete an attribute of this name."""
        return self._by_any_name or name in self._written

    def changes_items(self, name: str) -> bool:
        """Whether some of the functions may change the collection in an attribute of this name in place."""
        return self._by_any_name or name in self._mutated or name in self._written

    def names(self, *names: str) -> bool:
        """Whether some of the functions have one of these names in their code."""
        return any(not reached.names.isdisjoint(names) for reached in self.functions)

    @functools.cached_property
    def _by_any_name(self) -> bool:
        return any(not reached.guessed and not reached.names.isdisjoint(_BY_ANY_NAME) for reached in self.functions)

    @functools.cached_property
    def _written(self) -> frozenset[str]:
        found: set[str] = set()
        for code in self._all_codes():
            found.update(_stored(code))
            if not _BY_TEXT.isdisjoint(code.co_names):
                found.update(text for text in code.co_consts if isinstance(text, str))
        return frozenset(found)

    @functools.cached_property
    def _mutated(self) -> frozenset[str]:
        found: set[str] = set()
        for code in self._all_codes():
            if not _ITEM_STORES.isdisjoint(code.co_code[::2]) or not _MUTATORS.isdisjoint(code.co_names):
                found.update(code.co_names)
        return frozenset(found)

    def _all_codes(self) -> Iterator[types.CodeType]:
        for reached in self.functions:
            yield from _codes(reached.function.__code__)

    # Inside.

    def _add_parts(self, module: nn.Module) -> None:
        known = {id(part) for part in self._parts}
        parts = [part for part in module.modules() if id(part) not in known]
        for part in parts:
            self._add_part(part)
        for part in parts:
            for hook in [*_values(part, "_forward_hooks"), *_values(part, "_forward_pre_hooks")]:
                self._take(hook, helper=False)
            self._take(_dict_of(part).get("forward"), helper=False)
        for name in ("forward", "__call__", "__getattr__"):
            for function in self._methods.get(name, ()):
                self._take(function, helper=False)

    def _add_part(self, part: Any) -> None:
        self._parts.append(part)
        self._add_class(type(part))
        for name, value in own_attributes(part):
            if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
                self._methods.setdefault(name, []).extend(_functions_of(value))
            elif not isinstance(value, nn.Module | type) and not is_library(type(value).__module__):
                self._add_class(type(value))

    def _add_class(self, cls: type) -> None:
        if cls in self._classes:
            return
        self._classes.add(cls)
        for base in cls.__mro__:
            if base is nn.Module or base is object:
                continue
            for name, member in list(vars(base).items()):
                if name != "__init__":
                    self._methods.setdefault(name, []).extend(_functions_of(member))

    def _take(self, value: Any, *, helper: bool, guessed: bool = False) -> None:
        """Adds the functions behind a value; those of the modules' classes lead further, others one step."""
        for function in _functions_of(value):
            if id(function) in self._taken or len(self.functions) >= _MAX_FUNCTIONS:
                continue
            if helper and is_library(function.__module__):
                continue
            self._taken.add(id(function))
            names = _names(function.__code__)
            reached = Reached(function, helper, guessed, names)
            self.functions.append(reached)
            for name in names:
                for method in self._methods.get(name, ()):
                    self._take(method, helper=False, guessed=name in _MUTATORS)
            if helper:
                continue
            for _, outside in reached.outside():
                if isinstance(outside, nn.Module):
                    self._add_parts(outside)
                    continue
                self._take(outside, helper=True)
                if isinstance(outside, type) and not issubclass(outside, nn.Module):
                    for name in ("__init__", "__new__", "__call__", *names):
                        self._take(vars(outside).get(name), helper=True)


def _functions_of(value: Any) -> list[types.FunctionType]:
    """The Python functions that calling a value, or reading it from a class, runs first."""
    if isinstance(value, functools.partial):
        return [function for part in (value.func, *value.args) for function in _functions_of(part)]
    if isinstance(value, property):
        return [f for f in (value.fget, value.fset) if isinstance(f, types.FunctionType)]
    if isinstance(value, functools.cached_property):
        return _functions_of(value.func)
    bound = isinstance(value, types.MethodType | staticmethod | classmethod)
    function: Any = value.__func__ if bound else value
    if isinstance(function, types.FunctionType):
        wrapped = inspect.getattr_static(function, "__wrapped__", None)
        return [function, *([wrapped] if isinstance(wrapped, types.FunctionType) else [])]
    if callable(value) and not isinstance(value, type | nn.Module | types.BuiltinFunctionType):
        call = vars(type(value)).get("__call__")
        return [call] if isinstance(call, types.FunctionType) else []
    return []


def _stored(code: types.CodeType) -> Iterator[str]:
    """Names of the attributes that code binds or deletes."""
    ops, arguments = code.co_code[::2], code.co_code[1::2]
    if _STORES.isdisjoint(ops):
        return
    extended = 0
    for op, argument in zip(ops, arguments, strict=True):
        number = extended | argument
        extended = number << 8 if op == dis.EXTENDED_ARG else 0
        if op in _STORES:
            yield code.co_names[number]


def _names(code: types.CodeType) -> frozenset[str]:
    return frozenset(name for inner in _codes(code) for name in inner.co_names)


def _codes(code: types.CodeType) -> Iterator[types.CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _codes(constant)


def _values(part: nn.Module, name: str) -> list[Any]:
    found = vars(part).get(name)
    return list(found.values()) if isinstance(found, dict) else []


def kept_by(value: Any) -> list[tuple[str, Any]]:
    """One level deep what a plain object, or a class, keeps by name."""
    cls = value if isinstance(value, type) else type(value)
    if isinstance(value, types.ModuleType | types.FunctionType | nn.Module) or is_library(cls.__module__):
        return []
    return [(name, inner) for name, inner in list(_dict_of(value).items()) if isinstance(name, str)]


def own_attributes(part: Any) -> list[tuple[str, Any]]:
    """The attributes of a module, or of another object, but for those that every module has."""
    return [(name, value) for name, value in list(_dict_of(part).items()) if name not in _BASE_ATTRIBUTES]


def _dict_of(value: Any) -> Mapping[str, Any]:
    try:
        kept = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return kept if isinstance(kept, Mapping) else {}


def _is_local(value: Any) -> bool:
    return issubclass(type(value), threading.local)  # of the type: a proxy may pretend to be of any class


def is_library(module: str | None) -> bool:
    """Whether code of this module is not entered."""
    return (module or "").partition(".")[0] in _NOT_ENTERED
