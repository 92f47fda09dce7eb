"""What pointwise operators make of the entries at padded places."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pads_sketch import PadSketch
from rows_sketch import aten

from torchpool.contract.pads.domain import Fill, Kept
from torchpool.contract.pads.fills import low_enough

INFINITE = -math.inf
LOW = Fill(-2e9, about=True)
MAY_BE_NAN = Fill(2.0, unless_nan=True)


def fill_of(found: Any) -> Fill | None:
    [pad] = found.pads
    fill: Fill | None = pad.fill
    return fill


def test_what_gets_no_weight_depends_on_the_dtype() -> None:
    assert [low_enough(-1e9, dtype) for dtype in (torch.float32, torch.float16)] == [True, True]
    assert [low_enough(-65504.0, dtype) for dtype in (torch.float32, torch.float16)] == [False, True]
    assert [low_enough(-30000.0, dtype) for dtype in (torch.float32, torch.float16)] == [False, False]


@pytest.mark.parametrize(
    ("target", "fill", "more", "found"),
    [
        (aten.exp.default, LOW, (), None),
        (aten.neg.default, MAY_BE_NAN, (), Fill(-2.0, unless_nan=True)),
        (aten.eq.Scalar, MAY_BE_NAN, (2.0,), None),  # NaN equals nothing
        (aten.nan_to_num.default, MAY_BE_NAN, (), None),  # NaN becomes 0
        (aten.nan_to_num.default, MAY_BE_NAN, (2.0,), Fill(2.0)),
        (aten.nan_to_num.default, Fill(0.0, unless_nan=True), (), Fill(0.0)),
        (aten.nan_to_num.default, Fill(1.0), (), Fill(1.0)),
        (aten.log.default, Fill(-1.0), (), None),  # NaN
        (aten.mul.Tensor, Fill(1.0), (2j,), None),
        (aten.bitwise_or.Scalar, Fill(1), (2,), Fill(3)),
        (aten.add.Tensor, LOW, (1.0,), Fill(-2e9, about=True)),
        (aten.rsub.Scalar, LOW, (1.0,), None),
    ],
)
def test_what_is_computed_of_a_constant(target: Any, fill: Fill, more: Any, found: Fill | None) -> None:
    sketch = PadSketch()
    dtype = torch.long if isinstance(fill.value, int) else torch.float32
    holes = frozenset([1]) if fill.unless_nan else frozenset[int]()
    x = sketch.places(2, "L", fill=fill, dtype=dtype, odd="nan" if fill.unless_nan else "finite", holes=holes)
    result = fill_of(sketch.claim(target, x, *more))
    assert (result is None) is (found is None)
    if found is not None and result is not None:
        assert (result.about, result.unless_nan) == (found.about, found.unless_nan)
        assert result.value == pytest.approx(found.value, rel=1e-6)


def test_of_several_operands_all_must_be_known() -> None:
    sketch = PadSketch()
    zeros, any_place, low = (sketch.places(2, "L", fill=fill) for fill in (0.0, None, LOW))
    assert fill_of(sketch.claim(aten.maximum.default, zeros, any_place)) is None
    assert fill_of(sketch.claim(aten.maximum.default, zeros, low)) is None
    assert fill_of(sketch.claim(aten.mul.Tensor, low, any_place)) is None
    assert fill_of(sketch.claim(aten.sub.Tensor, any_place, low)) is None
    assert fill_of(sketch.claim(aten.add.Tensor, low, 1.0, alpha=2)) is None
    length = sketch.add(aten.sym_size.int, zeros, 1)
    assert "computes with the length" in sketch.lost(aten.add.Tensor, zeros, length)


def test_a_mask_that_may_be_nan_or_about_something_decides_nothing() -> None:
    sketch = PadSketch()
    x = sketch.places(2, "L", fill=7.0)
    for fill in (Fill(0.0, about=True), Fill(0.0, unless_nan=True)):
        mask = sketch.places(2, "L", fill=fill, dtype=torch.bool)
        assert fill_of(sketch.claim(aten.masked_fill.Scalar, x, mask, 1.0)) is None
        assert fill_of(sketch.claim(aten.logical_and.default, x, mask)) is None


def test_of_moved_dims_a_ramp_keeps_those_that_stay() -> None:
    sketch = PadSketch()
    places = sketch.add(aten.arange.default, sketch.add(aten.sym_size.int, sketch.places(2, "L"), 1))
    ramp = sketch.of(places).ramp
    assert ramp is not None
    assert sketch.of(places).moved({0: 2}).ramp.factors == ((2, 1),)
    assert sketch.of(places).moved({}).ramp is None
    assert Kept().moved({}).ramp is None
