"""Small models whose outputs fold rows with other dims, and calls of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from support import draw
from torch import nn

Call = tuple[tuple[Any, ...], dict[str, Any]]


class TimeMajorLSTM(nn.Module):
    """A classifier of every step: time first, states given and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm, self.linear = nn.LSTM(10, 20), nn.Linear(20, 3)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> Any:
        out, state = self.lstm(x, state)
        return self.linear(out.view(-1, 20)), state


class TimeMajorGRU(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gru, self.linear = nn.GRU(6, 8), nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.gru(x)[0].reshape(-1, 8)).log_softmax(1)


class Tokens(nn.Module):
    """One entry a token, row by row, as token classifiers flatten them for a loss."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).view(-1, 4)


class Patches(nn.Module):
    """Each image's patches as rows of their own, beside one vector an image."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 8, 4, 4), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        patches = self.conv(x).flatten(2).transpose(1, 2)
        return {"patches": self.linear(patches).flatten(0, 1), "image": patches.mean(1)}


class Heads(nn.Module):
    """Attention weights with heads and rows in one dim, as nn.MultiheadAttention has them inside."""

    def __init__(self) -> None:
        super().__init__()
        self.query, self.key = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def heads(y: torch.Tensor) -> torch.Tensor:
            return y.unflatten(-1, (2, 4)).transpose(1, 2).flatten(0, 1)

        return (heads(self.query(x)) @ heads(self.key(x)).transpose(1, 2)).softmax(-1)


class TwoViews(nn.Module):
    """All rows of one view before all rows of the other."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.cat([x, -x]))


class Between(nn.Module):
    """Rows between two other dims: view, row, step."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(5, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.linear(x), self.linear(x.flip(1))]).reshape(-1, 4)


class LastDim(nn.Module):
    """Rows and steps in the last dim."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).reshape(-1, 4).t().contiguous()


class RaggedTokens(nn.Module):
    """Texts of any length under a mask; one entry a token, row by row, and one vector a text."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = self.embed(ids) * mask.unsqueeze(-1)
        x = x + x.sum(1, keepdim=True) / mask.sum(1)[:, None, None]
        return self.linear(x).view(-1, 3), (x * mask.unsqueeze(-1)).sum(1)


class RaggedTimeMajor(nn.Module):
    """The same with time first."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(50, 8), nn.Linear(8, 3)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.embed(ids) * mask.unsqueeze(-1)
        x = x + x.sum(0, keepdim=True) / mask.sum(0)[None, :, None]
        return self.linear(x).view(-1, 3)


class RaggedTwice(nn.Module):
    """Two entries a token."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.linear = nn.Embedding(50, 8), nn.Linear(8, 6)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.linear(self.embed(ids) * mask.unsqueeze(-1)).view(-1, 3)


class RaggedSteps(nn.Module):
    """Steps of any number, time first, each from those before it: what is padded behind them changes none."""

    def __init__(self) -> None:
        super().__init__()
        self.gru, self.linear = nn.GRU(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(self.gru(x)[0].reshape(-1, 8))


def _of(*shape: int) -> Callable[[int], Call]:
    return lambda seed: ((draw(*shape, seed=seed),), {})


def _states(seed: int) -> Call:
    return (draw(7, 1, 10, seed=seed), (draw(1, 1, 20, seed=seed + 1), draw(1, 1, 20, seed=seed + 2))), {}


def _texts(seed: int) -> Call:
    ids = (draw(1, 3 + seed * 7 % 64, seed=seed).abs() * 15).long().clamp(1, 49)
    return (ids,), {"mask": torch.ones_like(ids)}


def _turned_texts(seed: int) -> Call:
    (ids,), _ = _texts(seed)
    return (ids.t().contiguous(),), {"mask": torch.ones_like(ids).t().contiguous()}


def _steps(seed: int) -> Call:
    return (draw(2 + seed * 7 % 64, 1, 4, seed=seed),), {}


FOLDING: dict[str, tuple[type[nn.Module], Callable[[int], Call], dict[str, Any]]] = {
    "time-major LSTM with states": (TimeMajorLSTM, _states, {}),
    "time-major GRU": (TimeMajorGRU, _of(5, 1, 6), {}),
    "tokens": (Tokens, _of(1, 5, 6), {}),
    "patches": (Patches, _of(1, 3, 8, 8), {}),
    "heads": (Heads, _of(1, 5, 8), {}),
    "two views": (TwoViews, _of(1, 6), {}),
    "between": (Between, _of(1, 3, 5), {}),
    "last dim": (LastDim, _of(1, 4, 6), {}),
    "ragged tokens": (RaggedTokens, _texts, {}),
    "ragged, time-major": (RaggedTimeMajor, _turned_texts, {}),
    "ragged, two a token": (RaggedTwice, _texts, {}),
    "ragged steps": (RaggedSteps, _steps, {"pad": {"x": 0.0}}),
}
"""Name -> model, its call number so and so, and what wrap is told beside."""
