"""Functions of padded calls: those that let padded places reach what is kept, to fool the proof, and those that do not.

Each gets the model with its weights, x [B, L, 8] that is padded with 3.0, a mask [B, L] of 0.0 and 1.0 that is padded
with 0.0, and ids [B, L] that are padded with 0. All of a class are exported as one model with an output each.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Function = Callable[["Model", Tensor, Tensor, Tensor], Tensor]
PADS = (3.0, 0.0, 0)
INFINITE = -math.inf
LEAST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class Case:
    """A function and what is to be said of it."""

    kind: str
    name: str
    function: Function
    expect: Literal["lost", "proven", "conditional"]


CASES: list[Case] = []


def leak(kind: str, name: str, function: Any) -> None:
    """Padded places are seen."""
    CASES.append(Case(kind, name, function, "lost"))


def safe(kind: str, name: str, function: Any) -> None:
    """They are not."""
    CASES.append(Case(kind, name, function, "proven"))


def sometimes(kind: str, name: str, function: Any) -> None:
    """They are not where a row has a place that is not masked."""
    CASES.append(Case(kind, name, function, "conditional"))


class Model(nn.Module):
    """All functions of a class."""

    def __init__(self, cases: list[Case]) -> None:
        super().__init__()
        self.functions = [case.function for case in cases]
        self.linear = nn.Linear(8, 8)
        self.qkv = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.flat = nn.Linear(8, 8, bias=False)
        self.norm = nn.LayerNorm(8)
        self.words = nn.Embedding(30, 8)
        self.conv = nn.Conv1d(8, 8, 3, padding=1)
        self.valid = nn.Conv1d(8, 8, 3)
        self.gru = nn.GRU(8, 8, batch_first=True)
        self.both = nn.GRU(8, 8, batch_first=True, bidirectional=True)
        self.bn = nn.BatchNorm1d(8)
        self.register_buffer("table", torch.linspace(-1, 1, 64 * 8).view(64, 8))
        apart = torch.arange(64)[:, None] - torch.arange(64)[None, :]
        self.register_buffer("window", torch.where((apart >= 0) & (apart < 2), 0.0, INFINITE))

    def forward(self, x: Tensor, mask: Tensor, ids: Tensor) -> tuple[Tensor, ...]:
        return tuple(function(self, x, mask, ids) for function in self.functions)

    def scores(self, x: Tensor) -> Tensor:
        """[B, L, L]"""
        return self.qkv[0](x) @ self.qkv[1](x).transpose(1, 2)

    def sdpa(self, x: Tensor, mask: Tensor | None, **options: Any) -> Tensor:
        query, key, value = (layer(x) for layer in self.qkv)
        return F.scaled_dot_product_attention(query, key, value, mask, **options)


def _attend(own: Model, x: Tensor, scores: Tensor) -> Tensor:
    return scores.softmax(-1) @ own.qkv[2](x)


def places(x: Tensor) -> Tensor:
    return torch.arange(x.shape[1])


def hidden(mask: Tensor) -> Tensor:
    """[B, 1, L]: True where a key is masked."""
    return (mask == 0).unsqueeze(1)


def _later(x: Tensor) -> Tensor:
    return places(x)[:, None] < places(x)[None, :]


def _windows(own: Model, x: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
    """A padded place sees padded ones only, which are masked: NaN there, which the second layer sees."""
    window = own.window[: x.shape[1], : x.shape[1]]
    for _ in range(2):
        hidden_keys = torch.where(hidden(mask), INFINITE, 0.0)
        x = own.norm(x + _attend(own, x, own.scores(x) + window + hidden_keys))
    return x


def _twice(own: Model, x: Tensor, masked: Tensor) -> Tensor:
    """Two layers of attention: the second sees what the first made of padded places."""
    for _ in range(2):
        x = own.norm(x + _attend(own, x, own.scores(x).masked_fill(masked, INFINITE)))
    return x


# --- softmax ----------------------------------------------------------------------------------------------------------

leak("softmax", "unmasked", lambda own, x, mask, ids: _attend(own, x, own.scores(x)))
leak(
    "softmax",
    "masked rows, not keys",
    lambda own, x, mask, ids: _attend(own, x, own.scores(x).masked_fill((mask == 0).unsqueeze(2), INFINITE)),
)
leak(
    "softmax",
    "masked the other way round",
    lambda own, x, mask, ids: _attend(own, x, own.scores(x).masked_fill((mask != 0).unsqueeze(1), INFINITE)),
)
leak(
    "softmax",
    "not masked enough",
    lambda own, x, mask, ids: _attend(own, x, own.scores(x) + (1 - mask).unsqueeze(1) * -3.0),
)
leak(
    "softmax",
    "over the queries",
    lambda own, x, mask, ids: own.scores(x).masked_fill(hidden(mask), INFINITE).softmax(1) @ own.qkv[2](x),
)
leak("softmax", "a mask after it", lambda own, x, mask, ids: (own.linear(x).softmax(1) * mask.unsqueeze(2)).sum(1))
leak(
    "softmax",
    "of a product with the mask",
    lambda own, x, mask, ids: ((own.linear(x) * mask.unsqueeze(2)).softmax(1) * mask.unsqueeze(2)).sum(1),
)
leak(
    "softmax",
    "divided by the length",
    lambda own, x, mask, ids: _attend(own, x, (own.scores(x) / x.shape[1]).masked_fill(hidden(mask), INFINITE)),
)
leak(
    "softmax",
    "windows without kept places, twice",
    lambda own, x, mask, ids: _twice(own, x, hidden(mask) | (places(x)[:, None] - places(x)[None, :] > 1)),
)
leak(
    "softmax",
    "zeros where all is masked, of a mask that is turned",
    lambda own, x, mask, ids: _attend(own, x, torch.where(hidden(mask), 0.0, INFINITE) + own.scores(x)).nan_to_num(0.0),
)
safe("softmax", "masked", lambda own, x, mask, ids: _attend(own, x, own.scores(x).masked_fill(hidden(mask), INFINITE)))
safe("softmax", "masked twice", lambda own, x, mask, ids: _twice(own, x, hidden(mask)))
safe(
    "softmax",
    "an added mask",
    lambda own, x, mask, ids: _attend(own, x, own.scores(x) + torch.where(hidden(mask), INFINITE, 0.0)),
)
safe("softmax", "causal", lambda own, x, mask, ids: _attend(own, x, own.scores(x).masked_fill(_later(x), INFINITE)))
safe(
    "softmax",
    "causal and masked",
    lambda own, x, mask, ids: _attend(own, x, own.scores(x).masked_fill(_later(x) | hidden(mask), INFINITE)),
)
safe(
    "softmax",
    "a triangle",
    lambda own, x, mask, ids: _attend(
        own, x, own.scores(x).masked_fill(torch.ones(x.shape[1], x.shape[1]).tril() == 0, INFINITE)
    ),
)
safe(
    "softmax",
    "zeros where all is masked",
    lambda own, x, mask, ids: (
        own.scores(x).masked_fill(hidden(mask), INFINITE).softmax(-1).nan_to_num(0.0) @ own.qkv[2](x)
    ),
)
safe(
    "softmax",
    "zeros where masked",
    lambda own, x, mask, ids: (
        own.scores(x).masked_fill(hidden(mask), INFINITE).softmax(-1).masked_fill(hidden(mask), 0.0) @ own.qkv[2](x)
    ),
)
safe(
    "softmax",
    "logarithms",
    lambda own, x, mask, ids: (
        own.linear(x)
        .masked_fill((mask == 0).unsqueeze(2), INFINITE)
        .log_softmax(1)
        .masked_fill((mask == 0).unsqueeze(2), 0.0)
        .sum(1)
    ),
)
safe("softmax", "over features", lambda own, x, mask, ids: own.linear(x).softmax(-1))
sometimes(
    "softmax",
    "the least number",
    lambda own, x, mask, ids: _attend(own, x, own.scores(x).masked_fill(hidden(mask), LEAST)),
)
sometimes(
    "softmax",
    "the least number added",
    lambda own, x, mask, ids: _attend(own, x, own.scores(x) + (1 - mask).unsqueeze(1) * LEAST),
)
sometimes("softmax", "-1e9", lambda own, x, mask, ids: _attend(own, x, own.scores(x).masked_fill(hidden(mask), -1e9)))

leak("softmax", "a table of windows, twice", _windows)
safe(
    "softmax",
    "a table of windows",
    lambda own, x, mask, ids: _attend(
        own, x, own.scores(x) + own.window[: x.shape[1], : x.shape[1]] + torch.where(hidden(mask), INFINITE, 0.0)
    ),
)
sometimes(
    "softmax",
    "scaled once it is masked",
    lambda own, x, mask, ids: _attend(own, x, (own.scores(x) + (1 - mask).unsqueeze(1) * LEAST) / 8.0),
)
leak(
    "softmax",
    "a mask that is taken back",
    lambda own, x, mask, ids: _attend(
        own, x, own.scores(x) + (1 - mask).unsqueeze(1) * -1e9 + (1 - mask).unsqueeze(1) * 1e9
    ),
)

# --- attention --------------------------------------------------------------------------------------------------------

leak("attention", "unmasked", lambda own, x, mask, ids: own.sdpa(x, None))
leak("attention", "masked the other way round", lambda own, x, mask, ids: own.sdpa(x, hidden(mask)))
leak("attention", "the mask as numbers", lambda own, x, mask, ids: own.sdpa(x, mask.unsqueeze(1)))
leak(
    "attention",
    "the mask of queries",
    lambda own, x, mask, ids: own.sdpa(x, ((mask != 0).unsqueeze(2) | (places(x) < 0)[None, None])),
)
leak("attention", "anticausal", lambda own, x, mask, ids: own.sdpa(x, ~_later(x).T))
leak("attention", "one ahead", lambda own, x, mask, ids: own.sdpa(x, places(x)[:, None] + 1 >= places(x)[None, :]))
safe("attention", "masked", lambda own, x, mask, ids: own.sdpa(x, ~hidden(mask)))
safe("attention", "an added mask", lambda own, x, mask, ids: own.sdpa(x, torch.where(hidden(mask), INFINITE, 0.0)))
safe("attention", "causal", lambda own, x, mask, ids: own.sdpa(x, None, is_causal=True))
safe("attention", "causal by a mask", lambda own, x, mask, ids: own.sdpa(x, ~_later(x)))
safe(
    "attention",
    "in a window",
    lambda own, x, mask, ids: own.sdpa(
        own.sdpa(x, ~_later(x) & (places(x)[:, None] - places(x)[None, :] < 2)), ~hidden(mask)
    ),
)
sometimes("attention", "the least number", lambda own, x, mask, ids: own.sdpa(x, torch.where(hidden(mask), LEAST, 0.0)))

# --- reductions -------------------------------------------------------------------------------------------------------

leak("reductions", "the mean", lambda own, x, mask, ids: own.linear(x).mean(1))
leak("reductions", "a mean of masked ones", lambda own, x, mask, ids: (own.linear(x) * mask.unsqueeze(2)).mean(1))
leak("reductions", "the sum", lambda own, x, mask, ids: own.linear(x).sum(1))
leak(
    "reductions",
    "divided by all",
    lambda own, x, mask, ids: (x * mask.unsqueeze(2)).sum(1) / torch.ones_like(mask).sum(1, keepdim=True),
)
leak(
    "reductions",
    "the mask of another dim",
    lambda own, x, mask, ids: (own.linear(x) * own.table[:1]).sum(1) * mask[:, :1],
)
leak("reductions", "the mask turned", lambda own, x, mask, ids: (own.linear(x) * (1 - mask).unsqueeze(2)).sum(1))
leak("reductions", "the largest", lambda own, x, mask, ids: own.linear(x).amax(1))
leak(
    "reductions",
    "the largest of masked ones",
    lambda own, x, mask, ids: ((own.linear(x) - 100) * mask.unsqueeze(2)).amax(1),
)
leak("reductions", "deviations", lambda own, x, mask, ids: (own.linear(x) * mask.unsqueeze(2)).std(1))
leak("reductions", "all over", lambda own, x, mask, ids: x + own.linear(x).sum((1, 2), keepdim=True))
leak("reductions", "any of the masked", lambda own, x, mask, ids: (mask == 0).any(1).float())
leak("reductions", "counted", lambda own, x, mask, ids: torch.count_nonzero(ids + 1, 1).float())
leak(
    "reductions",
    "0 / 0 where padded",
    lambda own, x, mask, ids: (own.linear(x) / mask.unsqueeze(2)).sum(1).nan_to_num(5.0),
)
leak(
    "reductions",
    "0 times NaN",
    lambda own, x, mask, ids: ((x / (x - 3.0)).nan_to_num(9.0, 9.0, 9.0) + 0 * (x / (x - 3.0)) * mask.unsqueeze(2)).sum(
        1
    ),
)
safe("reductions", "the sum of masked ones", lambda own, x, mask, ids: (own.linear(x) * mask.unsqueeze(2)).sum(1))
safe(
    "reductions",
    "the masked mean",
    lambda own, x, mask, ids: (own.linear(x) * mask.unsqueeze(2)).sum(1) / mask.sum(1, keepdim=True).clamp(min=1e-9),
)
safe("reductions", "the mask squared", lambda own, x, mask, ids: (own.linear(x) * mask.unsqueeze(2) ** 2).sum(1))
safe("reductions", "half of the mask", lambda own, x, mask, ids: (own.linear(x) * (0.5 * mask).unsqueeze(2)).sum(1))
safe(
    "reductions",
    "the largest",
    lambda own, x, mask, ids: own.linear(x).masked_fill((mask == 0).unsqueeze(2), INFINITE).amax(1),
)
safe(
    "reductions",
    "the largest of what is not negative",
    lambda own, x, mask, ids: (own.linear(x).relu() * (mask != 0).unsqueeze(2)).amax(1),
)
safe("reductions", "a norm", lambda own, x, mask, ids: (own.linear(x) * mask.unsqueeze(2)).norm(dim=1))
safe("reductions", "any that is not masked", lambda own, x, mask, ids: (mask != 0).any(1).float())
safe("reductions", "over features", lambda own, x, mask, ids: own.linear(x).mean(-1))
safe(
    "reductions",
    "of each head",
    lambda own, x, mask, ids: (own.linear(x).view(x.shape[0], x.shape[1], 2, 4) * mask[:, :, None, None]).sum((1, 3)),
)

# --- memory -----------------------------------------------------------------------------------------------------------


def _written(own: Model, x: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
    scores = own.scores(x)
    scores.masked_fill_(hidden(mask), INFINITE)
    return _attend(own, x, scores)


def _written_back(own: Model, x: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
    masked = own.linear(x) * mask.unsqueeze(2)
    masked.view(-1, 8).add_(1.0)
    return masked.sum(1)


def _filled(own: Model, x: Tensor, mask: Tensor, ids: Tensor) -> Tensor:
    masked = own.linear(x) * mask.unsqueeze(2)
    masked[:, :, 0] = 1.0
    return masked.sum(1)


safe("memory", "masked in place", _written)
leak("memory", "written through a view", _written_back)
leak("memory", "filled through a view", _filled)
