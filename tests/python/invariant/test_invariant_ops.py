"""The operators that an invariant graph runs for all rows at once: a row has the bits that it has alone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from invariant_support import rows_that_differ
from support import draw
from torch import Tensor

import torchpool  # noqa: F401  # registers its kernels
from torchpool.capture.invariant import ONCE_ROUNDED, SAME_LANES, SAME_ROWS

Op = Callable[[Tensor], Tensor]
_ROWS = (2, 3, 7, 17)
_SIZES = range(1, 71)

_LANES: dict[str, Op] = {
    "cos": torch.cos,
    "erf": torch.erf,
    "exp": torch.exp,
    "expm1": torch.expm1,
    "log": lambda x: x.abs().log(),
    "log1p": lambda x: x.abs().log1p(),
    "log2": lambda x: x.abs().log2(),
    "rsqrt": lambda x: x.abs().rsqrt(),
    "sin": torch.sin,
    "tanh": torch.tanh,
}
_OF_ROWS: dict[str, Op] = {
    "layer_norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "log_softmax": lambda x: x.log_softmax(-1),
    "softmax": lambda x: x.masked_fill(x > 1, float("-inf")).softmax(-1),
}
_ONCE: dict[str, Op] = {
    "abs": torch.abs,
    "add": lambda x: x + x.flip(-1),
    "all": lambda x: (x > 0).all(-1),
    "any": lambda x: (x > 1).any(-1),
    "ceil": torch.ceil,
    "clamp": lambda x: x.clamp(-0.5, 0.5),
    "clamp_max": lambda x: x.clamp_max(0.3),
    "clamp_min": lambda x: x.clamp_min(0.3),
    "div": lambda x: x / x.flip(-1),
    "eq": lambda x: x == x.flip(-1),
    "floor": torch.floor,
    "ge": lambda x: x >= 0,
    "gt": lambda x: x > 0,
    "hardtanh": F.hardtanh,
    "isfinite": torch.isfinite,
    "isinf": torch.isinf,
    "isnan": torch.isnan,
    "le": lambda x: x <= 0,
    "leaky_relu": F.leaky_relu,
    "lt": lambda x: x < 0,
    "max_pool1d": lambda x: F.max_pool1d(x.view(len(x), 1, -1), 2, 1, 1),
    "max_pool2d": lambda x: F.max_pool2d(x.view(len(x), 1, 1, -1).contiguous(), (1, 2), 1, (0, 1)),
    "maximum": lambda x: torch.maximum(x, x.flip(-1)),
    "minimum": lambda x: torch.minimum(x, x.flip(-1)),
    "mul": lambda x: x * x.flip(-1),
    "ne": lambda x: x != 0,
    "neg": torch.neg,
    "reciprocal": torch.reciprocal,
    "relu": torch.relu,
    "relu6": F.relu6,
    "round": torch.round,
    "rsub": lambda x: 1.7 - x,
    "sign": torch.sign,
    "sqrt": lambda x: x.abs().sqrt(),
    "square": torch.square,
    "sub": lambda x: x - x.flip(-1),
    "trunc": torch.trunc,
}
_ALL = _LANES | _OF_ROWS | _ONCE


def test_all_that_runs_at_once_is_compared_here() -> None:
    assert set(_LANES) == SAME_LANES
    assert set(_OF_ROWS) == SAME_ROWS
    assert set(_ONCE) == ONCE_ROUNDED


def found_to_differ(op: Op) -> int:
    """Over widths of 1 to 70, and one that many threads share."""
    count = 0
    for size in _SIZES:
        for rows in _ROWS:
            count += rows_that_differ(op, 3 * draw(rows, size, seed=size))
    for size in (31, 64, 70):
        count += rows_that_differ(op, draw(70, size))
    return count + rows_that_differ(op, draw(3, 40_003), threads=4)


@pytest.mark.parametrize("name", sorted(_ALL))
def test_a_row_has_the_bits_that_it_has_alone(name: str) -> None:
    assert found_to_differ(_ALL[name]) == 0


_WEIGHT = draw(70, 33, seed=99)


@pytest.mark.parametrize(
    "op",
    [
        pytest.param(lambda x: x @ _WEIGHT[: x.shape[1]], id="mm"),
        pytest.param(torch.sigmoid, id="sigmoid"),
        pytest.param(lambda x: F.gelu(x, approximate="tanh"), id="gelu"),
        pytest.param(F.silu, id="silu"),
    ],
)
def test_the_comparison_sees_what_differs(op: Op) -> None:
    """These are what the mode is for."""
    count = 0
    for size in _SIZES:
        count += sum(rows_that_differ(op, 3 * draw(rows, size, seed=size)) for rows in _ROWS)
    assert count > 0


@pytest.mark.parametrize("outputs", [1, 3, 16, 33, 70])
@pytest.mark.parametrize("activation", ["none", "gelu"])
def test_own_linear_layers_do_so_at_all_widths(outputs: int, activation: str) -> None:
    for size in _SIZES:
        weight, bias = draw(outputs, size, seed=1), draw(outputs, seed=2)
        packed = torch.ops.torchpool.pack_linear(weight, bias)

        def layer(x: Tensor) -> Tensor:
            found: Tensor = torch.ops.torchpool.linear(x, packed, outputs, activation=activation)  # noqa: B023
            return found

        assert sum(rows_that_differ(layer, draw(rows, size, seed=size)) for rows in (2, 5, 70)) == 0
    assert rows_that_differ(layer, draw(300, size), threads=2) == 0


@pytest.mark.parametrize(
    ("kind", "states"), [("lstm", 2), ("gru", 1), ("rnn_tanh", 1)], ids=["lstm", "gru", "rnn_tanh"]
)
@pytest.mark.parametrize("hidden", [1, 7, 20, 33, 70])
def test_own_recurrent_layers_do_so_at_all_sizes(kind: str, states: int, hidden: int) -> None:
    gates = {"lstm": 4, "gru": 3, "rnn_tanh": 1}[kind] * hidden
    sizes = [(gates, 10), (gates, hidden), (gates,), (gates,), (gates, hidden), (gates, hidden), (gates,), (gates,)]
    weights = [0.3 * draw(*shape, seed=seed) for seed, shape in enumerate(sizes)]
    packed = torch.ops.torchpool.pack_rnn(weights, kind, True, 2, False)

    def layer(x: Tensor) -> Tensor:
        found = torch.ops.torchpool.rnn(x, None, None, packed, None, kind, hidden, 2, False, True, True)
        last = [state.transpose(0, 1).flatten(1) for state in found[1 : 1 + states]]
        return torch.cat([found[0].flatten(1), *last], 1)

    for rows in (2, 3, 5, 6, 7, 12, 24, 25, 70):
        assert rows_that_differ(layer, draw(rows, 9, 10, seed=rows)) == 0
