"""Digits, an image at a time: a network of two convolutions under a pool of four threads."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import torchpool
from benchmarks.harness.data import digit_images
from benchmarks.harness.models import build
from benchmarks.listings.listing import ITEMS_TO_LEARN, Listing

THREADS = 4


class Net(nn.Module):
    """Images [B, 1, 28, 28] to log-probabilities [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(1, 10, 5), nn.Conv2d(10, 20, 5)
        self.drop = nn.Dropout2d()
        self.fc1, self.fc2 = nn.Linear(320, 50), nn.Linear(50, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(F.max_pool2d(self.conv1(x), 2))
        x = F.relu(F.max_pool2d(self.drop(self.conv2(x)), 2))
        x = F.relu(self.fc1(x.view(-1, 320)))
        return F.log_softmax(self.fc2(F.dropout(x, training=self.training)), dim=1)


def _loop(model: nn.Module, executor: Any) -> Callable[[], list[int]]:
    images = digit_images()

    def classify(image: Tensor) -> int:
        with torch.no_grad():
            return int(model(image).argmax(dim=1).item())

    def run(count: int | None = None) -> list[int]:
        with executor(max_workers=THREADS) as pool:
            return list(pool.map(classify, images[:count]))

    return run


def before() -> Callable[[], list[int]]:
    return _loop(build(Net), concurrent.futures.ThreadPoolExecutor)


def _accelerated(executor: Any) -> Callable[[], list[int]]:
    model = torchpool.accelerate(build(Net))
    run: Any = _loop(model, executor)
    run(ITEMS_TO_LEARN)
    torchpool.predictor_of(model).ready(60)
    return run


def one_line() -> Callable[[], list[int]]:
    return _accelerated(concurrent.futures.ThreadPoolExecutor)


def best() -> Callable[[], list[int]]:
    return _accelerated(torchpool.ThreadPoolExecutor)


def mapped() -> Callable[[], list[int]]:
    """The same by the predictor's map."""
    predict = torchpool.wrap(build(Net).requires_grad_(False))
    images = digit_images()
    list(predict.map(images[:ITEMS_TO_LEARN]))
    predict.ready(60)
    return lambda: [int(output.argmax(dim=1).item()) for output in predict.map(images)]


LISTING = Listing(
    "cnn", "CNN of two convolutions, 1,000 digits of 1x1x28x28", 1_000,
    {"before": before, "one line": one_line, "best": best, "map": mapped},
)  # fmt: skip
