"""Traps for rules about places: creation, reshaping, parts, lookups, writes, memory, sizes as numbers."""

from __future__ import annotations

import torch
from rows_traps import Model, ids, leak, safe
from torch import Tensor, nn
from torch.nn import functional as F

# --- creation ---------------------------------------------------------------------------------------------------------

leak("creation", "the number of the row", lambda own, x: x + torch.arange(x.shape[0])[:, None])
leak("creation", "counted ones", lambda own, x: x + torch.ones(x.shape[0], 1).cumsum(0))
leak("creation", "an eye that is added up", lambda own, x: torch.eye(x.shape[0]).cumsum(0) @ x)
leak("creation", "filled with how many there are", lambda own, x: x + torch.full_like(x, x.shape[0]))
leak("creation", "a one for each row", lambda own, x: torch.cat([x, torch.eye(x.shape[0])[:, :1]], 1))
leak("creation", "random numbers", lambda own, x: x + torch.rand_like(x))
leak("creation", "the square of the row's number", lambda own, x: x + (torch.arange(x.shape[0]) ** 2).unsqueeze(1))
leak("creation", "which row is even", lambda own, x: torch.where(torch.arange(x.shape[0])[:, None] % 2 == 0, x, -x))
leak("creation", "an order at random", lambda own, x: x[torch.randperm(x.shape[0])])
safe("creation", "zeros for each", lambda own, x: torch.zeros(x.shape[0], 8) + x)
safe("creation", "ones like it", lambda own, x: torch.cat([x, x.new_ones(x.shape[0], 1)], 1))
safe("creation", "the numbers of the columns", lambda own, x: x + torch.arange(x.shape[1]))
safe("creation", "one constant for all", lambda own, x: x * torch.full((x.shape[0], 1), 2.5))

# --- reshaping --------------------------------------------------------------------------------------------------------


def _heads(x: Tensor) -> Tensor:
    return x.view(-1, 2, 4).transpose(0, 1).reshape(-1, 4)


leak("reshaping", "columns read as rows", lambda own, x: x.t().reshape(-1).view(-1, 8))
leak("reshaping", "copies read as pairs", lambda own, x: x.repeat(2, 1).view(-1, 2, 8).sum(1))
leak("reshaping", "pairs read as copies", lambda own, x: x.repeat_interleave(2, 0).view(2, -1, 8).sum(0))
leak("reshaping", "heads read as rows", lambda own, x: _heads(x).view(-1, 2, 4).flatten(1))
leak("reshaping", "halves read as copies", lambda own, x: x.view(-1, 4).view(2, -1, 4).sum(0))
leak("reshaping", "rows moved behind", lambda own, x: x.view(-1, 2, 4).movedim(0, 2).contiguous().view(-1).view(-1, 8))
leak("reshaping", "a view that steps less than a row", lambda own, x: torch.as_strided(
     x.contiguous(), (x.shape[0], 4), (4, 1)) * 1)  # fmt: skip
safe("reshaping", "heads and back", lambda own, x: _heads(x).view(2, -1, 4).transpose(0, 1).flatten(1))
safe("reshaping", "time first", lambda own, x: x.t().contiguous().view(8, -1).t() * 2)
safe("reshaping", "copies as copies", lambda own, x: x.repeat(2, 1).view(2, -1, 8).sum(0))
safe("reshaping", "pairs as pairs", lambda own, x: x.repeat_interleave(2, 0).view(-1, 2, 8).sum(1))

# --- parts ------------------------------------------------------------------------------------------------------------


def _chunks(own: Model, x: Tensor) -> Tensor:
    both = torch.stack([x, -x], 1).view(-1, 8)
    return both[: x.shape[0]] - both[x.shape[0] :]


def _overlapping(own: Model, x: Tensor) -> Tensor:
    both = torch.cat([x, x])
    return both[: x.shape[0]] + both[1 : x.shape[0] + 1]


def _blocks(own: Model, x: Tensor) -> Tensor:
    both = torch.cat([x, -2 * x], 0)
    return both[: x.shape[0]] - both[x.shape[0] :]


leak("parts", "the first row for all", lambda own, x: x[:1].expand_as(x))
leak("parts", "the last row for all", lambda own, x: x - x[-1])
leak("parts", "rows moved down", lambda own, x: torch.cat([torch.zeros(1, 8), x[:-1]], 0))
leak("parts", "rows turned around", lambda own, x: torch.cat([x[1:], x[:1]], 0))
leak("parts", "rolled", lambda own, x: x.roll(1, 0))
leak("parts", "halves of pairs", _chunks)
leak("parts", "overlapping blocks", _overlapping)
leak("parts", "the first row's first number", lambda own, x: x * x.select(0, 0).select(0, 0))
leak("parts", "a diagonal across rows", lambda own, x: x + (x @ own.table[:8].T).diagonal(0, 0, 1).sum())
leak("parts", "a triangle of entries", lambda own, x: x.tril())
safe("parts", "columns apart", lambda own, x: x.split(4, 1)[0] * x.split(4, 1)[1])
safe("parts", "a constant in front", lambda own, x: torch.cat([own.table[:1].expand(x.shape[0], 8), x], 1))
safe("parts", "steps apart", lambda own, x: sum(x.view(-1, 2, 4).unbind(1)))
safe("parts", "whole blocks", _blocks)

# --- lookups ----------------------------------------------------------------------------------------------------------


def _where_all(own: Model, x: Tensor) -> Tensor:
    return x + (x > 0).nonzero().sum()


leak("lookups", "the same row for all", lambda own, x: x[torch.zeros(x.shape[0], dtype=torch.long)])
leak("lookups", "the next row", lambda own, x: x[(torch.arange(x.shape[0]) + 1) % x.shape[0]])
leak("lookups", "a place in a row, looked up in all", lambda own, x: x.view(-1)[x.argmax(1)])
leak("lookups", "rows as a table", lambda own, x: F.embedding((x[:, 0] > 0).long(), x))
leak("lookups", "a row by its value", lambda own, x: x[(x[:, 0] > 0).long()])
leak("lookups", "gathered among rows", lambda own, x: x.gather(0, (x > 0).long()))
leak("lookups", "taken from all", lambda own, x: x.take((x > 0).long()))
leak("lookups", "rows in another order", lambda own, x: x.index_select(0, x[:, 0].argsort()))
leak("lookups", "the places of what is positive", _where_all)
leak("lookups", "rows counted from the end", lambda own, x: x[-torch.arange(x.shape[0]) - 1])
leak("lookups", "two lists of rows", lambda own, x: x.view(-1, 2, 4)[
     torch.arange(x.shape[0]).flip(0), (x[:, 0] > 0).long()])  # fmt: skip
leak("lookups", "positions by the row", lambda own, x: x + own.table[torch.arange(x.shape[0])])
leak("lookups", "a table of all rows' sums", lambda own, x: F.embedding((x[:, 0] > 0).long(), own.table * x.mean()))
safe("lookups", "its own place", lambda own, x: x[torch.arange(x.shape[0]), x.argmax(1)])
safe("lookups", "gathered within", lambda own, x: x.gather(1, x.argsort(1)))
safe("lookups", "words", lambda own, tokens: own.layer(tokens), layer=lambda: nn.Embedding(20, 8), calls=ids())
safe("lookups", "a row of a table by its value", lambda own, x: own.table[(x > 0).long()].sum(1))
safe("lookups", "the last step of each", lambda own, x: x.view(-1, 2, 4)[torch.arange(x.shape[0]), -1])

# --- writes -----------------------------------------------------------------------------------------------------------


def _one_hot(own: Model, x: Tensor) -> Tensor:
    found = torch.zeros(x.shape[0], 8)
    found[torch.arange(x.shape[0]), x.argmax(1)] = 1.0
    return found * x


def _groups(own: Model, x: Tensor) -> Tensor:
    group = (x[:, 0] > 0).long()
    return torch.zeros(2, 8).index_add(0, group, x)[group]


def _filled(x: Tensor, value: Tensor | float) -> Tensor:
    found = x.clone()
    found[found > 0] = value
    return found


def _row_by_value(own: Model, x: Tensor) -> Tensor:
    return torch.zeros_like(x).index_put(((x[:, 0] > 0).long(),), x, accumulate=True)


leak(
    "writes", "all added to the first", lambda own, x: torch.zeros_like(x).scatter_add(0, torch.zeros_like(x).long(), x)
)
leak("writes", "the sum of a group", _groups)
leak("writes", "the largest of all, where positive", lambda own, x: _filled(x, x.max()))
leak("writes", "rows put where a value says", _row_by_value)
leak("writes", "taken in order of all places", lambda own, x: x.masked_scatter(x > 0, -x))
leak("writes", "a row over the first", lambda own, x: x.select_scatter(x.mean(0), 0, 0))
leak("writes", "rows moved by one", lambda own, x: x.slice_scatter(x[:-1], 0, 1))
leak("writes", "added where others are", lambda own, x: torch.zeros_like(x).index_add(0, x[:, 0].argsort(), x * 2))
leak("writes", "copied where others are", lambda own, x: x.index_copy(0, torch.arange(x.shape[0]).flip(0), x))
leak("writes", "scattered among rows", lambda own, x: x.scatter(0, (x > 0).long(), x * 2))
leak("writes", "one value for a row of all", lambda own, x: x.index_fill(0, torch.zeros(1, dtype=torch.long), 5.0))
safe("writes", "one of each", _one_hot)
safe("writes", "a constant, where positive", lambda own, x: _filled(x, 0.5))
safe("writes", "added within", lambda own, x: torch.zeros_like(x).scatter_add(1, (x > 0).long(), x))
safe("writes", "a column of its own", lambda own, x: x.select_scatter(x[:, 1], 1, 0))

# --- memory -----------------------------------------------------------------------------------------------------------


def _first_row(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    y[0] = 0
    return y


def _through_a_view(own: Model, x: Tensor) -> Tensor:
    y = x * 1
    y.view(-1, 4)[0] = 0
    return y


def _column_of_all(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = y[:, 0].mean()
    return y


def _copied_column(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    y.select(1, 0).copy_(x.mean(0)[0].expand(x.shape[0]))
    return y


def _turned_view(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    turned = y.transpose(0, 1)
    turned.sub_(turned.mean(1, keepdim=True))
    return y


def _sums(own: Model, x: Tensor) -> Tensor:
    total = torch.zeros(8)
    total.add_(x.sum(0))
    return x + total


def _view_from_before(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    before = y[:, :4]
    y.sub_(y.mean(0))
    return before * 2


def _one_of_several(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    left, _ = y.split(4, 1)
    left.sub_(left.mean())
    return y


def _last_over_first(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    y.narrow(0, 0, 1).copy_(x[-1:])
    return y


def _maybe_a_view(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    same = y.reshape(-1, 2, 4).contiguous()
    same.add_(same.amax(0))
    return y


def _a_view_of_zeros(own: Model, x: Tensor) -> Tensor:
    found = torch.zeros(x.shape[0], 8)
    found[:1].add_(x.sum(0))
    return found + x


def _input(own: Model, x: Tensor) -> Tensor:
    return x.add_(1) * 2


def _buffer(own: Model, x: Tensor) -> Tensor:
    own.table[0].add_(x.sum(0))
    return x + own.table[0]


def _number(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = torch.arange(x.shape[0])
    return y


def _other_columns(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    y[:, 0] = y[:, 1:].mean(1)
    return y


def _one_half(own: Model, x: Tensor) -> Tensor:
    y = x.clone()
    y.view(-1, 2, 4)[:, 0].zero_()
    return y.mul_(2)


def _gathered_up(own: Model, x: Tensor) -> Tensor:
    found = torch.zeros(x.shape[0], 8)
    found += x
    return found.relu_()


leak("memory", "the first row", _first_row)
leak("memory", "the first through a view", _through_a_view)
leak("memory", "a column of all rows", _column_of_all)
leak("memory", "a column copied from all rows", _copied_column)
leak("memory", "a turned view", _turned_view)
leak("memory", "sums", _sums)
leak("memory", "a view from before the write", _view_from_before)
leak("memory", "one of several views", _one_of_several)
leak("memory", "the last over the first", _last_over_first)
leak("memory", "what may be a view", _maybe_a_view)
leak("memory", "a view of zeros", _a_view_of_zeros)
leak("memory", "a buffer", _buffer)
leak("memory", "the number of the row", _number)
leak("memory", "the input", _input, unseen="it is the caller's tensor that changes")
safe("memory", "a column of its others", _other_columns)
safe("memory", "one half", _one_half)
safe("memory", "rows gathered up", _gathered_up)

# --- sizes as numbers -------------------------------------------------------------------------------------------------

leak("sizes", "a share of each", lambda own, x: x * (1.0 / x.shape[0]))
leak("sizes", "divided by all entries", lambda own, x: x / x.numel())
leak("sizes", "to the power of how many", lambda own, x: x.abs() ** x.shape[0])
leak("sizes", "more for many", lambda own, x: x + x.shape[0] // 2)
leak("sizes", "the mean by hand", lambda own, x: x - x.sum(0, keepdim=True) / x.shape[0])
leak("sizes", "a length of them", lambda own, x: x + torch.ones(x.shape[0]).sum())
leak("sizes", "as high as there are rows", lambda own, x: x.clamp(max=x.shape[0] / 4))
leak("sizes", "the last number", lambda own, x: x + torch.arange(x.shape[0])[-1])
leak("sizes", "given out", lambda own, x: (x, torch.full((1,), x.shape[0])))
safe("sizes", "divided by its width", lambda own, x: x / x.shape[1])
safe("sizes", "as a size", lambda own, x: x.reshape(x.shape[0] * 2, 4).view(x.shape[0], 8))
safe("sizes", "there and back", lambda own, x: x.view(x.numel()).view(x.numel() // 8, 8) * 2)
