"""Sizes as expressions."""

from __future__ import annotations

import sympy
import torch
from rows_sketch import Sketch

from torchpool.contract.rows.sizes import equal, from_values, holds, size_of, whole


def test_divisions_without_a_rest_are_taken_out() -> None:
    sketch = Sketch()
    batch, length = sketch.batch, sketch.length(5)
    rows = batch.node.expr
    assert size_of(batch * length // length) == rows
    assert size_of((batch * length + length - 1) // length) == rows, "rounded up"
    assert size_of(batch * 4 // 4) == rows
    assert size_of((batch * 4 + 3) // 4) == rows, "rounded up"
    assert size_of((batch * 12 + 3) // 4) == 3 * rows
    half = size_of((batch + 1) // 2)
    assert half != rows
    assert holds(half, rows)


def test_numbers_and_expressions_are_sizes() -> None:
    rows = Sketch().batch.node.expr
    assert size_of(3) == 3
    assert size_of(rows * 2) == 2 * rows
    assert equal(3, sympy.Integer(3))
    assert not equal(rows, 3)


def test_whole_quotients() -> None:
    rows = Sketch().batch.node.expr
    assert whole(rows * 6 / 3) == 2 * rows
    assert whole(rows) == rows
    assert whole(6) == 6
    assert whole(rows / 2) is None
    assert whole(2 / rows) is None
    assert whole(sympy.Rational(1, 2)) is None
    assert whole(1 / 2) is None
    assert whole(2.0) is None


def test_numbers_hold_no_size() -> None:
    rows = Sketch().batch.node.expr
    assert not holds(torch.float32, rows)
    assert from_values(torch.float32) == frozenset()
