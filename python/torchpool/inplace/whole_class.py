"""accelerate() of a class: the class stays what it is, and each of its objects is accelerated when it is first called.

Neither a subclass nor another class under its name would do: `super(Model, self)` and pickling go by the name.
"""

from __future__ import annotations

import functools
import logging
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from torchpool import _core

log = logging.getLogger("torchpool")

_compiling = torch.compiler.is_dynamo_compiling
_MARK = "_torchpool_accelerated_class"
_PLAIN = "_torchpool_plain_method"
IN_PLACE_OF = "_torchpool_in_place_of"
"""Of a method that a class has for some of its objects to be served: which others have."""
_left_out: dict[int, weakref.ref[nn.Module]] = {}
"""By id: objects of accelerated classes that their user has restored."""

Accelerate = Callable[[nn.Module, dict[str, Any]], None]


class AcceleratedClass:
    """What was changed in a class."""

    def __init__(self, options: dict[str, Any], accelerate: Accelerate) -> None:
        self.options = options
        self.before: dict[str, Any] = {}
        self.objects: list[weakref.ref[nn.Module]] = []
        self._accelerate = accelerate
        self._refused = False

    def takes(self, module: nn.Module) -> bool:
        """Accelerates an object at its first call; False where that cannot be."""
        if self._refused or module.training or _core.is_inside() or is_left_out(module):
            return False
        try:
            self._accelerate(module, self.options)
        except Exception as error:  # which is no error of the call
            self._refused = True
            log.warning("objects of class %s are not accelerated: %s", type(module).__qualname__, error)
            return False
        self.objects = [ref for ref in self.objects if ref() is not None]
        self.objects.append(weakref.ref(module))
        return True


def accelerate_class(cls: Any, options: dict[str, Any], accelerate: Accelerate) -> None:
    """Has objects of the class accelerated from now on, those that there are as well."""
    if not issubclass(cls, nn.Module):
        raise TypeError(f"accelerate() takes a class of nn.Modules, got class {cls.__qualname__}")
    if _MARK in vars(cls):
        return
    changed = AcceleratedClass(options, accelerate)
    for name in ("__call__", "forward"):
        if name in vars(cls):
            changed.before[name] = vars(cls)[name]
        setattr(cls, name, _taking(getattr(cls, name), name, changed))
    setattr(cls, _MARK, changed)


def _taking(plain: Any, name: str, changed: AcceleratedClass) -> Any:
    @functools.wraps(plain)
    def method(self: nn.Module, /, *args: Any, **kwargs: Any) -> Any:
        # Of a subclass that has its own this is what it calls by super(), in a call that came by there.
        found = getattr(type(self), name)
        if _compiling() or method not in (found, getattr(found, IN_PLACE_OF, None)) or not changed.takes(self):
            return plain(self, *args, **kwargs)
        return getattr(self, name)(*args, **kwargs)

    setattr(method, _PLAIN, plain)
    return method


def plain_method(cls: Any, name: str) -> Any:
    """The method of a class as it is where the class is not accelerated."""
    method = getattr(cls, name)
    return getattr(method, _PLAIN, method)


def restore_class(cls: Any, restore: Callable[[nn.Module], None]) -> None:
    """The class as before, and its objects."""
    changed = vars(cls).get(_MARK)
    if changed is None:
        return
    delattr(cls, _MARK)
    for name in ("__call__", "forward"):
        if name in changed.before:
            setattr(cls, name, changed.before[name])
        else:
            delattr(cls, name)
    for module in [module for ref in changed.objects if (module := ref()) is not None]:
        restore(module)


def leave_out(module: nn.Module) -> None:
    """An object that its user has restored stays plain."""
    if any(_MARK in vars(base) for base in type(module).__mro__):
        key = id(module)
        _left_out[key] = weakref.ref(module, lambda ref: _left_out.pop(key, None))


def take_back(module: nn.Module) -> None:
    """Its user wants it accelerated again."""
    _left_out.pop(id(module), None)


def is_left_out(module: nn.Module) -> bool:
    """Whether its user has restored it."""
    ref = _left_out.get(id(module))
    return ref is not None and ref() is module
