"""Numbers, lists of numbers and arrays as the tensors that an example shows in their place."""

from __future__ import annotations

import itertools
import numbers
from collections.abc import Container, Iterable, Iterator
from typing import Any

import numpy as np
import torch

_KINDS_OF: dict[type, str] = {int: "iu", float: "f", bool: "b", complex: "c"}
_AT_A_TIME = 1024  # values
_KINDS = {"b": "bools", "i": "integers", "u": "integers", "f": "floats", "c": "complex numbers"}


def as_example(value: Any, like: Any, name: str) -> Any:
    """The value as a tensor of the example's dtype, on its device, where the example has a tensor and the value is a
    number, a list of numbers or an array; any other value, a tensor above all, as it is.

    Leading dims of one row that the example has and the value lacks are put before it. Raises TypeError where the
    numbers are of another kind (floats where the example has integers), ValueError where the dtype cannot hold them,
    where lists are ragged, and where the number of dims does not fit.
    """
    if type(like) is not torch.Tensor or isinstance(value, torch.Tensor) or not _is_numeric(value):
        return value
    return _shaped(_of_dtype(_array(value, name), like.dtype, name), like, name).to(like.device)


def in_bulk(values: Any, like: Any, name: str) -> Iterable[Any]:
    """The values, with those that `as_example` would convert converted many at a time, as far as their types allow:
    columns of numbers, and lists of numbers of one type or of lists of these. What it would refuse stays as it is."""
    if type(like) is not torch.Tensor or type(values) not in (list, tuple, range, np.ndarray):
        return values  # type: ignore[no-any-return]
    if isinstance(values, np.ndarray) and (values.ndim == 0 or values.dtype.kind not in _KINDS):
        return values
    return _in_parts(values, like, name)


def _in_parts(values: Any, like: torch.Tensor, name: str) -> Iterator[Any]:
    start = 0
    while start < len(values):  # a list may grow meanwhile
        part = values[start : start + _AT_A_TIME]
        start += len(part)
        yield from _converted(part, like, name)


def _converted(part: Any, like: torch.Tensor, name: str) -> Iterable[Any]:
    kinds = _KINDS if isinstance(part, np.ndarray) else _kinds_of(part)
    try:
        array = _array(part, name)
        if array.dtype.kind not in kinds:
            return part  # type: ignore[no-any-return]
        tensor = _of_dtype(array, like.dtype, name)
        return _shaped(tensor, like.unsqueeze(0), name, but_first=True).to(like.device).unbind(0)
    except (TypeError, ValueError, OverflowError):  # of some of them: each is told by itself
        return part  # type: ignore[no-any-return]


def _kinds_of(part: Any) -> Container[str]:
    """What numpy makes of each of these values, numbers or lists of numbers of one type; none where they are others: of
    ints among floats it would make floats."""
    types = set(map(type, part))
    if types <= {list, tuple}:
        types = set(map(type, itertools.chain.from_iterable(part)))
    return _KINDS_OF.get(types.pop(), "") if len(types) == 1 else ""


def _is_numeric(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return not any(
            isinstance(item, torch.Tensor) for item in value
        )  # a structure of tensors is the model's to take
    return isinstance(value, numbers.Number) or hasattr(value, "__array__")


def _array(value: Any, name: str) -> np.ndarray[Any, Any]:
    try:
        array = np.array(value, order="C")  # a copy: the caller's may change, or may not be written to
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"input {name!r}: {_brief(value)} makes no tensor, as the example has there: {error}"
        ) from error
    if array.dtype.kind not in _KINDS:
        raise TypeError(
            f"input {name!r}: {_brief(value)} holds values that are no numbers (numpy makes {array.dtype} of it), "
            "where the example has a tensor"
        )
    return array if array.dtype.isnative else array.astype(array.dtype.newbyteorder("="))


def _of_dtype(array: np.ndarray[Any, Any], dtype: torch.dtype, name: str) -> torch.Tensor:
    came = array.dtype.kind
    fits = {"c": dtype.is_complex, "f": dtype.is_floating_point or dtype.is_complex, "b": True}
    if array.size and not fits.get(came, dtype != torch.bool):
        raise TypeError(
            f"input {name!r} has {_KINDS[came]}, where the example has {_plain(dtype)}: round or convert them first, "
            "or give wrap() an example of their dtype"
        )
    if not _can_hold(dtype, array):
        raise ValueError(f"input {name!r} has values that {_plain(dtype)}, which the example has, cannot hold")
    return torch.from_numpy(array).to(dtype)


def _can_hold(dtype: torch.dtype, array: np.ndarray[Any, Any]) -> bool:
    if not array.size or array.dtype.kind == "b":
        return True
    if dtype.is_floating_point or dtype.is_complex:
        most = torch.finfo(dtype).max
        # NaN and the infinite are what they are in any dtype.
        return bool(np.abs(array).max() <= most or (np.abs(array[np.isfinite(array)]) <= most).all())
    bounds = torch.iinfo(dtype)
    return bounds.min <= int(array.min()) and int(array.max()) <= bounds.max


def _shaped(tensor: torch.Tensor, like: torch.Tensor, name: str, *, but_first: bool = False) -> torch.Tensor:
    """`but_first`: dim 0 of both is of many values, and stays."""
    missing, kept = like.dim() - tensor.dim(), int(but_first)
    if missing == 0:
        return tensor
    if missing < 0 or any(size != 1 for size in like.shape[kept : kept + missing]):
        raise ValueError(
            f"input {name!r} has shape {tuple(tensor.shape)}, where the example has {tuple(like.shape)}: dims are "
            "added only before it, and only where the example has size 1"
        )
    return tensor.reshape(tensor.shape[:kept] + (1,) * missing + tensor.shape[kept:])


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _plain(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
