"""A module's twin: an object of the module's class with the same attributes, kept in the same dict.

A predictor looks at its model for as long as it lives: at what its code may do, at what changes between calls. It must
not keep an accelerated module alive by that, for the module owns the predictor. So it looks at a twin, which has all
that the module has, except for being it. What runs for callers is the module itself.
"""

from __future__ import annotations

from typing import Any

from torch import nn


def twin_of(module: nn.Module, cls: type[nn.Module]) -> nn.Module:
    """A twin of the class `cls`, which the module has or had."""
    twin = object.__new__(_without_end(cls))
    object.__setattr__(twin, "__dict__", module.__dict__)
    for name in _slots(cls):
        if hasattr(module, name):
            object.__setattr__(twin, name, getattr(module, name))
    return twin


def _without_end(cls: type[nn.Module]) -> type[nn.Module]:
    """The class, or one like it whose objects end silently: what its __del__ ends is the module's."""
    if not hasattr(cls, "__del__"):
        return cls
    namespace = {"__del__": lambda self: None, "__slots__": (), "__module__": cls.__module__}
    metaclass: Any = type(cls)
    made: type[nn.Module] = metaclass(cls.__name__, (cls,), namespace)
    made.__qualname__ = cls.__qualname__
    return made


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
