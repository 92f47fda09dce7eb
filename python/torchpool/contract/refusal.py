"""The error for a call that the model refuses: it names the input that differs from earlier calls' inputs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol

import torch

_ONE_BY_ONE = "pass what one call takes, or have map go over all of it, as in predict.map(loader)"
_AS_KEYWORDS = "pass its entries as keywords, as in predict(**inputs)"
# What to do with an argument that cannot be taken apart, by the name of its type, where that is not to make it one
# tensor.
_ADVICE = {
    "Tensor": "convert it with to_dense() first",
    "Parameter": "convert it with to_dense() first",
    "DataLoader": _ONE_BY_ONE,
    "Dataset": _ONE_BY_ONE,
    "generator": _ONE_BY_ONE,
    "map": _ONE_BY_ONE,
    "zip": _ONE_BY_ONE,
    "BatchEncoding": _AS_KEYWORDS,
    "BatchFeature": _AS_KEYWORDS,
    "OrderedDict": _AS_KEYWORDS,
    "UserDict": _AS_KEYWORDS,
    "Image": "convert it to a tensor first, as torchvision.transforms.functional.to_tensor() does",
}
_TO_TAKE_APART = (_ONE_BY_ONE, _AS_KEYWORDS)
_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep  # of the whole package


class Seen(Protocol):
    """What is remembered of a kind of call: its tensors, and the rest of its arguments as text, by name."""

    names: list[str]
    dtypes: list[torch.dtype]
    ranks: list[int]
    devices: list[torch.device]
    values: tuple[tuple[str, str], ...]


def brief(error: BaseException, most_lines: int = 1) -> str:
    """An exception's type and first lines, of at most 300 characters."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:most_lines])
    return f"{type(error).__name__}: {text[:300]}{'...' if len(text) > 300 else ''}" if text else type(error).__name__


def difference(call: Seen, known: Seen) -> tuple[type[Exception], str] | None:
    """Error type and text for the first input in which a call differs from a kind of calls; None where none does."""
    expected = {name: i for i, name in enumerate(known.names)}
    for i, name in enumerate(call.names):
        if name not in expected:
            continue
        k = expected[name]
        if call.dtypes[i] != known.dtypes[k]:
            came, wanted = _plain(call.dtypes[i]), _plain(known.dtypes[k])
            return TypeError, f"input {name!r} has dtype {came}, expected {wanted}"
        if call.devices[i] != known.devices[k]:
            return ValueError, f"input {name!r} is on device {call.devices[i]}, expected {known.devices[k]}"
        if call.ranks[i] != known.ranks[k]:
            return ValueError, f"input {name!r} has {call.ranks[i]} dims, expected {known.ranks[k]}"
    for name, dtype in zip(known.names, known.dtypes, strict=True):
        if name not in call.names and (inside := tensors_inside(call, name)):
            return TypeError, f"input {name!r} is {inside}, expected a tensor ({_plain(dtype)})"
    given = dict(call.values)
    for name, dtype in zip(known.names, known.dtypes, strict=True):
        value = given.get(name) or _inside(call, name)
        if name not in call.names and value:
            return TypeError, f"input {name!r} is {value}, expected a tensor ({_plain(dtype)})"
    return None


@dataclass(frozen=True, order=True)
class Argument:
    """An argument that cannot be taken apart, and the name of its type."""

    name: str
    type: str

    def __str__(self) -> str:
        if self.type in ("Tensor", "Parameter"):
            return f"argument {self.name!r} is a tensor that is not dense (sparse, quantized, ...)"
        return f"argument {self.name!r} is of type {self.type}"


def not_a_tensor(argument: Argument, known: Seen | None) -> TypeError | None:
    """For an argument that the model refused, where calls of the known kind pass a tensor. Where none is known: None,
    unless the argument is something that is to be taken apart first."""
    advice = _advice(argument.type)
    if known is None:
        return TypeError(f"{argument}, and the model refuses it: {advice}") if advice in _TO_TAKE_APART else None
    expected = ", ".join(f"{n}: {_plain(d)}" for n, d in zip(known.names, known.dtypes, strict=True))
    text = f"{argument}, and the model refuses it; calls so far passed tensors ({expected})"
    return TypeError(f"{text}: {advice or 'convert it with torch.as_tensor() first'}")


def _advice(type_name: str) -> str | None:
    name = type_name.rpartition(".")[2]
    return _ADVICE.get(name) or (_ONE_BY_ONE if name.endswith("Dataset") else None)


def advice_for_values(difference: str) -> str:
    """What to do with values that came where a tensor was expected, which `difference` has said."""
    if " is a list" in difference or " is a dict" in difference:
        return "convert it with torch.tensor() first"
    return "convert it to a tensor first; texts go through a tokenizer"


def tensors_inside(call: Seen, name: str) -> str | None:
    """What came where a tensor was expected and a container of tensors was given, and how to pass these."""
    keys = [other[len(name) + 1 :].partition("]")[0] for other in call.names if other.startswith(f"{name}[")]
    if not keys:
        return None
    if all(key.isdecimal() for key in keys):
        return f"a list of tensors ({len(keys)}: pass them by themselves, as in predict(*inputs), or torch.stack them)"
    return f"a dict of tensors ({', '.join(keys)}: pass them as keywords, as in predict(**inputs))"


class Refused(Exception):
    """The model refused a call. Caught where the call came from: its caller gets `error`, the model's or one that says
    what is wrong with the call. What goes wrong in our own hands is raised as it is."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


def without_our_frames(entry: TracebackType | None) -> TracebackType | None:
    """The traceback without this package's frames: they hold samples, which are other callers' inputs."""
    if entry is None:
        return None
    rest = without_our_frames(entry.tb_next)
    if entry.tb_frame.f_code.co_filename.startswith(_OURS):
        return rest
    return TracebackType(rest, entry.tb_frame, entry.tb_lasti, entry.tb_lineno)


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _inside(call: Seen, name: str) -> str | None:
    """What came where a tensor was expected and a list or tuple of values was given: the first of them."""
    return next((f"a list of values ({text}, ...)" for path, text in call.values if path.startswith(f"{name}[")), None)
