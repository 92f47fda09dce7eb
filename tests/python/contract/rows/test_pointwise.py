"""Entries computed from the entries at their place, and copies."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import count, folded, listed, numbers, order, same, shaped_constant, uniform

from torchpool.contract.rows.domain import All, Ends, Iota, Packed, Rows, Same, Uniform
from torchpool.contract.rows.pointwise import is_pointwise

Case = Callable[[Sketch], Any]


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (lambda s: s.claim(aten.add.Tensor, s.rows(4), s.const(4)), Rows(0)),
        (lambda s: s.claim(aten.add.Tensor, s.rows(4), s.rows(3, 4, dim=1)), Rows(1)),
        (lambda s: s.claim(aten.add.Tensor, s.rows(4), s.const(1, 4)), Rows(0)),
        (lambda s: s.claim(aten.add.Tensor, s.const(3, 1, 1), s.rows(4)), Rows(1)),
        (lambda s: s.claim(aten.where.self, s.rows(4, dtype=torch.bool), s.rows(4), s.const()), Rows(0)),
        (lambda s: s.claim(aten.where.ScalarOther, s.rows(4, dtype=torch.bool), s.rows(4), 0.0), Rows(0)),
        (lambda s: s.claim(aten.masked_fill.Scalar, s.rows(4), s.rows(1, dtype=torch.bool), 0.0), Rows(0)),
        (lambda s: s.claim(aten.masked_fill.Tensor, s.rows(4), s.rows(1, dtype=torch.bool), s.const()), Rows(0)),
        (lambda s: s.claim(aten.lerp.Tensor, s.rows(4), s.rows(4), s.rows(1)), Rows(0)),
        (lambda s: s.claim(aten.addcmul.default, s.const(4), s.rows(4), s.rows(1)), Rows(0)),
        (lambda s: s.claim(aten.clamp.Tensor, s.rows(4), s.rows(1), None), Rows(0)),
        (lambda s: s.claim(aten.frexp.Tensor, s.rows(4)), [Rows(0), Rows(0)]),
        (lambda s: s.claim(aten.floor_divide.default, s.rows(4), 2), Rows(0)),
        (lambda s: s.claim(aten.hardswish.default, s.rows(4)), Rows(0)),
        (lambda s: s.claim(aten.add.Tensor, folded(s, 2, 3, 4), s.const(4)), Rows(0, 2, 3)),
        (lambda s: s.claim(aten.mul.Tensor, same(s, 2, 4), s.const(4)), Same(0, 2)),
        (lambda s: s.claim(aten.mul.Tensor, same(s, 2, 4), folded(s, 1, 2, 4)), Rows(0, 1, 2)),
        (lambda s: s.claim(aten.mul.Tensor, uniform(s, 2 * s.batch, 4), folded(s, 1, 2, 4)), Rows(0, 1, 2)),
    ],
)
def test_operands_of_one_layout_are_aligned_at_the_right(case: Case, expected: Any) -> None:
    assert case(Sketch()) == expected


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (lambda s: s.refusal(aten.add.Tensor, s.rows(1), s.rows(1, dim=1)), "rows along dim 0 meet rows along dim 1"),
        (
            lambda s: s.refusal(aten.add.Tensor, folded(s, 2, 1), folded(s, 1, 2)),
            "rows folded 2 x rows x 1 meet rows folded 1 x rows x 2",
        ),
        (
            lambda s: s.refusal(aten.add.Tensor, s.rows(4), shaped_constant(s, s.batch, 4)),
            "a constant has s26 entries along the rows",
        ),
        (
            lambda s: s.refusal(aten.where.default, s.rows(4, dtype=torch.bool)),
            "lists where a condition holds: how many places there are depends on all rows",
        ),
        (lambda s: s.refusal(aten.add.Tensor, s.rows(4), count(s)), "computes with the number of rows"),
    ],
)
def test_rows_that_meet_are_refused(case: Case, expected: str) -> None:
    assert case(Sketch()) == f"mixes: {expected}"


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (lambda s: s.claim(aten.add.Tensor, uniform(s, 2 * s.batch, 3), 1), Uniform()),
        (lambda s: s.claim(aten.add.Tensor, uniform(s, s.batch, s.batch), s.const(1, 1)), Uniform()),
        (lambda s: s.claim(aten.add.Tensor, uniform(s, 2 * s.batch, 3), s.const(3)), Same(0, 2)),
        (lambda s: s.claim(aten.add.Tensor, uniform(s, 2 * s.batch), s.const(4, 1)), Same(1, 2)),
        (lambda s: s.claim(aten.add.Tensor, uniform(s, s.batch, 3), s.const(3)), Rows(0)),
        (
            lambda s: s.refusal(aten.add.Tensor, uniform(s, s.batch, s.batch), s.const(4, 1, 1)),
            "mixes: a constant of several entries meets a value with the number of rows in dims [1, 2]",
        ),
        (
            lambda s: s.refusal(aten.add.Tensor, uniform(s, 2 * s.batch), shaped_constant(s, 2 * s.batch)),
            "mixes: a constant has 2*s26 entries along the rows",
        ),
    ],
)
def test_one_constant_everywhere_stays_so_only_with_one(case: Case, expected: Any) -> None:
    assert case(Sketch()) == expected


@pytest.mark.parametrize(
    ("target", "arguments", "kept"),
    [
        (aten.clone.default, (), True),
        (aten.contiguous.default, (), True),
        (aten.to.dtype, (torch.int32,), True),
        (aten.to.dtype, (torch.float32,), False),
        (aten.to.dtype, (torch.int8,), False),
        (aten._to_copy.default, (), True),
        (aten.add.Tensor, (1,), False),
        (aten.abs.default, (), False),
    ],
)
def test_the_number_of_the_row_is_only_copied(target: Any, arguments: Any, kept: bool) -> None:
    sketch = Sketch()
    found = sketch.claim(target, numbers(sketch, 4), *arguments)
    assert found == Iota(0) if kept else (found.kind, found.why) == ("mixes", "computes with the number of the row")


@pytest.mark.parametrize(
    ("target", "arguments", "kept"),
    [
        (aten.to.dtype, (torch.int32,), True),
        (aten.to.dtype, (torch.float32,), True),
        (aten.to.dtype, (torch.float64,), True),
        (aten.to.dtype, (torch.bfloat16,), False),
        (aten.to.dtype, (torch.int16,), False),
        (aten.neg.default, (), False),
    ],
)
def test_the_ends_of_groups_are_only_copied(target: Any, arguments: Any, kept: bool) -> None:
    sketch = Sketch()
    ends = Ends(order(sketch), "ends")
    found = sketch.claim(target, sketch.claimed(ends, 8, dtype=torch.int64), *arguments)
    assert found == ends if kept else found.why == "computes with the ends of groups of all rows"


def test_a_dtype_may_come_from_any_value() -> None:
    sketch = Sketch()
    spoiled = sketch.claimed(All("x"), 3, dtype=torch.float64)
    for target in (aten.to.other, aten.type_as.default):
        assert sketch.claim(target, sketch.rows(4), spoiled) == Rows(0)
        assert sketch.refusal(target, spoiled, spoiled) == "mixes: x"
    assert sketch.claim(aten.to.other, numbers(sketch), sketch.const(3, dtype=torch.int32)) == Iota(0)
    assert isinstance(sketch.claim(aten.to.other, numbers(sketch), spoiled), All)
    assert sketch.claim(aten.to.dtype, uniform(sketch, 2 * sketch.batch), torch.float64) == Uniform()


# Lists in an order that all rows decide.


def _list(sketch: Sketch, role: Any, inner: int = 1) -> tuple[Any, Packed]:
    by = order(sketch, inner)
    node = listed(sketch, by, role=role, dtype=torch.int64)
    return node, sketch.of(node)


@pytest.mark.parametrize(
    ("role", "dtype", "stays"),
    [
        ("value", torch.float16, True),
        ("sorted", torch.float32, True),
        ("sorted", torch.int16, False),
        ("sorted", torch.bool, False),
        ("index", torch.int32, True),
        ("index", torch.float32, None),
        ("index_part", torch.int64, True),
        ("index_part", torch.int16, None),
        ("inverse", torch.int32, True),
        ("inverse", torch.float64, None),
    ],
)
def test_a_list_is_copied(role: Any, dtype: torch.dtype, stays: bool | None) -> None:
    sketch = Sketch()
    node, held = _list(sketch, role)
    found = sketch.claim(aten._to_copy.default, node, dtype=dtype)
    if stays is None:
        assert found.why == "computes with places in a list of all rows"
    else:
        assert found == (held if stays else Packed(0, held.order, held.rows, "value"))


def test_lists_in_one_order_are_computed_with() -> None:
    sketch = Sketch()
    by = order(sketch)
    value = listed(sketch, by, 3)
    found = Packed(0, by, by.rows)
    assert sketch.claim(aten.mul.Tensor, value, listed(sketch, by, 1)) == found
    assert sketch.claim(aten.mul.Tensor, value, sketch.const(3)) == found
    assert sketch.claim(aten.mul.Tensor, value, uniform(sketch, sketch.batch, 1)) == found
    assert sketch.claim(aten.mul.Tensor, value, listed(sketch, by, 1, role="sorted")) == found
    assert sketch.claim(aten.mul.Tensor, sketch.const(4, 1, 1), value) == Packed(1, by, by.rows)


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (lambda s, by: s.rows(3), "a list in an order that all rows decide meets rows in their own order"),
        (lambda s, by: listed(s, order(s), 3), "entries of two lists of rows meet"),
        (lambda s, by: shaped_constant(s, s.batch, 3), "a constant has s26 entries along the rows"),
        (lambda s, by: listed(s, by, 3, role="index"), "computes with places in a list of all rows"),
    ],
)
def test_a_list_meets_only_values_in_its_order(other: Callable[[Sketch, Any], Any], expected: str) -> None:
    sketch = Sketch()
    by = order(sketch)
    value = listed(sketch, by, 3)
    assert sketch.refusal(aten.add.Tensor, value, other(sketch, by)) == f"mixes: {expected}"


@pytest.mark.parametrize(
    ("target", "by", "named", "part"),
    [
        (aten.floor_divide.default, 2, {}, 3),
        (aten.floor_divide.default, 6, {}, 1),
        (aten.div.Tensor_mode, 3, {"rounding_mode": "floor"}, 2),
        (aten.floor_divide.default, 4, {}, None),
        (aten.floor_divide.default, -2, {}, None),
        (aten.floor_divide.default, 2.0, {}, None),
        (aten.div.Tensor_mode, 3, {"rounding_mode": "trunc"}, None),
        (aten.div.Tensor, 3, {}, None),
        (aten.mul.Tensor, 2, {}, None),
    ],
)
def test_places_are_divided_down_to_those_of_rows(target: Any, by: Any, named: Any, part: int | None) -> None:
    sketch = Sketch()
    node, held = _list(sketch, "index", 6)
    found = sketch.claim(target, node, by, **named)
    if part is None:
        assert found.why == "computes with places in a list of all rows"
    else:
        assert found == Packed(0, held.order, Rows(0, 1, part), "index_part")


@pytest.mark.parametrize("role", ["index_part", "inverse"])
def test_other_places_are_not_divided(role: str) -> None:
    sketch = Sketch()
    node, _ = _list(sketch, role, 6)
    assert sketch.refusal(aten.floor_divide.default, node, 2) == "mixes: computes with places in a list of all rows"


def test_places_are_not_divided_by_what_only_values_say() -> None:
    sketch = Sketch()
    node, _ = _list(sketch, "index", 6)
    found = sketch.refusal(aten.floor_divide.default, node, sketch.const(dtype=torch.int64))
    assert found == "mixes: computes with places in a list of all rows"


def test_a_list_along_two_dims_is_refused() -> None:
    sketch = Sketch()
    by = order(sketch)
    value = listed(sketch, by, 1)
    lines = sketch.claimed(Packed(0, by, by.rows), sketch.batch)
    assert sketch.refusal(aten.add.Tensor, value, lines) == "mixes: entries of two lists of rows meet"


# In place.


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.fill_.Scalar, (0.0,)),
        (aten.zero_.default, ()),
        (aten.gt_.Scalar, (1.0,)),
        (aten.masked_fill_.Scalar, ("mask", 0.0)),
        (aten.copy_.default, ("rows",)),
        (aten.mul_.Tensor, ("line",)),
    ],
)
def test_rows_are_written_in_place(target: Any, arguments: Any) -> None:
    sketch = Sketch()
    given = {"mask": sketch.rows(1, dtype=torch.bool), "rows": sketch.rows(4), "line": sketch.const(4)}
    x = sketch.add(aten.clone.default, sketch.rows(4))
    assert sketch.claim(target, x, *(given.get(a, a) if isinstance(a, str) else a for a in arguments)) == Rows(0)
    assert sketch.of(x) == Rows(0)


def test_a_write_from_the_other_dim_spoils_rows() -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(4))
    assert sketch.refusal(aten.copy_.default, x, sketch.claimed(All("x"), 4)) == "mixes: x"
    assert isinstance(sketch.of(x), All)


@pytest.mark.parametrize(
    ("name", "target", "expected"),
    [
        ("add", aten.add.Tensor, True),
        ("add", aten.add_.Tensor, True),
        ("gt", aten.gt_.Scalar, True),  # only its functional form is tagged
        ("softsign", aten.alias.default, True),
        ("max", aten.max.other, True),
        ("max", aten.max.dim, False),
        ("where", aten.where.default, False),
        ("sum", aten.sum.default, False),
        ("equal", aten.equal.default, False),
        ("rrelu", aten.rrelu.default, False),
        ("mylib::add", torch.ops.quantized.add.default, False),
        ("prims::abs", torch.ops.prims.abs.default, False),
    ],
)
def test_what_is_pointwise(name: str, target: Any, expected: bool) -> None:
    assert is_pointwise(name, target) == expected
