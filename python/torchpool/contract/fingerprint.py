"""Tells models apart: a contract that was saved for one says nothing of another, whatever its inputs are called."""

from __future__ import annotations

import dataclasses
import enum
import functools
import hashlib
import os
import platform
import sys
import types
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from typing import Any

import torch
from torch import nn

from torchpool.contract.held import dict_of, is_library, is_standard, kept_by, own_attributes, slots_of
from torchpool.contract.reach import Reach

_MAX_ITEMS_INSIDE = 256  # that are told one by one
_MAX_ITEMS = 64  # of a list or dict among the settings; a longer one is a table
_PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
_MAX_DEPTH = 4  # of objects in objects
# Where a model of a hub came from: not what it does.
_ORIGINS = frozenset({"name_or_path", "_name_or_path", "_commit_hash"})


@dataclass(frozen=True)
class Fingerprint:
    """What a model's calls depend on, its weights' values apart. Each entry is a digest, or text."""

    classes: str
    """Of all modules, with their paths."""
    weights: str
    """Names, shapes and dtypes of parameters and buffers."""
    code: str
    """Of the functions that a call may run."""
    settings: str
    """Plain attributes, those of classes, too, and plain globals that the code reads, unless the model writes them
    itself."""
    versions: str

    @staticmethod
    def of(module: nn.Module | None, reach: Reach) -> Fingerprint:
        """Of a callable whose calls run the functions of `reach`."""
        scripts = isinstance(module, torch.jit.ScriptModule)
        parts = [] if module is None else list(module.named_modules())
        weights = [] if module is None else [*module.named_parameters(), *module.named_buffers()]
        return Fingerprint(
            classes=_digest(f"{path}: {_class_of(part)}" for path, part in parts),
            weights=_digest(f"{name}: {_shape_of(tensor)} {tensor.dtype}" for name, tensor in weights),
            code=_digest(sorted(_scripts(parts) if scripts else _codes(reach))),
            settings=_digest([] if scripts else sorted(_settings(parts, reach))),
            versions=", ".join(
                [
                    f"Python {platform.python_version()}, torch {torch.__version__}",
                    f"torchpool {metadata.version('torchpool')}",
                    *_libraries(parts),
                ]
            ),
        )

    def difference(self, other: Fingerprint) -> str | None:
        """How the model of `other` differs from this one, in words; None where it does not."""
        if self.versions != other.versions:
            return f"it was saved under {self.versions}, and this is {other.versions}"
        texts = {
            "classes": "the classes of its modules differ",
            "weights": "names, shapes or dtypes of its parameters differ",
            "code": "the code that its calls run differs",
            "settings": "its attributes, or values that its code reads, differ",
        }
        for name, text in texts.items():
            if getattr(self, name) != getattr(other, name):
                return f"it was saved for another model: {text}"
        return None

    def to_dict(self) -> dict[str, str]:
        """Plain values."""
        return dataclasses.asdict(self)


def _shape_of(tensor: torch.Tensor) -> tuple[int, ...] | None:
    """None of a weight that no call has made yet."""
    return None if nn.parameter.is_lazy(tensor) else tuple(tensor.shape)


def _digest(texts: Any) -> str:
    found = hashlib.sha256()
    for text in texts:
        found.update(text.encode(errors="backslashreplace"))
        found.update(b"\0")
    return found.hexdigest()[:16]


def _libraries(parts: list[tuple[str, nn.Module]]) -> list[str]:
    """Those that the classes of modules are from, of which not all code that a call runs is looked through."""
    tops = {base.__module__.partition(".")[0] for _, part in parts for base in type(part).__mro__}
    found = [(top, getattr(sys.modules.get(top), "__version__", None)) for top in sorted(tops)]
    return [f"{top} {version}" for top, version in found if isinstance(version, str) and not is_library(top)]


def _class_of(part: nn.Module) -> str:
    name = getattr(part, "original_name", None) if isinstance(part, torch.jit.ScriptModule) else None
    cls = type(part)
    return str(name or f"{cls.__module__}.{cls.__qualname__}")


def _scripts(parts: list[tuple[str, nn.Module]]) -> Iterator[str]:
    for path, part in parts:
        try:
            yield f"{path}: {part.code}"
        except (RuntimeError, AttributeError):  # it has no forward
            continue


def _codes(reach: Reach) -> Iterator[str]:
    for reached in reach.further.functions:
        function = reached.function
        if not is_library(function.__module__):  # whose code its version stands for
            yield f"{function.__qualname__}: {_code_text(function.__code__)}"


def _code_text(code: types.CodeType) -> str:
    constants = [_code_text(one) if isinstance(one, types.CodeType) else _constant(one) for one in code.co_consts]
    return f"{code.co_name} {code.co_code.hex()} {code.co_names} {code.co_varnames} {code.co_freevars} {constants}"


def _constant(value: Any) -> str:
    if isinstance(value, frozenset):  # in another order in each process
        return f"frozenset({sorted(map(repr, value))})"
    return repr(value)


def _settings(parts: list[tuple[str, nn.Module]], reach: Reach) -> Iterator[str]:
    seen: dict[int, Any] = {}  # a configuration is kept by each submodule
    for path, part in parts:
        for name, value in own_attributes(part):
            if not _is_origin(name, value) and not reach.writes(name):
                yield from _told(f"{path}.{name}", value, reach, seen)
    for cls in {base for _, part in parts for base in type(part).__mro__ if not is_library(base.__module__)}:
        for name, value in list(vars(cls).items()):
            told_elsewhere = name.startswith("__") or hasattr(type(value), "__get__")  # methods, slots and properties
            if not told_elsewhere and not reach.writes(name):
                yield from _told(f"{cls.__module__}.{cls.__qualname__}.{name}", value, reach, seen)
    for reached in reach.further.functions:
        if not is_library(reached.function.__module__):
            for name, value in reached.outside():
                if not isinstance(value, types.FunctionType | type):  # which are told by their code
                    yield from _told(f"{reached.function.__qualname__}: {name}", value, reach, seen)


def _is_origin(name: str, value: Any) -> bool:
    """Whether it says where the model lies: a name for a path, and a path in it."""
    is_path = isinstance(value, os.PathLike) or (isinstance(value, str) and os.sep in value)
    return name in _ORIGINS or ("path" in name and is_path)


def _told(path: str, value: Any, reach: Reach, seen: dict[int, Any], depth: int = 0) -> Iterator[str]:
    """What a setting says, entry by entry where it is no plain value."""
    text = _plain(value)
    if text is not None:
        yield f"{path}={text}"
        return
    if id(value) in seen or depth >= _MAX_DEPTH or isinstance(value, nn.Module | torch.Tensor | types.ModuleType):
        return
    seen[id(value)] = value
    if isinstance(value, functools.partial):
        inner = [("()", value.func), *_numbered(value.args), *value.keywords.items()]
    elif isinstance(value, types.MethodType):
        inner = [("()", value.__func__)]
    elif isinstance(value, dict):
        inner = [(repr(key), item) for key, item in list(value.items()) if _plain(key) is not None]
    elif isinstance(value, list | tuple | deque):
        inner = _numbered(value)
    elif is_standard(type(value).__module__) and not dict_of(value):
        return
    else:
        inner = [(name, kept) for name, kept in (*kept_by(value), *slots_of(value)) if not reach.writes(name)]
    for name, kept in inner[:_MAX_ITEMS_INSIDE]:
        if not _is_origin(name, kept):
            yield from _told(f"{path}.{name}", kept, reach, seen, depth + 1)


def _numbered(items: Any) -> list[tuple[str, Any]]:
    return [(str(i), item) for i, item in enumerate(list(items))]


def _plain(value: Any, depth: int = 0) -> str | None:
    """A plain value as text; None for anything else."""
    if isinstance(value, enum.Enum):
        return f"{type(value).__qualname__}.{value.name}"
    if isinstance(value, _PLAIN):
        return repr(value)
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | type):
        code = f" {_digest([_code_text(value.__code__)])}" if isinstance(value, types.FunctionType) else ""
        return f"{value.__module__}.{value.__qualname__}{code}"
    if isinstance(value, set | frozenset):
        items = [_plain(item, depth + 1) for item in value] if depth <= 2 and len(value) <= _MAX_ITEMS else [None]
        return None if None in items else f"{type(value).__name__}{sorted(map(str, items))}"
    if depth > 2 or type(value) not in (list, tuple, dict) or len(value) > _MAX_ITEMS:
        return None
    entries = [*value.items()] if isinstance(value, dict) else list(value)
    texts = [_plain(entry, depth + 1) for entry in entries]
    return None if any(text is None for text in texts) else f"{type(value).__name__}{texts}"
