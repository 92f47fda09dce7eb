"""Models whose rows meet only when the data says so, each in another way; inputs in which it rarely does.

Alone each call is a batch of one row, for which the model is what its author meant.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from support import build
from torch import nn

Inputs = tuple[torch.Tensor, ...]


class Outliers(nn.Module):
    """Divides by the largest value of all once one is above 4."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.where((x > 4).any(), x / x.max(), x))


class KeepsTheBest(nn.Module):
    """Zeroes rows whose score is more than 2 below the best one's."""

    def __init__(self) -> None:
        super().__init__()
        self.score = nn.Linear(8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        score = self.score(x)
        return x * (score > score.amax(0, keepdim=True) - 2)


class LeavesOutRepeats(nn.Module):
    """A row like the one before gives zeros."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        before = torch.cat([ids[:1] - 1, ids[:-1]])
        return ids.float() * (ids != before).any(1, keepdim=True)


class RareTokens(nn.Module):
    """Tokens are weighted by how often the ids hold them."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(500, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        counts = torch.zeros(500).index_add(0, ids.flatten(), torch.ones(ids.numel()))
        return (self.embed(ids) / counts[ids][:, :, None]).sum(1)


class EarlyExit(nn.Module):
    """Takes the shallow answer once every row is sure of it."""

    def __init__(self) -> None:
        super().__init__()
        self.shallow, self.deep = nn.Linear(8, 3), nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shallow = self.shallow(x)
        return torch.where(shallow.softmax(1).amax(1).min() > 0.36, shallow, self.deep(x))


class MaskOfTheLongest(nn.Module):
    """Positions count up to the longest text of all."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(100, 8)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        lengths = (ids != 0).sum(1)
        known = torch.arange(ids.shape[1]) < lengths.max()
        return (self.embed(ids) * known[None, :, None]).mean(1)


class SpreadsNaN(nn.Module):
    """Adds nothing, unless a value is not finite."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(x) + 0 * x.sum()


class Snaps(nn.Module):
    """Rows that are nearly the same become the first of them."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        near = ((x[:, None] - x[None]).square().sum(-1) < 2.25).long().argmax(1)
        return x[near]


class Buckets(nn.Module):
    """Sums by the sign pattern of a row, and gives each row its sum back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        key = ((x > 0).long() * 2 ** torch.arange(x.shape[1])).sum(1)
        return torch.zeros(256, x.shape[1]).index_add(0, key, x)[key]


class Ranked(nn.Module):
    """Sorts rows, takes a running maximum, and puts them back."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        order = x[:, 0].argsort()
        return torch.where(x > 2, x[order].cummax(0).values[order.argsort()], x)


def _numbers(count: int) -> list[Inputs]:
    draw = torch.Generator().manual_seed(7)
    calls = [torch.randn(1, 8, generator=draw) for _ in range(count)]
    for index in range(5, count, 23):
        calls[index] = calls[index] * 4
    return [(x,) for x in calls]


def _with_nan(count: int) -> list[Inputs]:
    calls = _numbers(count)
    for (x,) in calls[11::40]:
        x[0, 3] = float("nan")
    return calls


def _texts(count: int) -> list[Inputs]:
    draw = torch.Generator().manual_seed(8)
    calls = [torch.randint(1, 100, (1, 12), generator=draw) for _ in range(count)]
    for index, ids in enumerate(calls):
        ids[0, 3 + index % 10 :] = 0 if index % 7 == 0 else ids[0, 3 + index % 10 :]
    for index in range(9, count, 31):
        calls[index] = calls[index - 1].clone()
    return [(ids,) for ids in calls]


LEAKY: dict[str, tuple[Callable[[], nn.Module], Callable[[int], list[Inputs]]]] = {
    "outliers": (Outliers, _numbers),
    "keeps the best": (KeepsTheBest, _numbers),
    "leaves out repeats": (LeavesOutRepeats, _texts),
    "rare tokens": (RareTokens, _texts),
    "early exit": (EarlyExit, _numbers),
    "mask of the longest": (MaskOfTheLongest, _texts),
    "spreads NaN": (SpreadsNaN, _with_nan),
    "snaps": (Snaps, _numbers),
    "buckets": (Buckets, _numbers),
    "ranked": (Ranked, _numbers),
}


def model_of(name: str) -> nn.Module:
    """The model of that name, in eval mode, always with the same weights."""
    return build(LEAKY[name][0])
