"""What a map iterates over: the rows of a tensor, the batches of a loader, the samples of a dataset."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils import data

_ROWS_AT_A_TIME = 1024  # of a tensor: as many row objects are made at once
_SHUFFLED = (data.RandomSampler, data.SubsetRandomSampler, data.WeightedRandomSampler)


def items_of(source: Iterable[Any], *, as_rows: bool = True) -> Iterable[Any]:
    """What the source gives, one for each call, taken lazily: of a tensor, an array or a column of numbers the rows, of
    a mapping of tensors with rows (a tokenizer's output) a mapping for each row with a batch dim of one, of a dataset
    with a length the samples.

    `as_rows`: the numbers of a column are tensors; else numbers, which an example says how to convert.

    Raises TypeError for what would be taken for something else: a table, which iterates over the names of its columns,
    and a mapping of other things, which iterates over its keys.
    """
    if type(source) is torch.Tensor and source.dim() > 0:
        return _rows_of_tensor(source)
    if isinstance(source, np.ndarray):
        return _rows_of_array(source) if source.dtype.kind in "biufc" else source
    if isinstance(source, Mapping):
        return _rows_of_mapping(source)
    if hasattr(source, "to_numpy"):
        if hasattr(source, "columns"):
            raise TypeError(
                f"map() over a {type(source).__name__} would go over the names of its columns: pass one column, "
                "table['name'], or rows of numbers, table[[...]].to_numpy(dtype='float32')"
            )
        column = source.to_numpy()
        return _rows_of_array(column) if as_rows and column.dtype.kind in "biufc" else column
    if is_dataset(source) and not hasattr(type(source), "__iter__") and hasattr(source, "__len__"):
        return _samples_of(source)
    return source


def is_rows(source: Any) -> bool:
    """Whether items_of() gives tensors, which need no further look."""
    if isinstance(source, np.ndarray):
        return source.dtype.kind in "biufc"
    return type(source) is torch.Tensor


def is_dataset(source: Any) -> bool:
    """Whether what it gives are samples: fields, of which the model may be to have some."""
    if isinstance(source, data.Dataset):
        return True
    indexed = hasattr(type(source), "__getitem__") and hasattr(type(source), "__len__")
    return indexed and not hasattr(type(source), "__iter__")


def gives_fields(source: Any) -> bool:
    """Whether a list or tuple of it is the fields of samples. Of a loader with a function of its own that puts samples
    together, only that function knows."""
    if isinstance(source, data.DataLoader):
        return source.collate_fn in (data.default_collate, data.default_convert)
    return is_dataset(source)


def is_shuffled(source: Any) -> bool:
    """Whether a loader's next pass gives another order."""
    return isinstance(source, data.DataLoader) and isinstance(source.sampler, _SHUFFLED)


def length_of(source: Any) -> int | None:
    """How many items it gives; None where it does not say."""
    if isinstance(source, Mapping):
        return rows_in_mapping(source)
    try:
        return len(source)
    except (TypeError, NotImplementedError):  # a loader has a length only if its dataset has
        return None


def length_hint(source: Any) -> int | None:
    """An estimate of it; None where there is none."""
    hint = operator.length_hint(source, -1)
    return None if hint < 0 else hint


def rows_in_mapping(source: Mapping[Any, Any]) -> int | None:
    """How many rows all of its tensors have; None where it holds something else."""
    values = list(source.values())
    if not values or not all(type(value) is torch.Tensor and value.dim() > 0 for value in values):
        return None
    counts = {len(value) for value in values}
    return counts.pop() if len(counts) == 1 else None


def _rows_of_tensor(tensor: torch.Tensor) -> Iterator[torch.Tensor]:
    for start in range(0, len(tensor), _ROWS_AT_A_TIME):
        yield from tensor[start : start + _ROWS_AT_A_TIME].unbind(0)


def _rows_of_array(array: np.ndarray[Any, Any]) -> Iterator[torch.Tensor]:
    if array.ndim == 0:
        raise TypeError("iteration over a 0-d array")
    return _rows_of_parts(array)


def _rows_of_parts(array: np.ndarray[Any, Any]) -> Iterator[torch.Tensor]:
    for start in range(0, len(array), _ROWS_AT_A_TIME):
        part = array[start : start + _ROWS_AT_A_TIME]
        # Torch takes no negative strides, and warns of an array (a file's, often) that may not be written to.
        if not (part.flags.c_contiguous and part.flags.writeable):
            part = part.copy()
        yield from torch.from_numpy(part).unbind(0)


def _rows_of_mapping(source: Mapping[Any, Any]) -> Iterator[dict[Any, Any]]:
    rows = rows_in_mapping(source)
    if rows is None:
        held = ", ".join(f"{key}: {_described(value)}" for key, value in list(source.items())[:5])
        raise TypeError(
            f"map() over a {type(source).__name__} takes one of tensors with as many rows each, such as "
            f'tokenizer(texts, return_tensors="pt", padding=True), not ({held}). For its keys or values write '
            "map(list(...)); of a dict of datasets name one"
        )
    return _rows_of_dict(dict(source), rows)


def _rows_of_dict(tensors: dict[Any, torch.Tensor], rows: int) -> Iterator[dict[Any, Any]]:
    for start in range(0, rows, _ROWS_AT_A_TIME):
        parts = [torch.split(tensor[start : start + _ROWS_AT_A_TIME], 1) for tensor in tensors.values()]
        for row in zip(*parts, strict=True):
            yield dict(zip(tensors, row, strict=True))


def _samples_of(dataset: Any) -> Iterator[Any]:
    for index in range(len(dataset)):
        yield dataset[index]


def _described(value: Any) -> str:
    return f"tensor of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
