"""Dims by letters: what the letter of the rows must be."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from rows_sketch import Sketch

from torchpool.contract.rows.domain import CONST, Mixes, Order, Packed, Rows, Same
from torchpool.contract.rows.letters import at_right, by_letters, lead
from torchpool.contract.rows.op import Operand


def _operand(sketch: Sketch, claim: Any, *shape: Any) -> Operand:
    node = sketch.claimed(claim, *shape)
    return Operand(claim, node.meta["val"], node)


def test_leading_dims_are_broadcast_from_the_right() -> None:
    sketch = Sketch()
    assert lead(-1) == lead(0) == []
    assert lead(3)[1:] == lead(2)
    scalar, matrix = _operand(sketch, CONST), _operand(sketch, CONST, 2, 3)
    assert list(at_right("abc", scalar)) == []
    assert list(at_right("abc", matrix)) == ["b", "c"]


def test_the_letter_of_the_rows_is_where_they_are_in_the_result() -> None:
    sketch = Sketch()
    rows = _operand(sketch, Rows(1, 2, 3), 4, sketch.batch * 6)
    shared = _operand(sketch, CONST, 4)
    assert by_letters([(rows, "ab"), (shared, "a")], "bca", "sums over") == Rows(0, 2, 3)
    assert by_letters([(shared, "a")], "a", "sums over") == CONST


@pytest.mark.parametrize(
    ("claim", "letters", "why"),
    [
        (Rows(0), "bc", "sums over the rows"),
        (Rows(0), "ca", "each row meets each other row"),
        (Rows(0, 2), "ac", "rows in dim 0 meet rows in dim 0, 2 x rows x 1"),
        (CONST, "ac", "a constant has 3 entries along the rows"),
    ],
)
def test_rows_are_along_one_letter_of_the_result(claim: Any, letters: str, why: str) -> None:
    sketch = Sketch()
    rows = _operand(sketch, Rows(0), sketch.batch, 4)
    other = _operand(sketch, claim, 3, 4)
    with pytest.raises(Mixes) as refused:
        by_letters([(rows, "ad"), (other, letters)], "acd", "sums over")
    assert str(refused.value) == why


def test_a_constant_of_one_entry_and_entries_that_are_the_same_go_with_any_rows() -> None:
    sketch = Sketch()
    rows = _operand(sketch, Rows(0, inner=2), sketch.batch * 2, 4)
    single = _operand(sketch, CONST, 1, 4)
    same = _operand(sketch, Same(0, 2), sketch.batch * 2, 4)
    assert by_letters([(same, "ad"), (rows, "ad"), (single, "ad")], "ad", "sums over") == Rows(0, inner=2)


def test_a_list_of_rows_goes_only_with_itself() -> None:
    sketch = Sketch()
    keys = sketch.rows(dtype=torch.int64)
    values = Packed(0, Order(keys, keys, Rows(0)), Rows(0))
    listed = _operand(sketch, values, sketch.batch, 4)
    assert by_letters([(listed, "ad"), (listed, "ae")], "dea", "sums over") == values.at(2)
    places = _operand(sketch, dataclasses.replace(values, role="index"), sketch.batch, 4)
    with pytest.raises(Mixes, match="places in a list of all rows"):
        by_letters([(places, "ad")], "ad", "sums over")
