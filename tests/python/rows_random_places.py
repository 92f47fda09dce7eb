"""Operators that random graphs are made of: those that pick and write by indices, masks and orders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from rows_random import Maker, RandomGraph
from rows_sketch import aten
from torch.fx import Node

from torchpool.contract.rows.sizes import size_of

PLACES: list[Maker] = []


def _maker(function: Maker) -> Maker:
    PLACES.append(function)
    return function


def _places(g: RandomGraph, below: int) -> Node:
    index = g.pick(lambda value: value.dtype == torch.int64, 0.3)
    return g.add(aten.clamp.default, index, 0, below - 1) if g.draw.random() < 0.7 else index


@_maker
def picked(g: RandomGraph) -> None:
    value = g.pick(lambda value: 0 < value.dim() < 4)
    dims = sorted({g.dim(value) % value.meta["val"].dim() for _ in range(g.draw.randint(1, 2))})
    indices: list[Any] = [None] * (dims[-1] + 1)
    for dim in dims:
        indices[dim] = g.pick(lambda value: value.dtype == torch.int64 and value.dim() < 3, 0.3)
    if g.draw.random() < 0.5:
        g.add(aten.index.Tensor, value, indices)
    else:
        of = g.draw.choice([torch.float64])
        shaped = g.add(aten.index.Tensor, value, indices)
        if shaped.meta["val"].dtype == of:
            g.add(aten.index_put_.default, value, indices, g.like(shaped), g.draw.random() < 0.3)


@_maker
def gathered(g: RandomGraph) -> None:
    value = g.floats(1)
    rank = value.meta["val"].dim()
    index = g.pick(lambda other: other.dtype == torch.int64 and other.dim() == rank, 0.3)
    g.add(aten.gather.default, value, g.dim(value), index)


@_maker
def scattered(g: RandomGraph) -> None:
    value = g.floats(1)
    rank = value.meta["val"].dim()
    index = g.pick(lambda other: other.dtype == torch.int64 and other.dim() == rank, 0.3)
    if g.draw.random() < 0.5:
        target: Callable[..., Any] = g.draw.choice([aten.scatter.value, aten.scatter_.value])
        g.add(target, value, g.dim(value), index, 1.0)
    else:
        target = g.draw.choice([aten.scatter_add.default, aten.scatter_add_.default])
        source = g.pick(lambda other: other.dtype == torch.float64 and other.dim() == rank, 0.3)
        g.add(target, value, g.dim(value), index, source)


@_maker
def picked_along_one_dim(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 0)
    dim = g.dim(value)
    places = g.pick(lambda other: other.dtype == torch.int64 and other.dim() == 1, 0.3)
    part = g.add(aten.index_select.default, value, dim, places)
    if value.meta["val"].is_floating_point():
        g.add(g.draw.choice([aten.index_add.default, aten.index_copy.default]), value, dim, places, g.like(part))


@_maker
def looked_up(g: RandomGraph) -> None:
    table = g.pick(lambda value: value.is_floating_point() and value.dim() == 2, 0.2)
    g.add(aten.embedding.default, table, g.pick(lambda value: value.dtype == torch.int64, 0.3))


@_maker
def picked_by_a_mask(g: RandomGraph) -> None:
    value = g.floats(1)
    mask = g.add(aten.gt.Scalar, g.like(value), 0.0)
    if g.draw.random() < 0.3:
        g.add(aten.ones_like.default, g.add(aten.masked_select.default, value, mask))
    else:
        # Of as many values as a mask picks no other row would have the same number.
        single = g.pick(lambda other: other.is_floating_point() and all(size == 1 for size in other.shape), 0.3)
        g.add(aten.index_put_.default, value, [mask], single)


@_maker
def whole_numbers(g: RandomGraph) -> None:
    value = g.floats(1)
    g.add(aten.to.dtype, g.add(aten.gt.Scalar, value, 0.0), torch.int64)


@_maker
def places_shaped(g: RandomGraph) -> None:
    index = g.pick(lambda value: value.dtype == torch.int64 and value.dim() < 4, 0.3)
    choice = g.draw.random()
    if choice < 0.4:
        g.add(aten.reshape.default, index, g.shape_for(index))
    elif choice < 0.7:
        g.add(aten.unsqueeze.default, index, g.draw.choice([0, -1]))
    else:
        sizes = [g.draw.choice([2, g.count(), g.count(2)]) if bool(size_of(size) == 1) else -1
                 for size in index.meta["val"].shape]  # fmt: skip
        g.add(aten.expand.default, index, sizes)


@_maker
def sorted_in_order(g: RandomGraph) -> None:
    keys = g.pick(lambda value: value.dim() == 1 and value.dtype != torch.bool)
    g.add(g.draw.choice([aten.argsort.default, aten.sort.default]), keys)
