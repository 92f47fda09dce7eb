"""A module's twin: an object of the module's class with the same attributes, kept in the same dict.

A predictor looks at its model for as long as it lives: at what its code may do, at what changes between calls. It must
not keep an accelerated module alive by that, for the module owns the predictor. So it looks at a twin, which has all
that the module has, except for being it. What runs for callers is the module itself.
"""

from __future__ import annotations

import weakref
from typing import Any

from torch import nn


def twin_of(module: nn.Module, cls: type[nn.Module]) -> nn.Module:
    """A twin of the class `cls`, which the module has or had."""
    twin = object.__new__(_class_of_twin(cls, weakref.ref(module)))
    object.__setattr__(twin, "__dict__", module.__dict__)
    return twin


def give_class(twin: nn.Module, cls: type[nn.Module], module: nn.Module) -> bool:
    """The module has this class now, and so has its twin; False where it cannot be."""
    try:
        object.__setattr__(twin, "__class__", _class_of_twin(cls, weakref.ref(module)))
    except TypeError:  # its objects are laid out otherwise
        return False
    return True


def _class_of_twin(cls: type[nn.Module], module: weakref.ref[nn.Module]) -> type[nn.Module]:
    """The class, or one like it whose objects end silently, since what its __del__ ends is the module's, and whose
    slots are the module's."""
    slots = _slots(cls)
    if not slots and not hasattr(cls, "__del__"):
        return cls
    namespace: dict[str, Any] = {"__del__": lambda self: None, "__slots__": (), "__module__": cls.__module__}
    namespace |= {name: _slot_of(module, name) for name in slots}
    metaclass: Any = type(cls)
    made: type[nn.Module] = metaclass(cls.__name__, (_Unheard, cls), namespace)
    made.__qualname__ = cls.__qualname__
    return made


class _Unheard:
    """Above a class of a twin: classes that hear of their subclasses do not hear of that."""

    __slots__ = ()

    def __init_subclass__(cls) -> None:
        pass


def _slot_of(module: weakref.ref[nn.Module], name: str) -> property:
    def get(self: nn.Module) -> Any:
        return getattr(module(), name)

    def put(self: nn.Module, value: Any) -> None:
        setattr(module(), name, value)

    return property(get, put)


def _slots(cls: type) -> list[str]:
    """Of the class and those above it, as the objects have them."""
    found: list[str] = []
    for base in cls.__mro__:
        names = vars(base).get("__slots__", ())
        for name in [names] if isinstance(names, str) else names:
            if name in ("__dict__", "__weakref__"):
                continue
            private = name.startswith("__") and not name.endswith("__")
            found.append(f"_{base.__name__.lstrip('_')}{name}" if private else name)
    return found
