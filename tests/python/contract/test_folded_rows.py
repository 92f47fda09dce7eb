"""Outputs that fold rows with other dims: which fold numbers leave, and what of it a contract says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import draw
from torch.nn import functional as F

from torchpool.contract import Contract
from torchpool.contract.contract import Trim
from torchpool.contract.probe import find, probe

Function = Callable[[torch.Tensor], torch.Tensor]


def contract_of(function: Function, *shape: int) -> Contract:
    return probe(lambda leaves: function(*leaves), [[draw(*shape)]], ["x"])


@pytest.mark.parametrize(
    ("function", "dim", "outer", "inner"),
    [
        (lambda x: x.reshape(-1, 3), 0, 1, None),  # tokens of a row, one behind the other
        (lambda x: x.transpose(0, 1).reshape(-1, 3), 0, None, 1),  # time-major
        (lambda x: torch.cat([x, -x]), 0, None, 1),
        (lambda x: x.unflatten(1, (2, -1)).transpose(0, 1).reshape(-1, 3), 0, None, 2),
        (lambda x: x.movedim(0, 1).reshape(4, -1), 1, 1, None),
        (lambda x: x * 2, 0, 1, 1),
    ],
)
def test_the_fold_of_an_output(function: Function, dim: int, outer: int | None, inner: int | None) -> None:
    [output] = contract_of(function, 1, 4, 3).outputs
    assert (output.batch_dim, output.outer, output.inner) == (dim, outer, inner)


def test_calls_of_several_rows() -> None:
    [output] = contract_of(lambda x: x.transpose(0, 1).reshape(-1, 3), 2, 4, 3).outputs
    assert (output.outer, output.inner) == (None, 1)


def test_rows_that_meet_in_a_fold() -> None:
    contract = contract_of(lambda x: (x.flatten(1).softmax(1) - x.mean()).reshape(-1, 3), 1, 4, 3)
    assert contract.mode == "alone"


@pytest.mark.parametrize(
    ("function", "trim"),
    [
        (lambda x: x.reshape(-1, 3), Trim(0, "s0", 1, 0)),
        (lambda x: x.transpose(0, 1).reshape(-1, 3), Trim(0, "s0", 1, 0)),
        (lambda x: x.repeat_interleave(2, 1).reshape(-1, 3), Trim(0, "s0", 2, 0)),
        (lambda x: F.pad(x, (0, 0, 0, 1)).reshape(-1, 3), Trim(0, "s0", 1, 1)),
        (lambda x: x.movedim(2, 0).reshape(3, -1), Trim(1, "s0", 1, 0)),
    ],
)
def test_padding_is_cut_off_within_a_fold(function: Function, trim: Trim) -> None:
    calls = [[draw(1, length, 3)] for length in (4, 6)]
    contract = probe(lambda leaves: function(*leaves), calls, ["x"], pad={"x": 0})
    assert contract.padded == {"s0"}
    assert contract.outputs[0].trims == (trim,)
    assert Contract.from_dict(contract.to_dict()) == contract


def test_lengths_that_follow_no_formula_in_a_fold_are_not_padded() -> None:
    calls = [[draw(1, length, 3)] for length in (4, 6)]
    contract = probe(lambda leaves: leaves[0][:, ::2].reshape(-1, 3), calls, ["x"], pad={"x": 0})
    assert contract.padded == frozenset()
    assert contract.reason is not None
    assert "no exact multiple" in contract.reason


def test_a_fold_is_saved() -> None:
    contract = contract_of(lambda x: x.reshape(-1, 3), 1, 4, 3)
    assert Contract.from_dict(contract.to_dict()) == contract


@pytest.mark.parametrize(
    ("function", "rows"),
    [(lambda x: x - x.max(), 1), (lambda x: x.softmax(1) - x.mean(0, keepdim=True), 4), (lambda x: x.sum(), 1)],
)
def test_what_numbers_refute_may_be_lifted(function: Function, rows: int) -> None:
    """The layout by which the model runs at all is kept for a graph in which rows do not meet."""
    found = find(lambda leaves: function(*leaves), [[draw(rows, 8)]], ["x"])
    assert found.contract.mode == "alone"
    assert found.candidate is not None
    assert (found.candidate.inputs[0].batch_dim, found.candidate.call_rows) == (0, rows)


def test_what_has_state_is_not_lifted() -> None:
    calls: list[int] = []

    def function(leaves: list[torch.Tensor]) -> torch.Tensor:
        calls.append(0)
        return leaves[0] - leaves[0].max() + len(calls)

    assert find(function, [[draw(1, 8)]], ["x"]).candidate is None
