"""Small models that are accelerated, and what came by their entrances."""

from __future__ import annotations

from typing import Any

import torch
from support import build, draw
from torch import nn

from torchpool.predictor import entrance_of


class Classifier(nn.Module):
    """10 features to 3 classes, with methods of its own that call it."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(10, 8)
        self.outer = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return self.outer(torch.relu(self.inner(x))) * scale

    def predict(self, x: torch.Tensor) -> int:
        """Calls forward itself."""
        with torch.no_grad():
            return int(self.forward(x).argmax().item())

    def label(self, x: torch.Tensor) -> int:
        """Calls the module."""
        with torch.no_grad():
            return int(self(x).argmax().item())


def classifier() -> Classifier:
    model = build(Classifier)
    assert isinstance(model, Classifier)
    return model


def x(seed: int = 0) -> torch.Tensor:
    """One call's input."""
    return draw(1, 10, seed=seed)


def came(model: nn.Module, why: str = "served") -> int:
    """How many calls were served, or were passed on to the module for another reason."""
    entrance = entrance_of(model)
    assert entrance is not None, "it is not accelerated"
    return entrance.counts.get(why, 0)


def serve_once(model: Any, *args: Any, **kwargs: Any) -> Any:
    """A result of the predictor's: the first call of a structure is the module's own."""
    with torch.no_grad():
        model(*args, **kwargs)
        before = came(model)
        result = model(*args, **kwargs)
    assert came(model) == before + 1, f"not served: {entrance_counts(model)}"
    return result


def entrance_counts(model: nn.Module) -> dict[str, int]:
    entrance = entrance_of(model)
    return {} if entrance is None else entrance.counts
