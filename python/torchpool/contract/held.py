"""What values hold: attributes, slots, items, what is bound to a function. And whose code is looked into."""

from __future__ import annotations

import functools
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import nn

# Whose own state is of no matter here: no code of theirs is looked at.
_NOT_ENTERED = ("torch", "numpy", "builtins", "torchpool")
# Of these and of Python's own library it is known what they read: what they call themselves is not followed.
_NOT_FOLLOWED = frozenset(
    {"transformers", "tokenizers", "safetensors", "accelerate", "torchvision", "torchaudio", "triton", "tqdm"}
    | {"pytorch_lightning", "lightning", "lightning_fabric", "lightning_utilities"}
)
_STANDARD_HOLDERS = frozenset({"types.SimpleNamespace", "argparse.Namespace"})
_BASE_ATTRIBUTES = frozenset(vars(nn.Module()))
_PLAIN = (str, bytes, int, float, complex, type(None), torch.Tensor, torch.dtype, torch.device)
_CONTAINERS = (list, tuple, set, frozenset, deque)
_MOST_ITEMS = 1000  # of one container: a longer one is a table


def is_library(module: str | None) -> bool:
    """Whether code of this module is not entered."""
    return (module or "").partition(".")[0] in _NOT_ENTERED


def is_followed(module: str | None) -> bool:
    """Whether code of this module is looked through with all that it calls: it is nobody's but the user's."""
    return not is_standard(module) and (module or "").partition(".")[0] not in _NOT_FOLLOWED


def is_standard(module: str | None) -> bool:
    """Whether it is Python's own, or a library whose code is not entered."""
    top = (module or "").partition(".")[0]
    return top in _NOT_ENTERED or top in sys.stdlib_module_names


def is_plain(value: Any) -> bool:
    """Whether it holds nothing."""
    return isinstance(value, _PLAIN)


def own_attributes(part: Any) -> list[tuple[str, Any]]:
    """The attributes of a module, or of another object, but for those that every module has."""
    return [(name, value) for name, value in list(dict_of(part).items()) if name not in _BASE_ATTRIBUTES]


def kept_by(value: Any) -> list[tuple[str, Any]]:
    """One level deep what a plain object, or a class, keeps by name."""
    cls = value if isinstance(value, type) else type(value)
    if isinstance(value, types.ModuleType | types.FunctionType | nn.Module) or is_library(cls.__module__):
        return []
    return [(name, inner) for name, inner in list(dict_of(value).items()) if isinstance(name, str)]


def held_by(value: Any) -> Iterator[tuple[str, Any]]:
    """One level deep what a value holds, with the name of the attribute, or "" for an item. Of classes and modules
    nothing: it is told by the names in code what is taken of those."""
    if isinstance(value, types.ModuleType | nn.Module | type) or is_plain(value):
        return
    if isinstance(value, functools.partial):
        yield from (("", one) for one in (value.func, *value.args, *value.keywords.values()))
    elif isinstance(value, types.MethodType):
        yield "", value.__self__
    elif isinstance(value, Mapping) and isinstance(value, dict | types.MappingProxyType):
        yield from (("", item) for item in _some(value.values()))
    elif isinstance(value, _CONTAINERS):
        yield from (("", item) for item in _some(value))
    elif isinstance(value, weakref.ref):
        yield "", value()
    cls = type(value)
    if is_followed(cls.__module__) or f"{cls.__module__}.{cls.__qualname__}" in _STANDARD_HOLDERS:
        yield from ((name, inner) for name, inner in list(dict_of(value).items()) if isinstance(name, str))
        yield from slots_of(value)
    elif not is_standard(cls.__module__):
        yield from ((name, inner) for name, inner in kept_by(value) if not is_plain(inner))


def slots_of(value: Any) -> Iterator[tuple[str, Any]]:
    """What an object keeps without a dict."""
    for cls in type(value).__mro__:
        if is_library(cls.__module__):
            continue
        for name, member in list(vars(cls).items()):
            if isinstance(member, types.MemberDescriptorType) and not name.startswith("__"):
                try:
                    yield name, member.__get__(value, cls)
                except AttributeError:  # not set
                    continue


def dict_of(value: Any) -> Mapping[str, Any]:
    """The attributes of an object itself, also of one that pretends to be another."""
    try:
        kept = object.__getattribute__(value, "__dict__")
    except AttributeError:
        return {}
    return kept if isinstance(kept, Mapping) else {}


def _some(items: Any) -> list[Any]:
    if len(items) > _MOST_ITEMS:
        return []
    try:
        return [item for item in list(items) if not is_plain(item)]
    except RuntimeError:  # another thread changes it right now
        return []
