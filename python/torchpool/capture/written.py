"""Programs and structures as what json can write, with their tensors beside; and back, without running anybody's code.

A value that json has no word for becomes a dict with one entry: "$tuple", "$float", "$Instruction" and so on. Classes
are written by name, and found again only among the modules that are imported: reading a file imports nothing.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from torchpool.call import tree
from torchpool.capture.linear_choice import LinearChoice
from torchpool.capture.program import Instruction, Lowered, OutputRows, Programs, ProvenRows, Slot
from torchpool.contract import PaddingVerdict, RowsVerdict, ShapeCheck, ShapeEqual

_RECORDS: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        *(Instruction, LinearChoice, Lowered, OutputRows, Programs, ProvenRows, Slot),
        *(PaddingVerdict, RowsVerdict, ShapeCheck, ShapeEqual),
    )
}
_TORCH = {torch.dtype: "dtype", torch.layout: "layout", torch.memory_format: "memory_format"}


class NotWritten(Exception):
    """A value has no form in a file; says which."""


class Writer:
    """Writes values one after the other; `tensors` are those that they refer to, each once."""

    def __init__(self) -> None:
        self.tensors: list[torch.Tensor] = []
        self._numbers: dict[int, int] = {}

    def write(self, value: Any) -> Any:
        """What json can write. Raises NotWritten."""
        if value is None or (isinstance(value, bool | str) and type(value) in (bool, str)):
            return value
        if type(value) is int:
            return value
        if type(value) is float:
            return value if math.isfinite(value) else {"$float": str(value)}
        if type(value) is list:
            return [self.write(item) for item in value]
        found = self._marked(value)
        if found is None:
            kind = f"{type(value).__module__}.{type(value).__qualname__}"
            raise NotWritten(f"a value of type {kind} is no plain value")
        return {f"${found[0]}": found[1]}

    def _marked(self, value: Any) -> tuple[str, Any] | None:
        cls = type(value)
        if cls is tuple:
            return "tuple", [self.write(item) for item in value]
        if cls is dict:
            return "dict", [[self.write(key), self.write(item)] for key, item in value.items()]
        if cls in (frozenset, set):
            return cls.__name__, [self.write(item) for item in sorted(value, key=repr)]
        if isinstance(value, torch.Tensor):
            return "tensor", self._number(value)
        if cls.__name__ in _RECORDS and _RECORDS[cls.__name__] is cls:
            fields = dataclasses.fields(value)
            return cls.__name__, {field.name: self.write(getattr(value, field.name)) for field in fields}
        if isinstance(value, tree.TreeSpec):
            return "tree", self.write(value.skeleton())
        if cls in _TORCH:
            return _TORCH[cls], str(value).removeprefix("torch.")
        if isinstance(value, enum.Enum):
            return "enum", [self._class_name(cls), value.name]
        if isinstance(value, type):
            return "class", self._class_name(value)
        return _other(value)

    def _number(self, tensor: torch.Tensor) -> int:
        number = self._numbers.get(id(tensor))
        if number is None:
            if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type == "meta":
                raise NotWritten(f"a tensor of layout {tensor.layout} on {tensor.device} is no plain memory")
            number = self._numbers[id(tensor)] = len(self.tensors)
            self.tensors.append(tensor)
        return number

    @staticmethod
    def _class_name(cls: type) -> str:
        name = f"{cls.__module__}:{cls.__qualname__}"
        try:
            same = _class_of(name) is cls
        except ValueError:
            same = False
        if not same:
            raise NotWritten(f"{cls.__module__}.{cls.__qualname__} is not found again by its name")
        return name


def _other(value: Any) -> tuple[str, Any] | None:
    """Values without an inside."""
    cls = type(value)
    if cls is complex:
        return "complex", [value.real.hex(), value.imag.hex()]
    if cls is bytes:
        return "bytes", base64.b85encode(value).decode()
    if cls is range:
        return "range", [value.start, value.stop, value.step]
    if cls is torch.device:
        return "device", str(value)
    if cls is torch.Size:
        return "Size", list(value)
    if value is Ellipsis:
        return "Ellipsis", None
    return None


class Reader:
    """Reads what a Writer has written. Raises ValueError, which names the entry, on anything else."""

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self._tensors = tensors

    def read(self, data: Any) -> Any:
        """The value."""
        if data is None or isinstance(data, bool | int | float | str):
            return data
        if isinstance(data, list):
            return [self.read(item) for item in data]
        if not isinstance(data, dict) or len(data) != 1:
            raise ValueError(f"expected a value or a mapping of one entry, got {_short(data)}")
        ((mark, inner),) = data.items()
        name = str(mark).removeprefix("$")
        try:
            if name in _RECORDS:
                return self._record(_RECORDS[name], inner)
            read = _READ.get(name)
            if read is None:
                raise ValueError("no such entry is known")
            return read(self, inner)
        except (TypeError, KeyError, AttributeError, IndexError, OverflowError, RuntimeError) as error:
            raise ValueError(f"entry {mark!r} is malformed ({error}): {_short(inner)}") from error

    def as_a(self, cls: type, data: Any) -> Any:
        """The value, which must be of this class."""
        value = self.read(data)
        if not isinstance(value, cls):
            raise ValueError(f"expected a {cls.__name__}, got {_short(data)}")
        return value

    def _record(self, cls: type, data: Mapping[str, Any]) -> Any:
        known = {field.name for field in dataclasses.fields(cls)}
        if set(data) != known:
            raise ValueError(f"a {cls.__name__} must have the entries {sorted(known)}, got {sorted(data)}")
        return cls(**{name: self.read(value) for name, value in data.items()})

    def _tensor(self, number: int) -> torch.Tensor:
        if type(number) is not int or not 0 <= number < len(self._tensors):
            raise ValueError(f"there is no tensor {number!r}")
        return self._tensors[number]

    def _pairs(self, data: Any) -> dict[Any, Any]:
        return {self.read(key): self.read(value) for key, value in data}

    def _items(self, data: Any) -> list[Any]:
        return [self.read(item) for item in data]


def _class_of(name: str) -> type:
    """A class of a module that is imported."""
    module, _, path = name.partition(":")
    found: Any = sys.modules.get(module)
    if found is None:
        raise ValueError(f"module {module!r} is not imported here, and the model's results are of its {path}")
    for step in path.split("."):
        found = getattr(found, step, None)
    if not isinstance(found, type):
        raise ValueError(f"{module}.{path} is no class")
    return found


def _enum_of(data: Any) -> enum.Enum:
    cls = _class_of(data[0])
    if not issubclass(cls, enum.Enum):
        raise ValueError(f"{data[0]} is no enum")
    return cls[data[1]]


def _torch_of(kind: type) -> Callable[[Reader, Any], Any]:
    def read(_: Reader, name: Any) -> Any:
        value = getattr(torch, name)
        if not isinstance(value, kind):
            raise ValueError(f"torch.{name} is no {kind.__name__}")
        return value

    return read


_READ: dict[str, Callable[[Reader, Any], Any]] = {
    "float": lambda _, text: {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}[text],
    "tuple": lambda reader, data: tuple(reader._items(data)),
    "frozenset": lambda reader, data: frozenset(reader._items(data)),
    "set": lambda reader, data: set(reader._items(data)),
    "dict": lambda reader, data: reader._pairs(data),
    "tensor": lambda reader, number: reader._tensor(number),
    "tree": lambda reader, data: tree.TreeSpec.of_skeleton(reader.read(data)),
    "enum": lambda _, data: _enum_of(data),
    "class": lambda _, name: _class_of(name),
    "complex": lambda _, data: complex(float.fromhex(data[0]), float.fromhex(data[1])),
    "bytes": lambda _, text: base64.b85decode(text),
    "range": lambda _, data: range(*data),
    "device": lambda _, text: torch.device(text),
    "Size": lambda _, data: torch.Size(data),
    "Ellipsis": lambda _, __: ...,
    **{name: _torch_of(kind) for kind, name in _TORCH.items()},
}


def _short(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 80 else f"{text[:77]}..."


def refuse_malformed(programs: Programs) -> None:
    """Raises ValueError for programs that refer to what they do not have: the extension believes them."""
    for program in (programs.packed, programs.plain):
        if not all(isinstance(one, Instruction) for one in (*program.prologue, *program.body)):
            raise ValueError("a program must be of instructions")
        own = {*program.weight_slots, *program.input_slots, *program.output_slots}
        slots = {*own, *(i for one in (*program.prologue, *program.body) for i in (*one.outputs, *_slots(one)))}
        if any(type(slot) is not int or not -1 <= slot < program.num_slots for slot in slots) or -1 in own:
            raise ValueError(f"a program of {program.num_slots} slots names others")
        counts = len(program.weights), len(program.weight_names), len(program.weight_slots)
        if len(set(counts)) != 1 or len(program.input_slots) != len(program.input_names):
            raise ValueError("a program must have a slot for each weight and input")
        for check in program.checks:
            inputs = (check.input_a, check.input_b) if isinstance(check, ShapeEqual) else (check.input,)
            if any(type(i) is not int or not 0 <= i < len(program.input_slots) for i in inputs):
                raise ValueError("a program checks an input that it does not have")


def _slots(value: Any) -> Iterator[int]:
    """The slots that an instruction, or one of its arguments, reads."""
    if isinstance(value, Slot):
        yield value.index
    elif isinstance(value, Instruction):
        yield from _slots([*value.args, *value.kwargs.values()])
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _slots(item)
