"""Entries given out several times, as views."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import check, count, folded, listed, numbers, order, uniform

from torchpool.contract.rows.domain import All, Iota, Packed, Rows, Same, Uniform

CUT = "mixes: a reshape cuts through rows"


@pytest.mark.parametrize(
    ("make", "sizes", "expected"),
    [
        (lambda s: s.rows(1), lambda b: [-1, 5], Rows(0)),
        (lambda s: s.rows(1), lambda b: [3, b, 5], Rows(1)),
        (lambda s: folded(s, 2, 3, 1), lambda b: [4, 6 * b, 5], Rows(1, 2, 3)),
        (lambda s: numbers(s, 1), lambda b: [-1, 5], Iota(0)),
        (lambda s: s.const(4), lambda b: [b, 4], Rows(0)),
        (lambda s: s.const(1, 4), lambda b: [b, 4], Rows(0)),
        (lambda s: s.const(4, 1), lambda b: [4, 3 * b], Same(1, 3)),
        (lambda s: s.const(1), lambda b: [b, b], Uniform()),
        (lambda s: s.const(), lambda b: [b, 2 * b], Uniform()),
        (
            lambda s: s.const(3, 1, 1),
            lambda b: [3, b, b],
            "mixes: a constant of several entries is expanded to the number of rows in 2 dims",
        ),
        (lambda s: uniform(s, 2 * s.batch), lambda b: [3, 2 * b], Uniform()),
    ],
)
def test_expanded(make: Any, sizes: Any, expected: Any) -> None:
    sketch = Sketch()
    given = [size if isinstance(size, int) else count(sketch, size) for size in sizes(sketch.batch)]
    check(sketch.claim(aten.expand.default, make(sketch), given), expected)
    check(sketch.claim(aten.broadcast_to.default, make(sketch), given), expected)


def test_expanded_as_another_value() -> None:
    sketch = Sketch()
    spoiled = sketch.claimed(All("x"), sketch.batch, 4)
    assert sketch.claim(aten.expand_as.default, sketch.const(4), spoiled) == Rows(0)
    assert sketch.claim(aten.expand_as.default, sketch.rows(1), spoiled) == Rows(0)
    by = order(sketch)
    assert sketch.claim(aten.expand.default, listed(sketch, by, 1), [3, -1, 4]) == Packed(1, by, by.rows)


def test_broadcast() -> None:
    sketch = Sketch()
    given = [sketch.rows(4), sketch.const(3, 1, 1), sketch.const(4)]
    assert sketch.claim(aten.broadcast_tensors.default, given) == [Rows(1)] * 3
    found = sketch.refusal(aten.broadcast_tensors.default, [sketch.rows(1), sketch.rows(1, dim=1)])
    assert found == "mixes: rows along dim 0 meet rows along dim 1"


@pytest.mark.parametrize(
    ("make", "indexing", "expected"),
    [
        (lambda s: [s.rows(), s.const(3)], "ij", [Rows(0), Rows(0)]),
        (lambda s: [s.rows(), s.const(3)], "xy", [Rows(1), Rows(1)]),
        (lambda s: [s.const(3), s.rows(), s.const(4)], "ij", [Rows(1)] * 3),
        (lambda s: [s.const(3), s.rows(), s.const(4)], "xy", [Rows(0)] * 3),
        (lambda s: [s.const(3), s.const(4), s.rows()], "xy", [Rows(2)] * 3),
        (lambda s: [s.rows()], "xy", [Rows(0)]),
        (lambda s: [s.const(3, dtype=torch.int64), numbers(s)], "ij", [Rows(1), Iota(1)]),
        (lambda s: [s.const(3), folded(s, 2, 3)], "ij", [Rows(1, 2, 3)] * 2),
    ],
)
def test_grids(make: Any, indexing: str, expected: Any) -> None:
    sketch = Sketch()
    assert sketch.claim(aten.meshgrid.indexing, make(sketch), indexing=indexing) == expected


def test_a_grid_of_rows_and_rows_is_refused() -> None:
    sketch = Sketch()
    found = sketch.claim(aten.meshgrid.default, [sketch.rows(), sketch.rows()])
    assert all(isinstance(one, All) for one in found)
