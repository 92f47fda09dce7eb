"""All that the calls of a model may come to, helpers of helpers and what objects hold among it."""

from __future__ import annotations

import functools
import threading
import types
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from torchpool.contract.held import dict_of, held_by, is_followed, is_plain, is_standard, own_attributes
from torchpool.contract.reached import Reached, functions_of

_MAX_FUNCTIONS = 2000
_MAX_VALUES = 10_000
_MAX_DEPTH = 6  # of what objects hold
# Called by no name, or only where an object is made, copied or shown.
_NOT_IN_CALLS = frozenset(
    {"__init__", "__new__", "__init_subclass__", "__class_getitem__", "__del__", "__repr__", "__str__", "__format__"}
    | {"__reduce__", "__reduce_ex__", "__getstate__", "__setstate__", "__copy__", "__deepcopy__", "__dir__"}
    | {"__sizeof__", "__set_name__", "__subclasshook__", "__instancecheck__"}
)
_MADE_BY = ("__init__", "__new__", "__post_init__", "__call__")
# Whose result is another on each thread, or for each task.
_ASK_WHO = frozenset(
    {"get_ident", "get_native_id", "current_thread", "current_task", "get_running_loop", "get_event_loop"}
)
_PLAIN_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType)
_FUNCTIONS = (
    *(types.FunctionType, types.MethodType, functools.partial, functools.cached_property),
    *(staticmethod, classmethod, property),
)


@dataclass(frozen=True)
class _Value:
    """Something that was found."""

    value: Any
    where: str
    path: tuple[str, ...] = ()
    """Attributes that lead to it."""
    depth: int = 0

    @property
    def label(self) -> str:
        """Where it was found, in words."""
        return self.where.replace("*", "".join(f".{name}" for name in self.path))


class Further:
    """What the calls of modules and functions may come to."""

    def __init__(self, near: Sequence[Reached], parts: Sequence[Any]) -> None:
        """`near` is what one step leads to, `parts` the modules that run."""
        self.functions: list[Reached] = []
        """All: `near`, then what else was reached."""
        self._parts = {id(part) for part in parts}
        self._methods: dict[str, list[types.FunctionType]] = {}
        self._names: set[str] = set()
        self._taken: set[int] = set()
        self._classes: set[type] = set()
        self._known: dict[int, Any] = {}  # which keeps them, so that their addresses stay their own
        self._local: _Value | None = None
        self._asked: _Value | None = None
        self._values: deque[_Value] = deque()
        self._unnamed: dict[str, list[_Value]] = {}
        """Held by attributes that no code was seen to name."""
        self._next = 0
        for reached in near:
            self._taken.add(id(reached.function))
            self.functions.append(reached)
        for part in parts:
            self._add_part(part)
        self._follow()

    def thread_state(self) -> str | None:
        """What among it belongs to a thread, and where, in words."""
        if self._local is not None:
            return f"{self._local.label} is a threading.local"
        for reached in self.functions:
            if is_followed(reached.home) and (asked := sorted(reached.said & _ASK_WHO)):
                return f"{reached.where} asks for {asked[0]}()"
        if self._asked is not None:
            return f"{self._asked.label} is {self._asked.value.__name__}()"
        return None

    # Inside.

    def _follow(self) -> None:
        while self._next < len(self.functions) or self._values:
            if self._next < len(self.functions):
                self._next += 1
                self._look_at(self.functions[self._next - 1])
            else:
                self._see(self._values.popleft())

    def _look_at(self, reached: Reached) -> None:
        if is_standard(reached.home):
            self._look_at_closure(reached)
            return
        depth = 0 if is_followed(reached.home) else _MAX_DEPTH - 1
        for name in sorted(reached.said - self._names):
            self._names.add(name)
            self._values.extend(self._unnamed.pop(name, ()))
            for method in self._methods.get(name, ()):
                self._take(method)
        for name, value in reached.outside(deep=depth == 0):
            if not is_plain(value):
                self._values.append(_Value(value, f"'{name}*' in {reached.where}", (), depth))

    def _see(self, found: _Value) -> None:
        value = found.value
        if id(value) in self._known or len(self._known) >= _MAX_VALUES:
            return
        self._known[id(value)] = value
        if is_local(value):
            self._local = self._local or found
        elif type(value) in _PLAIN_FUNCTIONS and value.__name__ in _ASK_WHO and not is_followed(value.__module__):
            self._asked = self._asked or found  # under whatever name
        elif isinstance(value, nn.Module):
            for part in value.modules():
                self._add_part(part)
        elif isinstance(value, type):
            self._add_class(value, made=True)
        else:
            for function in functions_of(value):
                self._take(function)
            self._add_class(type(value), made=False)
        if found.depth < _MAX_DEPTH:
            for name, inner in held_by(value):
                if not is_plain(inner) and not (name and self._add_by_name(name, inner)):
                    path = (*found.path, name) if name else found.path
                    self._put(name, _Value(inner, found.where, path, found.depth + 1))

    def _put(self, name: str, found: _Value) -> None:
        """To be seen at once, or when code names the attribute."""
        waits = name and name not in self._names
        (self._unnamed.setdefault(name, []) if waits else self._values).append(found)

    def _add_part(self, part: Any) -> None:
        new = id(part) not in self._parts
        self._parts.add(id(part))
        self._add_class(type(part), made=False)
        for name, value in own_attributes(part):
            if not is_plain(value) and not isinstance(value, nn.Module) and not self._add_by_name(name, value):
                self._values.append(_Value(value, f"attribute '{name}*' of {type(part).__name__}"))
        if new:
            forward = getattr(type(part), "forward", None)
            for one in (forward, dict_of(part).get("forward"), *_hooks(part)):
                for function in functions_of(one):
                    self._take(function)

    def _add_class(self, cls: type, *, made: bool) -> None:
        """`made`: code that names it may make objects of it."""
        for base in cls.__mro__:
            if not is_followed(base.__module__):
                continue
            members = vars(base)
            if made:
                for name in _MADE_BY:
                    for function in functions_of(members.get(name)):
                        self._take(function)
            if base in self._classes:
                continue
            self._classes.add(base)
            for name, member in list(members.items()):
                if is_plain(member) or name in _NOT_IN_CALLS or name == "__dict__":
                    continue
                if not self._add_by_name(name, member):
                    self._put(name, _Value(member, f"'{base.__qualname__}*'", (name,)))
                elif name.startswith("__") and name.endswith("__"):
                    for function in functions_of(member):
                        self._take(function)

    def _add_by_name(self, name: str, value: Any) -> bool:
        """A function in an attribute or a class is called by its name; whether it is one."""
        if not isinstance(value, _FUNCTIONS):
            return False
        functions = functions_of(value)
        self._methods.setdefault(name, []).extend(functions)
        if name in self._names:
            for function in functions:
                self._take(function)
        if isinstance(value, functools.partial | types.MethodType):
            for _, one in held_by(value):
                self._put(name, _Value(one, f"'{name}*' of a call", (), 1))
        return True

    def _take(self, function: types.FunctionType) -> None:
        if id(function) in self._taken or len(self.functions) >= _MAX_FUNCTIONS:
            return
        self._taken.add(id(function))
        reached = Reached.of(function, helper=True, guessed=False)
        if is_followed(reached.home):
            self.functions.append(reached)
        else:
            self._look_at_closure(reached)

    def _look_at_closure(self, reached: Reached) -> None:
        """A wrapper that a library has put around a function of the user's holds it there."""
        for name, value in reached.enclosed():
            if not is_plain(value):
                self._values.append(_Value(value, f"'{name}*' in {reached.where}", (), _MAX_DEPTH - 1))


def is_local(value: Any) -> bool:
    """Whether it is another on each thread."""
    return issubclass(type(value), threading.local)  # of the type: a proxy may pretend to be of any class


def _hooks(part: Any) -> Iterator[Any]:
    for name in ("_forward_hooks", "_forward_pre_hooks"):
        kept = dict_of(part).get(name)
        yield from list(kept.values()) if isinstance(kept, dict) else ()
