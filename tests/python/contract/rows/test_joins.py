"""Values put together, or something around them."""

from __future__ import annotations

from typing import Any

import pytest
from rows_sketch import Sketch, aten
from rows_values import check, folded, listed, numbers, order, same, uniform

from torchpool.contract.rows.domain import Packed, Rows, Same

LAYOUTS = "mixes: joins rows of different layouts"
BLOCKS = "mixes: joins rows of different layouts, one behind the other"
CONSTANT = "mixes: a constant is joined to rows"
LIST = "mixes: joins a list in an order that all rows decide to something else"


@pytest.mark.parametrize(
    ("make", "dim", "expected"),
    [
        (lambda s: [s.rows(3), s.rows(4)], 1, Rows(0)),
        (lambda s: [s.rows(3, dim=1), s.rows(4, dim=1)], -2, Rows(1)),
        (lambda s: [folded(s, 2, 3, 1), folded(s, 2, 3, 2)], 1, Rows(0, 2, 3)),
        (lambda s: [folded(s, 2, 1, 1), folded(s, 1, 2, 2)], 1, LAYOUTS),
        (lambda s: [folded(s, 2, 1, 1), same(s, 2, 2)], 1, Rows(0, 2)),
        (lambda s: [same(s, 2, 2), folded(s, 1, 2, 1)], 1, Rows(0, 1, 2)),
        (lambda s: [same(s, 2, 2), same(s, 2, 1)], 1, Same(0, 2)),
        (lambda s: [folded(s, 1, 2, 1), uniform(s, 2 * s.batch, 2)], 1, Rows(0, 1, 2)),
        (lambda s: [uniform(s, 2 * s.batch, 2), uniform(s, 2 * s.batch, 1)], 1, Same(0, 2)),
        (lambda s: [s.rows(3), s.rows(3)], 0, Rows(0, 2)),
        (lambda s: [folded(s, 2, 3), folded(s, 1, 3), folded(s, 2, 3)], 0, Rows(0, 5, 3)),
        (lambda s: [folded(s, 2, 3), folded(s, 1, 2)], 0, BLOCKS),
        (lambda s: [folded(s, 2, 3), s.rows()], 0, BLOCKS),
        (lambda s: [same(s, 2), s.rows()], 0, Rows(0, 3)),
        (lambda s: [same(s, 6), folded(s, 1, 3)], 0, Rows(0, 3, 3)),
        (lambda s: [same(s, 2), folded(s, 1, 3)], 0, BLOCKS),
        (lambda s: [uniform(s, 2 * s.batch), s.rows()], 0, Rows(0, 3)),
        (lambda s: [uniform(s, 2 * s.batch), uniform(s, 3 * s.batch)], 0, Rows(0, 5)),
        (
            lambda s: [uniform(s, s.batch + 1), s.rows()],
            0,
            "mixes: a constant is repeated s26 + 1 times, which is no multiple of the number of rows",
        ),
        (
            lambda s: [uniform(s, s.batch, s.batch), uniform(s, s.batch, s.batch)],
            0,
            "mixes: joins constants, with the number of rows in 2 dims",
        ),
        (lambda s: [s.rows(0, dim=1), s.rows(0, dim=1)], 1, Rows(1, 2)),
        (lambda s: [s.rows(3), s.const(2, 3)], 0, CONSTANT),
        (lambda s: [s.const(2, 3), s.rows(3)], 0, CONSTANT),
        (lambda s: [s.const(0), s.rows(3)], 1, Rows(0)),
        (lambda s: [s.rows(), s.const(0)], 0, Rows(0)),
        (lambda s: [numbers(s), numbers(s)], 0, "mixes: computes with the number of the row"),
    ],
)
def test_joined(make: Any, dim: int, expected: Any) -> None:
    sketch = Sketch()
    tensors = make(sketch)
    for target in (aten.cat.default, aten.concat.default, aten.concatenate.default):
        check(sketch.claim(target, tensors, dim), expected)


def test_all_results_of_an_operator_joined() -> None:
    sketch = Sketch()
    halves = sketch.add(aten.split.Tensor, sketch.rows(4), 2, 1)
    assert sketch.claim(aten.cat.default, halves, 1) == Rows(0)
    assert sketch.claim(aten.cat.default, halves, 0) == Rows(0, 2)


def test_lists_joined() -> None:
    sketch = Sketch()
    by = order(sketch)
    value = listed(sketch, by, 3)
    assert sketch.claim(aten.cat.default, [value, listed(sketch, by, 2)], 1) == Packed(0, by, by.rows)
    assert sketch.claim(aten.cat.default, [value, listed(sketch, by, 2, role="sorted")], 1) == Packed(0, by, by.rows)
    assert sketch.claim(aten.stack.default, [value, value], 0) == Packed(1, by, by.rows)
    assert sketch.refusal(aten.cat.default, [value, value], 0) == LIST
    assert sketch.refusal(aten.cat.default, [value, listed(sketch, order(sketch), 3)], 1) == LIST
    assert sketch.refusal(aten.cat.default, [sketch.rows(3), value], 1) == LIST
    assert sketch.refusal(aten.cat.default, [value, sketch.rows(3)], 1) == LIST
    places = listed(sketch, by, 3, role="index")
    assert sketch.refusal(aten.cat.default, [places, places], 1) == "mixes: computes with places in a list of all rows"


@pytest.mark.parametrize(("dim", "place"), [(0, 2), (1, 2), (2, 1), (-1, 1), (-2, 1), (-3, 2), (3, 1)])
def test_stacked(dim: int, place: int) -> None:
    sketch = Sketch()
    assert sketch.claim(aten.stack.default, [sketch.rows(3, 4, dim=1)] * 2, dim) == Rows(place)


def test_stacked_in_other_ways() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.stack.default, [folded(sketch, 2, 3)] * 2, 1) == Rows(0, 2, 3)
    assert sketch.claim(aten.stack.default, [uniform(sketch, 2 * sketch.batch)] * 2, 0) == Same(1, 2)
    assert sketch.refusal(aten.stack.default, [folded(sketch, 2, 1), folded(sketch, 1, 2)]) == LAYOUTS
    assert sketch.claim(aten.hstack.default, [sketch.rows(), sketch.rows()]) == Rows(0, 2)
    assert sketch.claim(aten.hstack.default, [sketch.rows(3), sketch.rows(4)]) == Rows(0)
    assert sketch.claim(aten.hstack.default, [sketch.rows(3, dim=1), sketch.rows(3, dim=1)]) == Rows(1, 2)
    assert sketch.claim(aten.vstack.default, [sketch.rows(), sketch.rows()]) == Rows(1)
    assert sketch.claim(aten.vstack.default, [sketch.rows(), sketch.rows(3, dim=1)]) == Rows(1)
    assert sketch.claim(aten.vstack.default, [sketch.rows(3), sketch.rows(3)]) == Rows(0, 2)


PADS = "mixes: pads along the rows"


@pytest.mark.parametrize(
    ("target", "more"),
    [
        (aten.pad.default, ("constant", 0.0)),
        (aten.pad.default, ("replicate",)),
        (aten.constant_pad_nd.default, (0.0,)),
        (aten.reflection_pad1d.default, ()),
        (aten.replication_pad1d.default, ()),
    ],
)
def test_padded(target: Any, more: Any) -> None:
    sketch = Sketch()
    assert sketch.claim(target, sketch.rows(3, 4), [1, 2], *more) == Rows(0)
    assert sketch.claim(target, sketch.rows(3, 4, dim=1), [1, 2], *more) == Rows(1)
    for pads in ([1, 1], [1, 0], [0, 1]):
        assert sketch.refusal(target, sketch.rows(3, 4, dim=2), pads, *more) == PADS
    assert sketch.claim(target, sketch.rows(3, 4, dim=2), [0, 0], *more) == Rows(2)


def test_padded_along_several_dims() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.pad.default, sketch.rows(3, 4, dim=1), [1, 1, 0, 0, 2, 2]) == Rows(1)
    assert sketch.refusal(aten.pad.default, sketch.rows(3, 4, dim=1), [1, 1, 0, 2, 2, 2]) == PADS
    assert sketch.claim(aten.reflection_pad2d.default, sketch.rows(3, 4, 5), [1, 1, 1, 1]) == Rows(0)
    by = order(sketch)
    assert sketch.claim(aten.pad.default, listed(sketch, by, 3, role="sorted"), [1, 1]) == Packed(0, by, by.rows)
    assert sketch.refusal(aten.pad.default, listed(sketch, by, 3), [0, 0, 1, 1]) == PADS
    found = sketch.refusal(aten.pad.default, listed(sketch, by, 3, role="index"), [1, 1])
    assert found == "mixes: computes with places in a list of all rows"
