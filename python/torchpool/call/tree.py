"""Takes nested arguments and results apart into tensor leaves, and puts them together again.

`flatten(obj)` gives the tensors of `obj` in a fixed order, and a `TreeSpec` that holds all the rest: container types,
keys and plain Python values. Specs compare by structure: two calls with equal specs differ only in their tensors.
Specs are interned: flattening an equal structure again gives the same compiled object.
"""

from __future__ import annotations

import dataclasses
import enum
import operator
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch

_Build = Callable[[Sequence[Any]], Any]
_LEAF = "leaf"
_PLAIN = (
    type(None), bool, int, float, complex, str, bytes, range, type, type(Ellipsis),
    enum.Enum, torch.dtype, torch.device, torch.layout, torch.memory_format, torch.Size,
)  # fmt: skip
_MAX_CACHED_SPECS = 256


class _Const:
    """A value, neither tensor nor container; equal when type and value are (NaN is NaN, 0.0 not -0.0)."""

    __slots__ = ("plain", "token", "value")

    def __init__(self, value: Any) -> None:
        self.value = value
        self.plain = isinstance(value, _PLAIN)
        if isinstance(value, float):
            self.token: Any = float.hex(value)
        elif isinstance(value, complex):
            self.token = (value.real.hex(), value.imag.hex())
        else:
            self.token = value

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Const) or type(self.value) is not type(other.value):
            return False
        if self.value is other.value:
            return True
        # Arbitrary objects may compare element-wise, or raise: they are the same only by identity.
        return self.plain and bool(self.token == other.token)

    def __hash__(self) -> int:
        return hash((type(self.value), self.token)) if self.plain else hash(type(self.value))


class _Node:
    """One container: how it is rebuilt (`kind`), its class, the labels of its children, and the children.

    `extra` counts the last children: attributes that live beside the items (of dict and list subclasses).
    """

    __slots__ = ("_hash", "children", "cls", "extra", "kind", "labels", "types")

    def __init__(self, kind: str, cls: type, labels: tuple[Any, ...], children: tuple[Any, ...], extra: int = 0):
        self.kind, self.cls, self.labels, self.children, self.extra = kind, cls, labels, children, extra
        self.types = tuple(map(type, labels))  # {1: x} and {True: x} are different structures
        self._hash = hash((kind, cls, labels, children, extra))

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, _Node)
            and self._hash == other._hash
            and self.kind == other.kind
            and self.cls is other.cls
            and self.extra == other.extra
            and self.labels == other.labels
            and self.types == other.types
            and self.children == other.children
        )

    def __hash__(self) -> int:
        return self._hash


class TreeSpec:
    """The structure of a value without its tensors. Compares, hashes and pickles by structure."""

    __slots__ = ("_build", "_names", "is_single_tensor", "num_leaves", "root")

    def __init__(self, root: Any) -> None:
        self.root = root
        self.is_single_tensor: bool = root is _LEAF
        self._build, self.num_leaves = _compile(root, 0)
        self._names: tuple[str, ...] | None = None

    def rebuild(self, leaves: Sequence[Any]) -> Any:
        """The value with `leaves` (as many as `num_leaves`, in the order of `flatten`) in their places.

        Constructors of dataclasses and named tuples are not called. Raises ValueError on a wrong
        number of leaves.
        """
        if len(leaves) != self.num_leaves:
            raise ValueError(f"expected {self.num_leaves} leaves, got {len(leaves)}")
        return self._build(leaves)

    @property
    def leaf_names(self) -> tuple[str, ...]:
        """A name per leaf: "logits", "0", "hidden_states[1]", "a.b"; "output" for a bare tensor."""
        if self._names is None:
            self._names = tuple(name or "output" for name, item in _walk(self.root, "") if item is _LEAF)
        return self._names

    def constants(self) -> list[tuple[str, Any]]:
        """Name and value of everything that is neither tensor nor container."""
        return [(name or "output", item.value) for name, item in _walk(self.root, "") if item is not _LEAF]

    def opaque(self) -> list[tuple[str, Any]]:
        """The constants that are no plain Python values: arrays, caches, any object (equal by identity)."""
        items = [(name or "output", item) for name, item in _walk(self.root, "") if item is not _LEAF]
        return [(name, item.value) for name, item in items if not item.plain]

    def __eq__(self, other: object) -> bool:
        return self is other or (isinstance(other, TreeSpec) and bool(self.root == other.root))

    def __hash__(self) -> int:
        return hash(self.root)

    def __reduce__(self) -> tuple[Any, ...]:
        return _restore, (self.skeleton(),)

    def skeleton(self) -> Any:
        """The structure as nested tuples of classes, labels and constants; `of_skeleton` takes it back."""
        return _skeleton(self.root)

    @staticmethod
    def of_skeleton(skeleton: Any) -> TreeSpec:
        """The structure that gave this skeleton. Raises ValueError for what none has given."""
        _check_skeleton(skeleton)
        return _restore(skeleton)

    def __repr__(self) -> str:
        return f"TreeSpec({self.rebuild([_Star()] * self.num_leaves)!r})"


class _Star:
    def __repr__(self) -> str:
        return "*"


_SINGLE = TreeSpec.__new__(TreeSpec)  # completed below, once the compiler of specs exists
_specs: dict[Any, TreeSpec] = {}
_kinds: WeakKeyDictionary[type, str] = WeakKeyDictionary()


def flatten(obj: Any) -> tuple[list[torch.Tensor], TreeSpec]:
    """The tensors in `obj`, in the order of its items, and the structure that holds them.

    Containers: tuple, list, dict, OrderedDict, named tuple, torch.return_types, dataclass, transformers'
    ModelOutput, other mappings, and subclasses of these. Anything else is a constant of the structure.
    """
    if isinstance(obj, torch.Tensor):
        return [obj], _SINGLE
    leaves: list[torch.Tensor] = []
    root = _take_apart(obj, leaves)
    spec = _specs.get(root)
    if spec is None:
        spec = TreeSpec(root)
        if not spec.opaque():  # a cached spec must not keep a caller's objects alive
            if len(_specs) >= _MAX_CACHED_SPECS:
                _specs.clear()
            _specs[root] = spec
    return leaves, spec


def _kind(cls: type) -> str:
    kind = _kinds.get(cls)
    if kind is None:
        if issubclass(cls, torch.Size):
            kind = "const"
        elif issubclass(cls, dict):
            kind = "odict" if issubclass(cls, OrderedDict) else "dict"
        elif issubclass(cls, tuple):
            kind = "structseq" if hasattr(cls, "n_sequence_fields") else "tuple"
        elif issubclass(cls, list):
            kind = "list"
        elif dataclasses.is_dataclass(cls):
            kind = "dataclass"
        else:
            kind = "mapping" if issubclass(cls, Mapping) else "const"
        _kinds[cls] = kind
    return kind


def _take_apart(obj: Any, leaves: list[torch.Tensor]) -> Any:
    if isinstance(obj, torch.Tensor):
        leaves.append(obj)
        return _LEAF
    cls = type(obj)
    kind = _kind(cls)
    if kind == "const":
        return _Const(obj)
    attributes: dict[str, Any] = getattr(obj, "__dict__", {})
    if kind == "dataclass":
        names = [f.name for f in dataclasses.fields(obj) if hasattr(obj, f.name)]
        names += [name for name in attributes if name not in names]
        return _Node(kind, cls, tuple(names), tuple(_take_apart(getattr(obj, n), leaves) for n in names))
    if kind == "mapping":
        return _Node(kind, cls, tuple(obj), tuple(_take_apart(obj[key], leaves) for key in obj))
    if kind in ("dict", "odict"):
        labels: tuple[Any, ...] = tuple(dict.keys(obj)) if kind == "dict" else tuple(obj)
        children = [_take_apart(dict.__getitem__(obj, label), leaves) for label in labels]
        beside = {name: value for name, value in attributes.items() if name not in labels}
        if kind == "dict" and isinstance(obj, defaultdict):
            beside = {"default_factory": _Const(obj.default_factory), **beside}
    else:
        fields: tuple[str, ...] = getattr(cls, "_fields", ()) or getattr(cls, "__match_args__", ())
        labels = tuple(fields)[: len(obj)]
        if len(labels) != len(obj):
            labels = tuple(range(len(obj)))
        children = [_take_apart(item, leaves) for item in obj]
        beside = attributes
    children += [value if isinstance(value, _Const) else _take_apart(value, leaves) for value in beside.values()]
    return _Node(kind, cls, labels + tuple(beside), tuple(children), len(beside))


def _compile(item: Any, start: int) -> tuple[_Build, int]:
    """A function that rebuilds `item` from all leaves, its own beginning at `start`; and where they end."""
    if item is _LEAF:
        return operator.itemgetter(start), start + 1
    if isinstance(item, _Const):
        value = item.value
        return lambda _: value, start
    end, builders = start, []
    for child in item.children:
        build, end = _compile(child, end)
        builders.append(build)
    return _assemble(item, builders, start, end), end


def _assemble(node: _Node, builders: list[_Build], start: int, end: int) -> _Build:
    cls: Any = node.cls
    count = len(node.children) - node.extra
    items, labels = builders[:count], node.labels[:count]
    beside = list(zip(node.labels[count:], builders[count:], strict=True))
    pairs = list(zip(labels, items, strict=True))
    if not beside and cls in (tuple, list):
        if all(child is _LEAF for child in node.children):
            return lambda leaves: cls(leaves[start:end])
        return lambda leaves: cls([build(leaves) for build in items])
    if cls is dict:
        return lambda leaves: {label: build(leaves) for label, build in pairs}
    if node.kind == "mapping":
        return lambda leaves: cls({label: build(leaves) for label, build in pairs})
    if node.kind == "structseq":
        return lambda leaves: cls([build(leaves) for build in items])

    def attach(obj: Any, leaves: Sequence[Any]) -> Any:
        for label, build in beside:
            # Frozen dataclasses and classes with an own __setattr__ are set from outside.
            object.__setattr__(obj, label, build(leaves))
        return obj

    def build_dataclass(leaves: Sequence[Any]) -> Any:
        obj = cls.__new__(cls)
        for label, build in pairs:
            object.__setattr__(obj, label, build(leaves))
        return obj

    set_item = OrderedDict.__setitem__ if node.kind == "odict" else dict.__setitem__
    # A ModelOutput's keys are attributes too; its own __setitem__ and __init__ would set them, slowly.
    mirrored = dataclasses.is_dataclass(cls)

    def build_dict(leaves: Sequence[Any]) -> Any:
        obj = cls.__new__(cls)
        if mirrored:
            attributes = obj.__dict__
            for label, build in pairs:
                value = build(leaves)
                set_item(obj, label, value)
                attributes[label] = value
        else:
            for label, build in pairs:
                set_item(obj, label, build(leaves))
        return attach(obj, leaves) if beside else obj

    def build_tuple(leaves: Sequence[Any]) -> Any:
        return attach(tuple.__new__(cls, [build(leaves) for build in items]), leaves)

    def build_list(leaves: Sequence[Any]) -> Any:
        obj = cls.__new__(cls)
        list.extend(obj, [build(leaves) for build in items])
        return attach(obj, leaves)

    return {
        "dataclass": build_dataclass,
        "dict": build_dict,
        "odict": build_dict,
        "tuple": build_tuple,
        "list": build_list,
    }[node.kind]


def _walk(item: Any, name: str) -> list[tuple[str, Any]]:
    """Name and leaf or constant, in order."""
    if not isinstance(item, _Node):
        return [(name, item)]
    found: list[tuple[str, Any]] = []
    for label, child in zip(item.labels, item.children, strict=True):
        below = str(label) if not name else f"{name}.{label}" if isinstance(label, str) else f"{name}[{label}]"
        found += _walk(child, below)
    return found


def _skeleton(item: Any) -> Any:
    if not isinstance(item, _Node):
        return (item.value,) if isinstance(item, _Const) else None
    return item.kind, item.cls, item.labels, tuple(map(_skeleton, item.children)), item.extra


def _check_skeleton(part: Any) -> None:
    if part is None or (isinstance(part, tuple) and len(part) == 1):
        return
    if not isinstance(part, tuple) or len(part) != 5:
        raise ValueError(f"a part of a structure has five entries, got {part!r}")
    kind, cls, labels, children, extra = part
    if not isinstance(cls, type) or kind == "const" or _kind(cls) != kind:
        raise ValueError(f"a container of kind {kind!r} cannot be of class {cls!r}")
    counted = isinstance(labels, tuple) and isinstance(children, tuple) and type(extra) is int
    if not counted or len(labels) != len(children) or not 0 <= extra <= len(children):
        raise ValueError(f"{cls.__qualname__} must have as many labels as children, got {labels!r}")
    for child in children:
        _check_skeleton(child)


def _restore(skeleton: Any) -> TreeSpec:
    def node(part: Any) -> Any:
        if part is None:
            return _LEAF
        if len(part) == 1:
            return _Const(part[0])
        kind, cls, labels, children, extra = part
        return _Node(kind, cls, labels, tuple(map(node, children)), extra)

    root = node(skeleton)
    return _SINGLE if root is _LEAF else TreeSpec(root)


_SINGLE.__init__(_LEAF)  # type: ignore[misc]
