"""What a type checker knows of a predictor: its model's arguments and result. Checked by mypy, never run.

Under warn_unused_ignores each `type: ignore` here says that the line is an error.
"""

from __future__ import annotations

from concurrent.futures import Future
from typing import Any, assert_type

import torch
from torch import Tensor, nn

import torchpool


class Pair(nn.Module):
    """A module whose forward has types."""

    def forward(self, x: Tensor, scale: float = 1.0) -> tuple[Tensor, Tensor]:
        return x * scale, x

    def embed(self, x: Tensor) -> Tensor:
        return x


def labels(x: Tensor, k: int = 2) -> list[int]:
    found: list[int] = x.topk(k).indices.tolist()
    return found


x = torch.zeros(1, 4)

# A module by its forward.
pair = torchpool.wrap(Pair(), max_batch=8)
assert_type(pair(x), tuple[Tensor, Tensor])
assert_type(pair(x, scale=2.0), tuple[Tensor, Tensor])
assert_type(pair.submit(x), Future[tuple[Tensor, Tensor]])
assert_type(pair.options(priority=1)(x), tuple[Tensor, Tensor])
pair("x")  # type: ignore[arg-type]
pair(x, scal=2.0)  # type: ignore[call-arg]
pair.submit()  # type: ignore[call-arg]

# A method, a function, a layer of torch's.
assert_type(torchpool.wrap(Pair().embed)(x), Tensor)
assert_type(torchpool.wrap(labels, prove="trust")(x, 3), list[int])
assert_type(torchpool.wrap(nn.Linear(4, 3))(x), Tensor)


async def awaited() -> None:
    assert_type(await pair.acall(x), tuple[Tensor, Tensor])


def of_any_module(model: nn.Module) -> None:
    """Of a module that says nothing of its forward nothing is known."""
    assert_type(torchpool.wrap(model), torchpool.Predictor[..., Any])


# A predictor in an annotation, with and without what it is of.
def bare(predict: torchpool.Predictor) -> Any:
    return predict(x)


bare(pair)
with pair as entered:
    assert_type(entered(x), tuple[Tensor, Tensor])

# What wrap() refuses.
torchpool.wrap("model.pt")  # type: ignore[call-overload]
torchpool.wrap(labels, batch_size=8)  # type: ignore[call-overload]
torchpool.wrap(labels, backend="onnx")  # type: ignore[call-overload]
pair.state_dict()  # type: ignore[attr-defined]

# Counts are those of a dict.
assert_type(pair.stats()["accepted"], Any)

# accelerate() gives back what it is given.
assert_type(torchpool.accelerate(Pair()), Pair)
