"""Lists of all rows, sorted by expert, and where their groups end."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from rows_routed import EXPERTS, LIST, Routed, item
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import Ends, Iota, Order, Packed, Rows, Same


def test_sorting_all_rows_makes_an_order() -> None:
    routed = Routed()
    rows = Rows(0, inner=EXPERTS)
    assert routed.order == Order(routed.keys.args[0], routed.ids, rows)
    assert routed.of(routed.keys) == Packed(0, routed.order, rows, "sorted")
    assert routed.of(routed.places) == Packed(0, routed.order, rows, "index")
    sketch = routed.sketch
    places = sketch.add(aten.argsort.default, routed.ids)
    order = sketch.proof.orders[-1]
    assert order != routed.order
    assert sketch.of(places) == Packed(0, order, rows, "index")
    keys = sketch.add(aten.msort.default, routed.ids)
    assert sketch.of(keys) == Packed(0, sketch.proof.orders[-1], rows, "sorted")
    stable = sketch.claim(aten.sort.stable, routed.ids, stable=True, dim=0)
    assert [one.role for one in stable] == ["sorted", "index"]


def test_sorting_each_row_keeps_rows_apart() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.sort.default, sketch.rows(5)) == [Rows(0), Rows(0)]
    assert sketch.claim(aten.argsort.default, sketch.rows(5, dim=1), 0) == Rows(1)
    assert sketch.claim(aten.msort.default, sketch.rows(5, dim=1)) == Rows(1)
    assert sketch.proof.orders == []


def test_other_sorting_over_the_rows_is_refused() -> None:
    sketch = Sketch()
    assert sketch.refusal(aten.argsort.default, sketch.rows(5), 0) == "mixes: argsort over the rows"
    assert sketch.refusal(aten.msort.default, sketch.rows(5)) == "mixes: msort over the rows"
    assert sketch.refusal(aten.argsort.default, sketch.rows(5, dim=1), -1) == "mixes: argsort over the rows"
    same = sketch.claimed(Same(0, 2), sketch.batch * 2)
    assert sketch.refusal(aten.argsort.default, same) == "mixes: argsort over the rows"


def test_an_order_that_is_sorted_is_its_inverse() -> None:
    routed = Routed()
    inverse = dataclasses.replace(routed.of(routed.places), role="inverse")
    sketch = routed.sketch
    assert sketch.claim(aten.argsort.default, routed.places) == inverse
    numbers, found = sketch.claim(aten.sort.default, routed.places)
    assert found == inverse
    assert f"{numbers.kind}: {numbers.why}" == LIST


def test_other_sorting_of_a_list_is_refused() -> None:
    routed = Routed()
    sketch = routed.sketch
    why = "mixes: argsort of a list of all rows"
    assert sketch.refusal(aten.argsort.default, routed.keys) == why
    assert sketch.refusal(aten.argsort.default, routed.values()) == why
    assert sketch.refusal(aten.argsort.default, routed.values("index_part")) == why
    assert sketch.refusal(aten.argsort.default, routed.values("index", 1), 0) == why
    assert sketch.refusal(aten.argsort.default, routed.places, -1, True) == why
    assert sketch.refusal(aten.msort.default, routed.places) == "mixes: msort of a list of all rows"


def test_groups_of_a_sorted_list_end_where_its_keys_do() -> None:
    routed = Routed()
    for counts in (routed.counts(routed.keys), routed.counts(routed.ids), routed.counts(routed.chosen)):
        assert routed.of(counts) == Ends(routed.order, "counts")
        ends = routed.sketch.add(aten.cumsum.default, counts, 0, dtype=torch.int32)
        assert routed.of(ends) == Ends(routed.order, "ends")
        again = routed.sketch.refusal(aten.cumsum.default, ends, 0)
        assert again == "mixes: computes with the ends of groups of all rows"
    counts = routed.sketch.add(aten.bincount.default, routed.ids, None, EXPERTS)
    assert routed.of(counts) == Ends(routed.order, "counts")
    several = routed.sketch.claimed(Ends(routed.order, "counts"), 2, EXPERTS)
    found = routed.sketch.refusal(aten.cumsum.default, several, 1)
    assert found == "mixes: computes with the ends of groups of all rows"


def test_cumsum_of_rows() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.cumsum.default, sketch.rows(5), 1) == Rows(0)
    assert sketch.refusal(aten.cumsum.default, sketch.rows(5), 0) == "mixes: cumsum over the rows"
    assert sketch.refusal(aten.cumsum.default, sketch.rows(5), -2) == "mixes: cumsum over the rows"


RANGE = "mixes: histc may not count all keys: they reach from 0 to 3"


@pytest.mark.parametrize(("low", "high"), [(0, 2), (1, 3), (0, 0)])
def test_keys_that_are_not_counted_would_shift_all_others(low: int, high: int) -> None:
    routed = Routed()
    assert routed.refusal(routed.counts(routed.keys, EXPERTS, low, high)) == RANGE


def test_a_range_of_one_number_is_that_of_all_keys() -> None:
    sketch = Sketch()
    only = item(sketch, sketch.add(aten.sort.default, sketch.rows(1), -1), 1)
    ids = sketch.add(aten.reshape.default, only, [-1])
    sketch.proof.claims[ids] = Rows(0)
    keys = item(sketch, sketch.add(aten.sort.default, ids), 0)
    floats = sketch.add(aten.to.dtype, keys, torch.float32)
    assert isinstance(sketch.claim(aten.histc.default, floats, 1, 0, 1), Ends)
    found = sketch.refusal(aten.histc.default, floats, 1, 0, 0)
    assert found == "mixes: histc may not count all keys: they reach from 0 to 0"


def test_wider_ranges_count_all_keys() -> None:
    routed = Routed()
    assert routed.of(routed.counts(routed.keys, 9, -1, 7)) == Ends(routed.order, "counts")


def test_counts_of_what_was_not_sorted_are_refused() -> None:
    routed = Routed()
    sketch, why = routed.sketch, "mixes: histc counts over the rows"
    held = Packed(0, routed.order, routed.order.rows, "index")
    places = sketch.claimed(held, sketch.batch * EXPERTS)
    assert sketch.refusal(aten.histc.default, places, 4, 0, 3) == why
    assert sketch.refusal(aten.histc.default, routed.values(), 4, 0, 3) == why
    assert sketch.refusal(aten.histc.default, sketch.rows(), 4, 0, 3) == why
    ranked = sketch.add(aten.sort.default, sketch.rows(EXPERTS), -1)
    assert routed.refusal(routed.counts(item(sketch, ranked, 1))) == why
    weights = sketch.add(aten.bincount.default, routed.ids, sketch.const(3), EXPERTS)
    assert routed.refusal(weights) == "mixes: bincount counts over the rows"


def test_a_list_in_descending_order_has_other_groups() -> None:
    routed = Routed(descending=True)
    why = "mixes: histc counts in the opposite order of the list"
    assert routed.refusal(routed.counts(routed.keys)) == why
    assert routed.refusal(routed.counts(routed.ids)) == why


def test_keys_of_which_no_bound_is_seen_are_refused() -> None:
    sketch = Sketch()
    unknown = "mixes: histc of keys that are not known to be in its range"
    ids = sketch.rows()
    keys = item(sketch, sketch.add(aten.sort.default, ids), 0)
    assert sketch.refusal(aten.histc.default, keys, 4, 0, 3) == unknown
    assert sketch.refusal(aten.histc.default, ids, 4, 0, 3) == "mixes: histc counts over the rows"


def test_a_dtype_that_does_not_hold_all_keys_is_refused() -> None:
    routed = Routed()
    sketch = routed.sketch
    narrow = sketch.add(aten.to.dtype, routed.ids, torch.bool)
    keys = item(sketch, sketch.add(aten.sort.default, narrow), 0)
    found = routed.refusal(routed.counts(keys))
    assert found.startswith("mixes: histc ")
    wide = sketch.add(aten.to.dtype, routed.keys, torch.float64)
    assert routed.of(sketch.add(aten.histc.default, wide, EXPERTS, 0, 3)) == Ends(routed.order, "counts")
    # A conversion that says nothing of the keys' own dtype is seen at the keys.
    claimed = sketch.add(aten.to.dtype, routed.keys, torch.bool)
    sketch.proof.claims[claimed] = sketch.of(routed.keys)
    floats = sketch.add(aten.to.dtype, claimed, torch.float32)
    sketch.proof.claims[floats] = sketch.of(routed.keys)
    found = sketch.refusal(aten.histc.default, floats, EXPERTS, 0, 3)
    assert found == "mixes: histc of keys that are not known to be in its range"


def test_keys_that_are_written_to_are_refused() -> None:
    routed = Routed()
    sketch = routed.sketch
    sketch.add(aten.add_.Tensor, routed.ids, 1)
    assert routed.refusal(routed.counts(routed.keys)).startswith("mixes: histc of keys that are not known")
    assert routed.refusal(routed.counts(routed.ids)) == "mixes: histc counts over the rows"
    # A write to what only reads them is none.
    other = Routed()
    target = other.sketch.add(aten.clone.default, other.ids)
    other.sketch.add(aten.add_.Tensor, target, other.ids)
    assert other.of(other.counts(other.keys)) == Ends(other.order, "counts")


def _keys(sketch: Sketch, ids: Any) -> Any:
    return item(sketch, sketch.add(aten.sort.default, ids), 0)


def test_a_write_to_what_was_ranked_is_none_to_its_places() -> None:
    routed = Routed()
    sketch = routed.sketch
    ranked = sketch.add(aten.topk.default, sketch.rows(EXPERTS), 1)
    sketch.add(aten.mul_.Tensor, item(sketch, ranked, 0), 2.0)
    keys = _keys(sketch, routed._view(aten.reshape.default, item(sketch, ranked, 1), [-1], Rows(0)))
    assert isinstance(routed.of(routed.counts(keys)), Ends)


UNKNOWN = "mixes: histc of keys that are not known to be in its range"


@pytest.mark.parametrize("target", [aten.argmax.default, aten.argmin.default])
def test_the_largest_entrys_place_is_a_key(target: Any) -> None:
    routed = Routed()
    keys = _keys(routed.sketch, routed.sketch.add(target, routed.sketch.rows(EXPERTS), -1))
    assert isinstance(routed.of(routed.counts(keys)), Ends)


def test_other_whole_numbers_are_no_keys() -> None:
    routed = Routed()
    sketch = routed.sketch
    ids = sketch.rows(EXPERTS, dtype=torch.int64)
    second = item(sketch, sketch.add(aten.split.Tensor, ids, 1, 1), 1)
    largest = item(sketch, sketch.add(aten.topk.default, ids, 1), 0)
    for column in (second, largest):
        keys = _keys(sketch, routed._view(aten.reshape.default, column, [-1], Rows(0)))
        assert routed.refusal(routed.counts(keys)) == UNKNOWN
    more = _keys(sketch, sketch.add(aten.add.Tensor, routed.ids, 5))
    assert routed.refusal(routed.counts(more)) == UNKNOWN


def test_some_of_the_keys_are_not_counted_for_all() -> None:
    routed = Routed()
    sketch = routed.sketch
    some = item(sketch, sketch.add(aten.topk.default, routed.chosen, 2), 0)
    assert routed.refusal(routed.counts(some)) == "mixes: histc counts over the rows"


def test_bits_that_are_taken_for_others_are_no_keys() -> None:
    routed = Routed()
    sketch = routed.sketch
    view = sketch.add(aten.view.dtype, routed.ids, torch.float64)
    sketch.proof.claims[view] = Rows(0, inner=EXPERTS)
    assert routed.refusal(routed.counts(view)) == "mixes: histc counts over the rows"
    folded = sketch.add(aten.view.default, view, [-1, 2])  # in whose dtype the keys' memory is written to
    sketch.add(aten.mul_.Tensor, folded, 2)
    assert routed.refusal(routed.counts(routed.ids)) == "mixes: histc counts over the rows"


def test_one_hot_of_a_known_length() -> None:
    routed = Routed()
    sketch = routed.sketch
    assert sketch.claim(aten.one_hot.default, sketch.rows(5, dtype=torch.int64), 9) == Rows(0)
    values = Packed(0, routed.order, routed.order.rows)
    assert sketch.claim(aten.one_hot.default, routed.keys, 9) == values
    assert sketch.refusal(aten.one_hot.default, routed.places, 9) == LIST
    found = sketch.refusal_like(aten.one_hot.default, sketch.rows(dtype=torch.int64))
    assert found == "mixes: one_hot without num_classes is as long as the largest entry of all rows"
    numbers = sketch.claimed(Iota(0), sketch.batch, dtype=torch.int64)
    assert sketch.refusal(aten.one_hot.default, numbers, 9) == "mixes: computes with the number of the row"
