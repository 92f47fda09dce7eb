"""Operators that random graphs are made of: entry by entry, of shapes, over dims, products."""

from __future__ import annotations

from typing import Any

from rows_random import Maker, RandomGraph, Unfit
from rows_sketch import aten
from torch.fx import Node

from torchpool.contract.rows.sizes import size_of

MAKERS: list[Maker] = []


def maker(function: Maker) -> Maker:
    MAKERS.append(function)
    return function


# Entry by entry.


@maker
def one_value(g: RandomGraph) -> None:
    targets = [aten.tanh.default, aten.neg.default, aten.clone.default, aten.detach.default, aten.relu.default]
    g.add(g.draw.choice([*targets, aten.alias.default, aten.contiguous.default, aten.zeros_like.default]), g.floats())


@maker
def two_values(g: RandomGraph) -> None:
    first = g.floats()
    targets = [aten.add.Tensor, aten.mul.Tensor, aten.sub.Tensor, aten.maximum.default, aten.max.other]
    g.add(g.draw.choice(targets), first, g.like(first))


@maker
def a_choice(g: RandomGraph) -> None:
    first = g.floats()
    other = g.like(first)
    condition = g.add(aten.gt.Tensor, first, other)
    g.add(aten.where.self, condition, first, g.like(first))


@maker
def masked(g: RandomGraph) -> None:
    value = g.floats()
    mask = g.add(aten.lt.Scalar, g.like(value), 0.2)
    g.add(g.draw.choice([aten.masked_fill.Scalar, aten.masked_fill_.Scalar]), value, mask, 0.5)


@maker
def numbers_of_entries(g: RandomGraph) -> None:
    g.add(g.draw.choice([aten.add.Scalar, aten.mul.Scalar, aten.full_like.default]), g.floats(), 1.5)


# In place.


@maker
def one_value_in_place(g: RandomGraph) -> None:
    g.add(g.draw.choice([aten.tanh_.default, aten.neg_.default, aten.zero_.default, aten.relu_.default]), g.floats())


@maker
def two_values_in_place(g: RandomGraph) -> None:
    first = g.floats()
    g.add(g.draw.choice([aten.add_.Tensor, aten.mul_.Tensor, aten.copy_.default]), first, g.like(first))


@maker
def a_cumulative_sum_in_place(g: RandomGraph) -> None:
    value = g.floats(1)
    g.add(aten.copy_.default, value, g.add(aten.cumsum.default, value, g.dim(value)))


@maker
def a_constant_in_place(g: RandomGraph) -> None:
    g.add(aten.fill_.Scalar, g.floats(), 2.0)


# Other shapes.


@maker
def reshaped(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.numel() != 0)
    g.add(g.draw.choice([aten.view.default, aten.reshape.default, aten.reshape.default]), value, g.shape_for(value))


@maker
def flattened(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 1)
    rank = value.meta["val"].dim()
    first = g.draw.randrange(rank - 1)
    g.add(aten.flatten.using_ints, value, first, g.draw.randint(first + 1, rank - 1))


@maker
def transposed(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 1)
    g.add(g.draw.choice([aten.transpose.int, aten.movedim.int]), value, g.dim(value), g.dim(value))


@maker
def permuted(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 2)
    order = list(range(value.meta["val"].dim()))
    g.draw.shuffle(order)
    g.add(aten.permute.default, value, order)


@maker
def matrix_transposed(g: RandomGraph) -> None:
    g.add(g.draw.choice([aten.t.default, aten.mT.default]), g.pick(lambda value: value.dim() > 1))


@maker
def longer(g: RandomGraph) -> None:
    value = g.pick()
    rank = value.meta["val"].dim()
    if rank > 4:
        raise Unfit
    g.add(aten.unsqueeze.default, value, g.draw.randint(-rank - 1, rank))


@maker
def shorter(g: RandomGraph) -> None:
    value = g.pick(lambda value: any(bool(size_of(size) == 1) for size in value.shape))
    g.add(aten.squeeze.dim, value, g.dim(value))


@maker
def expanded(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() < 4)
    sizes: list[Any] = []
    for size in value.meta["val"].shape:
        one = bool(size_of(size) == 1)
        sizes.append(g.draw.choice([1, 2, g.count(), g.count(2)]) if one else -1)
    if g.draw.random() < 0.4:
        sizes.insert(0, g.draw.choice([2, g.count(), g.count(2), g.count(3)]))
    g.add(aten.expand.default, value, sizes)


@maker
def expanded_as(g: RandomGraph) -> None:
    other = g.floats(1)
    g.add(aten.expand_as.default, g.like(other), other)


@maker
def letters(g: RandomGraph) -> None:
    value = g.floats(2)
    names = "abcdef"[: value.meta["val"].dim()]
    g.add(aten.einsum.default, f"{names}->{''.join(g.draw.sample(names, g.draw.randint(1, len(names))))}", [value])


# Parts, joined and repeated values.


@maker
def a_slice(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 0)
    dim = g.dim(value)
    bounds = [0, 1, -1, g.count(), g.count(2), None]
    g.add(aten.slice.Tensor, value, dim, g.draw.choice(bounds), g.draw.choice(bounds), g.draw.choice([1, 1, 1, 2]))


@maker
def one_place(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 1)
    g.add(aten.select.int, value, g.dim(value), g.draw.choice([0, 0, 1, -1]))


@maker
def chunks(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 0)
    dim = g.dim(value)
    if g.draw.random() < 0.5:
        g.add(aten.split.Tensor, value, g.size(size_of(value.meta["val"].shape[dim]) / g.draw.choice([1, 2, 3])), dim)
    else:
        g.add(aten.chunk.default, value, 2, dim)


@maker
def places_apart(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 1)
    dim = g.dim(value)
    g.length(value, dim)
    g.add(aten.unbind.int, value, dim)


@maker
def joined(g: RandomGraph) -> None:
    first = g.floats(1)
    if g.draw.random() < 0.5:
        values = [first, g.draw.choice([first, g.like(first)])]
        rank = first.meta["val"].dim()
        g.add(aten.stack.default, values, g.draw.randint(-rank - 1, rank))
    else:
        g.add(aten.cat.default, [first, *[g.like(first) for _ in range(g.draw.randint(1, 2))]], g.dim(first))


@maker
def joined_parts(g: RandomGraph) -> None:
    value = g.floats(1)
    parts = g.add(aten.chunk.default, value, 2, g.dim(value))
    g.add(aten.cat.default, parts, g.dim(value))


@maker
def repeated(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() < 4)
    counts = [g.draw.choice([1, 1, 2, g.count()]) for _ in range(value.meta["val"].dim() + g.draw.randint(0, 1))]
    g.add(aten.repeat.default, value, counts)


@maker
def repeated_at_once(g: RandomGraph) -> None:
    value = g.pick(lambda value: value.dim() > 0)
    g.add(aten.repeat_interleave.self_int, value, g.draw.choice([2, 3, g.count()]), g.draw.choice([None, g.dim(value)]))


@maker
def windows(g: RandomGraph) -> None:
    value = g.floats(1)
    g.add(aten.unfold.default, value, g.dim(value), 2, 1)


@maker
def padded(g: RandomGraph) -> None:
    value = g.floats(1)
    pads = [g.draw.choice([0, 0, 1]) for _ in range(2 * g.draw.randint(1, value.meta["val"].dim()))]
    g.add(aten.constant_pad_nd.default, value, pads, 0.5)


@maker
def a_diagonal(g: RandomGraph) -> None:
    value = g.floats(2)
    g.add(aten.diagonal.default, value, 0, g.dim(value), g.dim(value))


@maker
def no_values(g: RandomGraph) -> None:
    g.empty()


@maker
def row_numbers(g: RandomGraph) -> None:
    g.add(aten.arange.default, g.count(g.draw.choice([1, 1, 2])))


# Along and over dims.


@maker
def reduced(g: RandomGraph) -> None:
    value = g.floats(1)
    target = g.draw.choice([aten.sum.dim_IntList, aten.mean.dim, aten.amax.default, aten.logsumexp.default])
    dims = list({g.dim(value) % value.meta["val"].dim() for _ in range(g.draw.randint(1, 2))})
    g.add(target, value, dims, g.draw.random() < 0.3)


@maker
def places_of_extremes(g: RandomGraph) -> None:
    value = g.floats(1)
    target = g.draw.choice([aten.max.dim, aten.argmax.default, aten.median.dim, aten.min.dim])
    g.add(target, value, g.dim(value), g.draw.random() < 0.3)


@maker
def along(g: RandomGraph) -> None:
    value = g.floats(1)
    target = g.draw.choice([aten.softmax.int, aten.cumsum.default, aten.cummax.default, aten.sort.default])
    g.add(target, value, g.dim(value))


@maker
def turned(g: RandomGraph) -> None:
    value = g.floats(1)
    if g.draw.random() < 0.5:
        g.add(aten.flip.default, value, [g.dim(value)])
    else:
        g.add(aten.roll.default, value, [1], [g.dim(value)])


@maker
def largest(g: RandomGraph) -> None:
    value = g.floats(1)
    dim = g.dim(value)
    g.add(aten.topk.default, value, min(2, g.length(value, dim)), dim)


@maker
def a_triangle(g: RandomGraph) -> None:
    g.add(g.draw.choice([aten.tril.default, aten.triu.default]), g.floats(2))


@maker
def normed(g: RandomGraph) -> None:
    value = g.floats(1)
    g.add(aten.layer_norm.default, value, [g.length(value, -1)])


# Products.


def _fitting(g: RandomGraph, length: Any, dim: int) -> Node:
    return g.pick(
        lambda value: value.is_floating_point() and value.dim() >= -dim and size_of(value.shape[dim]) == length, 0.2
    )


@maker
def a_product(g: RandomGraph) -> None:
    first = g.floats(1)
    length = size_of(first.meta["val"].shape[-1])
    g.add(aten.matmul.default, first, _fitting(g, length, g.draw.choice([-1, -2])))


@maker
def a_linear_layer(g: RandomGraph) -> None:
    first = g.floats(1)
    g.add(aten.linear.default, first, _fitting(g, size_of(first.meta["val"].shape[-1]), -1))


@maker
def a_product_by_letters(g: RandomGraph) -> None:
    first = g.floats(2)
    second = g.like(first)
    names = "abcde"[: first.meta["val"].dim()]
    own = names[len(names) - second.meta["val"].dim() :]
    kept = "".join(g.draw.sample(names, g.draw.randint(1, len(names))))
    g.add(aten.einsum.default, f"{names},{own}->{kept}", [first, second])


@maker
def attended(g: RandomGraph) -> None:
    value = g.floats(3)
    g.add(aten.scaled_dot_product_attention.default, value, value, value)
