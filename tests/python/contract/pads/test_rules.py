"""What the rules of padding claim of the results of operators, and what they refuse."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pads_sketch import PadSketch, along
from rows_sketch import aten

from torchpool.contract.pads.domain import Fill, Kept, Pad, Ramp
from torchpool.contract.pads.registry import rules

INFINITE = -math.inf


def fills(claim: Any) -> list[Fill | None]:
    return [pad.fill for pad in claim.pads]


# --- pointwise --------------------------------------------------------------------------------------------------------


def test_padded_places_become_what_is_computed_for_them() -> None:
    sketch = PadSketch()
    mask, x = sketch.places(2, "L", fill=0.0), sketch.places(2, "L")
    assert fills(sketch.claim(aten.rsub.Scalar, mask, 1.0)) == [Fill(1.0)]
    assert fills(sketch.claim(aten.eq.Scalar, mask, 0)) == [Fill(True)]
    assert fills(sketch.claim(aten.mul.Tensor, x, mask)) == [Fill(0.0)]
    assert fills(sketch.claim(aten.add.Tensor, x, mask)) == [None]
    assert fills(sketch.claim(aten.exp.default, x)) == [None]


def test_a_mask_decides_what_padded_places_are() -> None:
    sketch = PadSketch()
    x, hidden = sketch.places(2, "L"), sketch.places(2, "L", fill=True, dtype=torch.bool)
    masked = sketch.claim(aten.masked_fill.Scalar, x, hidden, INFINITE)
    assert (fills(masked), masked.odd, masked.holes) == ([Fill(INFINITE)], "low", {1})
    assert fills(sketch.claim(aten.where.ScalarSelf, hidden, 2.0, x)) == [Fill(2.0)]
    unknown = sketch.places(2, "L", dtype=torch.bool)
    assert fills(sketch.claim(aten.__and__.Tensor, unknown, sketch.add(aten.logical_not.default, hidden))) == [
        Fill(False)
    ]
    assert fills(sketch.claim(aten.__or__.Tensor, unknown, hidden)) == [Fill(True)]


def test_zero_times_what_may_be_infinite_is_not_known() -> None:
    sketch = PadSketch()
    mask, x = sketch.places(2, "L", fill=0.0), sketch.places(2, "L")
    logarithm = sketch.add(aten.log.default, x)
    assert (sketch.of(logarithm).odd, sketch.of(logarithm).holes) == ("any", {1})
    assert fills(sketch.claim(aten.mul.Tensor, logarithm, mask)) == [None]
    square = sketch.add(aten.add.Tensor, sketch.add(aten.pow.Tensor_Scalar, x, 2), 1e-6)
    assert sketch.claim(aten.rsqrt.default, square).odd == "finite"


def test_infinite_masks_are_added_and_not_taken_from_each_other() -> None:
    sketch = PadSketch()
    low = sketch.places(2, "L", odd="low", holes=frozenset([1]))
    masked = sketch.places(2, "L", fill=INFINITE, odd="low", holes=frozenset([1]))
    assert fills(sketch.claim(aten.add.Tensor, low, masked)) == [Fill(INFINITE)]
    assert fills(sketch.claim(aten.sub.Tensor, masked, low)) == [None]


def test_places_of_two_dims_do_not_meet_in_one() -> None:
    sketch = PadSketch()
    x = sketch.places(2, "L")
    folded = sketch.add(aten.view.default, sketch.places("L", 2), [-1])
    flat = sketch.add(aten.view.default, x, [-1])
    assert "puts places of one dim beside others" in sketch.lost(aten.add.Tensor, flat, folded)


def test_what_is_computed_with_the_length_is_lost() -> None:
    sketch = PadSketch()
    x = sketch.places(2, "L")
    length = sketch.add(aten.sym_size.int, x, 1)
    assert "computes with the length" in sketch.lost(aten.mul.Tensor, x, length)


# --- places -----------------------------------------------------------------------------------------------------------


def test_places_that_are_compared() -> None:
    sketch = PadSketch()
    size = sketch.add(aten.sym_size.int, sketch.places(2, "L"), 1)
    numbers = sketch.add(aten.arange.default, size)
    assert sketch.of(numbers) == along(0, ramp=Ramp(((0, 1),)), least=0)
    line, column = sketch.add(aten.unsqueeze.default, numbers, 1), sketch.add(aten.unsqueeze.default, numbers, 0)
    assert fills(sketch.claim(aten.le.Tensor, column, line)) == [Fill(True), Fill(False)]
    assert fills(sketch.claim(aten.lt.Tensor, line, column)) == [Fill(False), Fill(True)]
    later = sketch.add(aten.add.Tensor, line, 1)
    assert fills(sketch.claim(aten.le.Tensor, column, later)) == [Fill(True), None]
    assert fills(sketch.claim(aten.lt.Tensor, column, later)) == [Fill(True), Fill(False)]
    apart = sketch.add(aten.sub.Tensor, line, column)
    assert fills(sketch.claim(aten.gt.Scalar, apart, -1)) == [Fill(True), Fill(False)]


def test_triangles() -> None:
    sketch = PadSketch()
    ones = sketch.places("L", "L", fill=1.0)
    assert fills(sketch.claim(aten.tril.default, ones)) == [Fill(1.0), Fill(0)]
    assert fills(sketch.claim(aten.tril.default, ones, 1)) == [Fill(1.0), None]
    assert fills(sketch.claim(aten.triu.default, ones, 1)) == [Fill(0), Fill(1.0)]


def test_numbers_that_depend_on_the_length_are_lost() -> None:
    sketch = PadSketch()
    size = sketch.add(aten.sym_size.int, sketch.places(2, "L"), 1)
    assert "filled with the length" in sketch.lost(aten.full.default, [2], size)
    assert "depend on the length" in sketch.lost(aten.arange.start_step, 0, size, 2)


# --- reductions, softmax ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "args", "fill"),
    [
        (aten.sum.dim_IntList, [[1]], 0.0),
        (aten.amax.default, [[1]], INFINITE),
        (aten.amin.default, [[1]], math.inf),
        (aten.prod.dim_int, [1], 1.0),
        (aten.any.dim, [1], 0.0),
        (aten.all.dim, [1], 1.0),
        (aten.count_nonzero.dim_IntList, [[1]], 0.0),
        (aten.logsumexp.default, [[1]], INFINITE),
        (aten.linalg_vector_norm.default, [2, [1]], 0.0),
    ],
)
def test_what_padded_places_hold_does_not_count(target: Any, args: list[Any], fill: float) -> None:
    sketch = PadSketch()
    assert sketch.claim(target, sketch.places(2, "L", fill=fill), *args).pads == ()
    counts = 0.0 if target is aten.all.dim else 0.25
    assert "counts padded places" in sketch.lost(target, sketch.places(2, "L", fill=counts), *args)
    assert "counts padded places" in sketch.lost(target, sketch.places(2, "L"), *args)
    assert sketch.claim(target, sketch.places("L", 2), *args).pads == (Pad(0),)


@pytest.mark.parametrize("target", [aten.mean.dim, aten.std.dim, aten.var.dim, aten.median.dim])
def test_what_counts_zeros_too_is_lost(target: Any) -> None:
    sketch = PadSketch()
    dims: Any = 1 if target is aten.median.dim else [1]
    assert "counts padded places" in sketch.lost(target, sketch.places(2, "L", fill=0.0), dims)


def test_the_largest_place_is_a_kept_one_where_padded_ones_are_least() -> None:
    sketch = PadSketch()
    assert sketch.claim(aten.argmax.default, sketch.places(2, "L", fill=0.0, least=0), 1).place == 0
    assert "counts padded places" in sketch.lost(aten.argmax.default, sketch.places(2, "L", fill=0.0), 1)
    assert "counts padded places" in sketch.lost(aten.argmin.default, sketch.places(2, "L", fill=0.0), 1)


def test_softmax_over_the_length() -> None:
    sketch = PadSketch()
    masked = sketch.places(2, "L", fill=INFINITE, odd="low", holes=frozenset([1]))
    assert sketch.claim(aten.softmax.int, masked, 1) == Kept(
        (Pad(1, fill=Fill(0.0, unless_nan=True)),), least=0, odd="nan"
    )
    assert sketch.proof.conditions == []
    assert "no mask makes their scores -inf" in sketch.lost(aten.softmax.int, sketch.places(2, "L"), 1)
    assert "have the score -10000.0" in sketch.lost(aten.softmax.int, sketch.places(2, "L", fill=-1e4), 1)
    assert sketch.claim(aten.softmax.int, sketch.places(2, "L", fill=Fill(-1e9, about=True)), 1).pads[0].fill == Fill(
        0.0
    )
    assert "masked all over" in sketch.proof.conditions[0][0]
    assert sketch.claim(aten.softmax.int, sketch.places(2, "L"), 0).pads == (Pad(1),)


def test_a_part_that_short_calls_do_not_have() -> None:
    sketch = PadSketch()
    masked = sketch.places(2, "L", fill=INFINITE, odd="low", holes=frozenset([1]))
    part = sketch.add(aten.slice.Tensor, masked, 1, 1)
    assert "have none left" in sketch.lost(aten.softmax.int, part, 1)


def test_attention() -> None:
    sketch = PadSketch()
    query = sketch.places(2, 3, "L", 8)
    seen = sketch.places(2, 1, 1, "L", fill=False, dtype=torch.bool)
    attention = aten.scaled_dot_product_attention.default
    assert sketch.claim(attention, query, query, query, seen) == along(2)
    assert sketch.claim(attention, query, query, query, None, 0.0, True) == along(2)
    assert "no mask makes" in sketch.lost(attention, query, query, query)
    wrong = sketch.places(2, 1, 1, "L", fill=True, dtype=torch.bool)
    assert "its mask is True there" in sketch.lost(attention, query, query, query, wrong)
    zeros = sketch.places(2, 1, 1, "L", fill=0.0)
    assert "its mask is 0.0 there" in sketch.lost(attention, query, query, query, zeros)
    odd = sketch.places(2, 3, "L", 8, odd="nan", holes=frozenset([2]))
    assert "infinite or NaN" in sketch.lost(attention, query, query, odd, seen)


# --- products ---------------------------------------------------------------------------------------------------------


def test_products() -> None:
    sketch = PadSketch()
    left, right = sketch.places(2, "L", 4), sketch.places(2, 4, "L")
    assert sketch.claim(aten.matmul.default, left, right) == along(1, 2)
    assert "no factor is 0" in sketch.lost(aten.matmul.default, right, left)
    zero = sketch.places(2, 4, "L", fill=0.0)
    assert sketch.claim(aten.matmul.default, zero, left) == Kept()
    odd = sketch.places(2, "L", 4, odd="any", holes=frozenset([1]))
    assert "infinite or NaN" in sketch.lost(aten.matmul.default, zero, odd)
    either = sketch.places(2, 4, "L", fill=Fill(0.0, unless_nan=True), odd="nan", holes=frozenset([2]))
    assert "no factor is 0" in sketch.lost(aten.matmul.default, either, left)


def test_linear_layers() -> None:
    sketch = PadSketch()
    x, weight, bias = sketch.places(2, "L", 4, fill=0.0), sketch.const(3, 4), sketch.const(3)
    assert sketch.claim(aten.linear.default, x, weight) == along(1, fill=0)
    assert sketch.claim(aten.linear.default, x, weight, bias) == along(1)


# --- shapes -----------------------------------------------------------------------------------------------------------


def test_reshapes() -> None:
    sketch = PadSketch()
    x = sketch.places(2, "L", 6, fill=0.0)
    flat = sketch.add(aten.view.default, x, [-1, 6])
    assert sketch.of(flat) == Kept((Pad(0, 2, 1, fill=Fill(0.0)),))
    assert sketch.claim(aten.view.default, flat, [2, -1, 2, 3]) == along(1, fill=0.0)
    first = sketch.add(aten.transpose.int, x, 0, 1)
    assert sketch.of(first) == along(0, fill=0.0)
    assert sketch.claim(aten.reshape.default, first, [-1, 12]) == along(0, fill=0.0)
    assert "cuts through" in sketch.lost(aten.view.default, flat, [-1, 12])
    square = sketch.places(2, "L", "L")
    assert "merges two dims" in sketch.lost(aten.view.default, square, [2, -1])


def test_parts() -> None:
    sketch = PadSketch()
    x = sketch.places(2, "L", 4, fill=0.0)
    assert sketch.claim(aten.select.int, x, 1, 0) == Kept()
    assert "last place" in sketch.lost(aten.select.int, x, 1, -1)
    assert "shorter calls" in sketch.lost(aten.select.int, x, 1, 2)
    assert sketch.claim(aten.slice.Tensor, x, 1, 1) == Kept((Pad(1, extra=-1, fill=Fill(0.0)),))
    assert sketch.claim(aten.slice.Tensor, x, 1, 0, -1) == Kept((Pad(1, extra=-1),))
    assert "counted from the end" in sketch.lost(aten.slice.Tensor, x, 1, -2)
    assert "every so many" in sketch.lost(aten.slice.Tensor, x, 1, 0, 9223372036854775807, 2)
    table = sketch.const(2, 64)
    assert sketch.claim(aten.slice.Tensor, table, 1, 0, sketch.add(aten.sym_size.int, x, 1)) == along(1)


def test_joins() -> None:
    sketch = PadSketch()
    x, first = sketch.places(2, "L", 4, fill=0.0), sketch.const(2, 3, 4)
    assert sketch.claim(aten.cat.default, [first, x], 1) == Kept((Pad(1, extra=3, fill=Fill(0.0)),))
    assert "behind the places" in sketch.lost(aten.cat.default, [x, first], 1)
    assert sketch.claim(aten.cat.default, [x, x], 2) == along(1, fill=0.0)
    assert sketch.claim(aten.constant_pad_nd.default, x, [0, 0, 2, 0]) == Kept((Pad(1, extra=2, fill=Fill(0.0)),))
    assert "pads behind" in sketch.lost(aten.constant_pad_nd.default, sketch.places(2, "L", 4), [0, 0, 0, 1])
    assert sketch.claim(aten.constant_pad_nd.default, x, [0, 0, 0, 1]) == Kept((Pad(1, extra=1, fill=Fill(0.0)),))


# --- lookups, layers, memory ------------------------------------------------------------------------------------------


def test_lookups() -> None:
    sketch = PadSketch()
    ids, x = sketch.places(2, "L", dtype=torch.int64), sketch.places(2, "L", 4)
    assert sketch.claim(aten.embedding.default, sketch.const(9, 4), ids) == along(1)
    place = sketch.claimed(Kept(place=0), 2, dtype=torch.int64)
    assert sketch.claim(aten.index.Tensor, x, [sketch.const(2, dtype=torch.int64), place]) == Kept()
    assert sketch.proof.conditions == []
    number = sketch.const(2, dtype=torch.int64)
    assert sketch.claim(aten.index.Tensor, x, [sketch.const(2, dtype=torch.int64), number]) == Kept()
    assert "not counted from the end" in sketch.proof.conditions[0][0]
    assert "numbers that are padded" in sketch.lost(aten.index.Tensor, x, [None, sketch.places("L", dtype=torch.int64)])
    assert "picks by a mask" in sketch.lost(aten.index_select.default, x, 1, sketch.places("L", dtype=torch.uint8))


def test_convolutions() -> None:
    sketch = PadSketch()
    x, weight = sketch.places(2, 4, "L"), sketch.const(5, 4, 3)
    zero = sketch.places(2, 4, "L", fill=0.0)
    assert sketch.claim(aten.conv1d.default, x, weight) == Kept((Pad(2, extra=-2),))
    assert sketch.claim(aten.conv1d.default, zero, weight, None, [1], [1]) == along(2)
    assert "which are not 0" in sketch.lost(aten.conv1d.default, x, weight, None, [1], [1])
    assert "in steps of 2" in sketch.lost(aten.conv1d.default, zero, weight, None, [2], [1])


def test_norms() -> None:
    sketch = PadSketch()
    x = sketch.places(2, "L", 4)
    assert sketch.claim(aten.layer_norm.default, x, [4]) == along(1)
    assert "counts padded places" in sketch.lost(aten.group_norm.default, sketch.places(2, 4, "L"), 2)


def test_what_is_written_through_a_view_is_lost() -> None:
    sketch = PadSketch()
    x, mask = sketch.places(2, "L", 4), sketch.places(2, "L", 1, fill=0.0)
    masked = sketch.add(aten.mul.Tensor, x, mask)
    view = sketch.add(aten.select.int, masked, 2, 0)
    sketch.add(aten.fill_.Scalar, view, 1.0)
    assert "written to in place" in sketch.of(masked).why


def test_operators_without_a_rule_are_lost() -> None:
    sketch = PadSketch()
    assert (
        sketch.lost(aten.cdist.default, sketch.places(2, "L", 4), sketch.const(3, 4))
        == "no rule for aten.cdist.default"
    )
    assert sketch.claim(aten.cdist.default, sketch.const(2, 4), sketch.const(3, 4)) == Kept()


def test_the_shape_must_agree_with_the_claim() -> None:
    sketch = PadSketch()
    node = sketch.claimed(along(0), 2, sketch.batch)
    assert "the length is in dims [1]" in sketch.of(node).why


def test_each_rule_says_what_it_does() -> None:
    assert all((entry.function.__doc__ or "").strip() for entry in rules().values())
