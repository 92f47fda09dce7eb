"""What loops go over: datasets, stand-ins for tables of packages that need not be there; and the ways to map."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import data

import torchpool


class Pairs(data.Dataset[Any]):
    """A dataset as most people write it: no __iter__, and an index beyond its end is not refused."""

    def __init__(self, inputs: torch.Tensor, labels: torch.Tensor) -> None:
        self.inputs, self.labels = inputs, labels

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        return self.inputs[index % len(self)], self.labels[index % len(self)]


class Indexed:
    """Not even a Dataset."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.inputs[index % len(self)]


class Stream(data.IterableDataset[Any]):
    """Of unknown length."""

    def __init__(self, inputs: torch.Tensor) -> None:
        self.inputs = inputs

    def __iter__(self) -> Iterator[torch.Tensor]:
        return iter(self.inputs)


class Rows:
    """As a Hugging Face dataset: mappings of Python values, by index and by iteration."""

    def __init__(self, rows: list[Mapping[str, Any]]) -> None:
        self.rows = rows
        self.column_names = list(rows[0])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self.rows[index]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return iter(self.rows)


class Column:
    """As a pandas Series."""

    def __init__(self, values: list[Any]) -> None:
        self.array = np.array(values) if np.isscalar(values[0]) else _objects(values)

    def __len__(self) -> int:
        return len(self.array)

    def __iter__(self) -> Iterator[Any]:
        return iter(self.array.tolist())

    def __getitem__(self, label: Any) -> Any:
        raise KeyError(label)  # labels are not positions

    def to_numpy(self) -> np.ndarray[Any, Any]:
        return self.array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.array


class Table(Column):
    """As a pandas DataFrame, which iterates over the names of its columns."""

    columns = ("a", "b")

    def __iter__(self) -> Iterator[str]:
        return iter(self.columns)


def _objects(values: list[Any]) -> np.ndarray[Any, Any]:
    array = np.empty(len(values), dtype=object)
    for i, value in enumerate(values):
        array[i] = value
    return array


Way = Callable[..., list[Any]]


def by_map(predict: torchpool.Predictor, *sources: Any) -> list[Any]:
    return list(predict.map(*sources))


def by_executor(predict: torchpool.Predictor, *sources: Any) -> list[Any]:
    with torchpool.ThreadPoolExecutor(2) as executor:
        return list(executor.map(predict, *sources))


def by_bounded_executor(predict: torchpool.Predictor, *sources: Any) -> list[Any]:
    with torchpool.ThreadPoolExecutor(2) as executor:
        return list(executor.map(predict, *sources, buffersize=3))


def unordered(predict: torchpool.Predictor, *sources: Any) -> list[Any]:
    return list(predict.map(*sources, ordered=False, buffersize=1))


def awaited(predict: torchpool.Predictor, source: Any) -> list[Any]:
    async def collect() -> list[Any]:
        return [result async for result in predict.amap(source)]

    return asyncio.run(collect())


WAYS = [by_map, by_executor, by_bounded_executor, unordered, awaited]


class Sum(nn.Module):
    def forward(self, a: torch.Tensor, b: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return (a + b) * scale
