"""Modules whose class stays their own: its methods come by the entrance of the object that they are called for, if it
has one. Other objects of the class pass at once."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchpool import _core
from torchpool.inplace.whole_class import IN_PLACE_OF, plain_method

_ENTERED = "_torchpool_entered_class"
_MISSING = object()
Plain = Callable[[str], Any]
"""Finds a method by its name."""
_compiling = torch.compiler.is_dynamo_compiling
_changing = threading.RLock()
"""Held while a class is changed."""


class EnteredClass:
    """What was changed in a class, and the entrances of its accelerated objects by their ids."""

    def __init__(self, cls: Any) -> None:
        self._cls = weakref.ref(cls)
        self.entrances: dict[int, _core.Entrance] = {}
        self._before: dict[str, Any] = {}
        self._own: dict[str, Any] = {}
        self._methods: dict[str, Any] = {_ENTERED: self}
        for name in ("__call__", "forward"):
            own = plain_method(cls, name) if name in vars(cls) else None
            self._own[name] = own
            self._methods[name] = _entering(cls, name, own, self.entrances)
        if not hasattr(cls, "__enter__"):
            self._methods["__enter__"] = lambda self: self
            self._methods["__exit__"] = functools.partialmethod(_restore, self.entrances)

    def entrance_of(self, module: object) -> _core.Entrance | None:
        """By which the object's calls come; None of what is not accelerated."""
        found = self.entrances.get(id(module))
        return found if found is not None and found.module is module else None

    def plain(self, name: str) -> Any:
        """A method as the class has it without this: one from above may be another one later."""
        own, cls = self._own[name], self._cls()
        return own if own is not None or cls is None else _plain_above(cls, name)

    def change(self) -> None:
        """Its methods come by the entrances."""
        cls = self._cls()
        for name, value in self._methods.items():
            self._before[name] = vars(cls).get(name, _MISSING)
            setattr(cls, name, value)

    def change_back(self) -> None:
        """As it was, apart from what somebody else has changed since."""
        cls = self._cls()
        for name, value in self._methods.items():
            if cls is None or vars(cls).get(name) is not value:
                continue
            if self._before[name] is _MISSING:
                delattr(cls, name)
            else:
                setattr(cls, name, self._before[name])


def is_entered(cls: type) -> bool:
    """Whether other objects of the class come by it."""
    return _ENTERED in vars(cls)


def enter_in_class(module: nn.Module, cls: Any, make: Callable[[Plain], _core.Entrance]) -> Callable[[], None]:
    """Has calls of the module come by the entrance that is made once the class was changed. Gives what undoes it."""
    key = id(module)
    with _changing:
        entered = vars(cls).get(_ENTERED)
        if entered is None:
            entered = EnteredClass(cls)
            entered.change()
        try:
            entered.entrances[key] = make(entered.plain)
        except BaseException:
            _leave(weakref.ref(cls), key)
            raise
    leave = functools.partial(_leave, weakref.ref(cls), key)
    gone = weakref.ref(module, lambda _: entered.entrances.pop(key, None))
    return lambda: leave() if gone() is not None else None


def _leave(ref: weakref.ref[type], key: int) -> None:
    cls = ref()
    with _changing:
        entered = None if cls is None else vars(cls).get(_ENTERED)
        if entered is None:
            return
        entered.entrances.pop(key, None)
        if not entered.entrances:
            entered.change_back()


def _plain_above(cls: Any, name: str) -> Any:
    """A method as the class has it from those above."""
    for base in cls.__mro__[1:]:
        if name in vars(base):
            return plain_method(base, name)
    raise AttributeError(f"class {cls.__qualname__} has no {name}")


def _entering(cls: Any, name: str, own: Any, entrances: dict[int, _core.Entrance]) -> Any:
    by = "call" if name == "__call__" else "forward"
    plain = getattr(cls, name)

    @functools.wraps(plain)
    def method(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        entrance = entrances.get(id(self))
        if entrance is not None and not _compiling():  # torch.compile follows Python only
            return getattr(entrance, by)(self, args, kwargs)
        if own is None:
            return getattr(super(cls, self), name)(*args, **kwargs)
        return plain(self, *args, **kwargs)

    setattr(method, IN_PLACE_OF, plain)
    return method


def _restore(self: nn.Module, entrances: dict[int, _core.Entrance], *exc_info: object) -> None:
    entrance = entrances.get(id(self))
    if entrance is not None and entrance.keeper is not None:
        entrance.keeper.restore()
