"""Models whose first calls raise: what such a call wrote stays, as with the model by itself."""

from __future__ import annotations

import pytest
import torch
from support import assert_close, draw
from torch import nn

import torchpool


class Raises(nn.Module):
    """In its first runs."""

    def __init__(self, times: int, error: type[BaseException]) -> None:
        super().__init__()
        self.times, self.error, self.runs = times, error, 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.runs += 1
        self.count.add_(1)  # type: ignore[operator, union-attr]
        if self.runs <= self.times:
            raise self.error("not yet")
        return x * 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, RuntimeError])
@pytest.mark.parametrize("times", [1, 2])
def test_a_model_that_raises_at_first(times: int, error: type[BaseException]) -> None:
    model = Raises(times, error).eval()
    predict = torchpool.wrap(model)
    for number in range(times):
        with pytest.raises(error):
            predict(draw(1, 4))
        assert (model.runs, float(model.count)) == (number + 1, number + 1)  # type: ignore[arg-type]
    x = draw(1, 4)
    assert_close(predict(x), x * 2)
    assert (model.runs, float(model.count)) == (times + 1, times + 1)  # type: ignore[arg-type]
