"""What is seen of changed contents of weights. Raw writes are seen where they touch a sample of a tensor."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import build, draw
from torch import nn

from torchpool._core import WeightWatch


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(4, 40), nn.BatchNorm1d(40), nn.Linear(40, 40)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(self.first(x)))


def nothing(net: Any) -> None:
    pass


def step(make: Callable[[Any], torch.optim.Optimizer]) -> Callable[[Any], None]:
    def run(net: Any) -> None:
        optimizer = make(net.parameters())
        net(draw(5, 4)).sum().backward()
        optimizer.step()

    return run


def in_place(net: Any) -> None:
    with torch.no_grad():
        net.last.weight[2].mul_(2)


def through_numpy(net: Any) -> None:
    net.last.weight.detach().numpy()[:] *= 2  # of a raw write only what touches a sample is seen: here all does


def running_statistics(net: Any) -> None:
    net.norm.train()(draw(8, 40))
    net.norm.eval()


def set_data(net: Any) -> None:
    net.last.weight.data = torch.ones(40, 40)


def vector(net: Any) -> None:
    weights = list(net.parameters())
    nn.utils.vector_to_parameters(nn.utils.parameters_to_vector(weights) + 1, weights)


@pytest.mark.parametrize(
    ("act", "expected"),
    [
        (nothing, "same"),
        (lambda net: net(draw(3, 4)), "same"),
        (lambda net: net.share_memory(), "same"),
        (lambda net: net.to("cpu"), "same"),
        (lambda net: net.requires_grad_(False), "same"),
        (lambda net: net.load_state_dict(net.state_dict()), "values"),  # written, though with what was there
        (in_place, "values"),
        (running_statistics, "values"),
        (step(lambda p: torch.optim.SGD(p, lr=0.1)), "values"),
        (step(lambda p: torch.optim.SGD(p, lr=0.1, fused=True)), "values"),
        (step(lambda p: torch.optim.AdamW(p, lr=0.1, foreach=True)), "values"),
        (step(lambda p: torch.optim.AdamW(p, lr=0.1, fused=True)), "values"),
        (lambda net: net.last.weight.data.add_(1), "values"),
        (set_data, "values"),
        (vector, "values"),
        (through_numpy, "values"),
        (lambda net: net.double(), "meta"),
        (lambda net: net.to(torch.bfloat16), "meta"),
        (lambda net: setattr(net.last.weight, "data", net.last.weight.data.t()), "meta"),
    ],
)
def test_changed_weights_are_seen(act: Any, expected: str) -> None:
    net = build(Net)
    watch = WeightWatch([*net.parameters(), *net.buffers()])
    assert watch.look() == "same"
    act(net)
    assert watch.look() == expected


def test_weights_of_an_inference_tensor_are_watched_by_samples() -> None:
    with torch.inference_mode():
        model: Any = build(lambda: nn.Linear(4, 4))
    watch = WeightWatch(list(model.parameters()))
    assert watch.look() == "same"
    with torch.inference_mode():
        model.weight.mul_(2)
    assert watch.look() == "values"


def test_a_raw_write_between_the_samples_leaves_no_trace() -> None:
    weight = torch.zeros(1 << 16)
    watch = WeightWatch([weight])
    seen = 0
    for part in weight.numpy().reshape(-1, 256):
        part[:] = 1
        seen += watch.look() == "values"
        part[:] = 0
    assert watch.look() == "same"
    assert 2 <= seen <= 4, "of 256 parts, those that hold a sample"
