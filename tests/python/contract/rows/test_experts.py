"""Lists of all rows, sorted by expert, and the way back."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import CONST, All, Ends, Iota, Order, Packed, Rows, Same, Uniform

LIST = "mixes: computes with places in a list of all rows"
EXPERTS = 4


def _item(sketch: Sketch, node: Any, place: int) -> Any:
    found = sketch.graph.call_function(operator.getitem, (node, place))
    found.meta["val"] = node.meta["val"][place]
    sketch.proof.claims[found] = sketch.proof.claim_of(found)
    return found


class _Routed:
    """Entries of rows, of which each has chosen two of four experts, and the list sorted by them."""

    def __init__(self, **sorting: Any) -> None:
        sketch = self.sketch = Sketch()
        ranked = sketch.add(aten.sort.default, sketch.rows(EXPERTS), -1)
        chosen = _item(sketch, ranked, 1)
        # The views' own rules are others' business: what they claim is said here.
        self.chosen = chosen
        self.ids = self._view(aten.reshape.default, chosen, [-1], Rows(0, inner=EXPERTS))
        node = sketch.add(aten.sort.default, self.ids, **sorting)
        self.keys, self.places = _item(sketch, node, 0), _item(sketch, node, 1)
        self.order = sketch.proof.orders[-1]

    def _view(self, target: Any, node: Any, args: Any, claim: Any) -> Any:
        found = self.sketch.add(target, node, args)
        self.sketch.proof.claims[found] = claim
        return found

    def counts(self, keys: Any, bins: int = EXPERTS, low: int = 0, high: int = EXPERTS - 1) -> Any:
        floats = self.sketch.add(aten.to.dtype, keys, torch.float32)
        return self.sketch.add(aten.histc.default, floats, bins, low, high)

    def refusal(self, node: Any) -> str:
        found = self.sketch.of(node)
        assert isinstance(found, All), found
        return f"{found.kind}: {found.why}"

    def of(self, node: Any) -> Any:
        return self.sketch.of(node)

    def values(self, role: Any = "value", *more: int, claim: Any = None) -> Any:
        held = claim or Packed(0, self.order, self.order.rows, role)
        dtype = torch.float32 if role == "value" else torch.int64
        return self.sketch.claimed(held, self.sketch.batch * EXPERTS, *more, dtype=dtype)


def test_sorting_all_rows_makes_an_order() -> None:
    routed = _Routed()
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
    routed = _Routed()
    inverse = dataclasses.replace(routed.of(routed.places), role="inverse")
    sketch = routed.sketch
    assert sketch.claim(aten.argsort.default, routed.places) == inverse
    numbers, found = sketch.claim(aten.sort.default, routed.places)
    assert found == inverse
    assert f"{numbers.kind}: {numbers.why}" == LIST


def test_other_sorting_of_a_list_is_refused() -> None:
    routed = _Routed()
    sketch = routed.sketch
    why = "mixes: argsort of a list of all rows"
    assert sketch.refusal(aten.argsort.default, routed.keys) == why
    assert sketch.refusal(aten.argsort.default, routed.values()) == why
    assert sketch.refusal(aten.argsort.default, routed.values("index_part")) == why
    assert sketch.refusal(aten.argsort.default, routed.values("index", 1), 0) == why
    assert sketch.refusal(aten.argsort.default, routed.places, -1, True) == why
    assert sketch.refusal(aten.msort.default, routed.places) == "mixes: msort of a list of all rows"


def test_groups_of_a_sorted_list_end_where_its_keys_do() -> None:
    routed = _Routed()
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
    routed = _Routed()
    assert routed.refusal(routed.counts(routed.keys, EXPERTS, low, high)) == RANGE


def test_a_range_of_one_number_is_that_of_all_keys() -> None:
    sketch = Sketch()
    only = _item(sketch, sketch.add(aten.sort.default, sketch.rows(1), -1), 1)
    ids = sketch.add(aten.reshape.default, only, [-1])
    sketch.proof.claims[ids] = Rows(0)
    keys = _item(sketch, sketch.add(aten.sort.default, ids), 0)
    floats = sketch.add(aten.to.dtype, keys, torch.float32)
    assert isinstance(sketch.claim(aten.histc.default, floats, 1, 0, 1), Ends)
    found = sketch.refusal(aten.histc.default, floats, 1, 0, 0)
    assert found == "mixes: histc may not count all keys: they reach from 0 to 0"


def test_wider_ranges_count_all_keys() -> None:
    routed = _Routed()
    assert routed.of(routed.counts(routed.keys, 9, -1, 7)) == Ends(routed.order, "counts")


def test_counts_of_what_was_not_sorted_are_refused() -> None:
    routed = _Routed()
    sketch, why = routed.sketch, "mixes: histc counts over the rows"
    held = Packed(0, routed.order, routed.order.rows, "index")
    places = sketch.claimed(held, sketch.batch * EXPERTS)
    assert sketch.refusal(aten.histc.default, places, 4, 0, 3) == why
    assert sketch.refusal(aten.histc.default, routed.values(), 4, 0, 3) == why
    assert sketch.refusal(aten.histc.default, sketch.rows(), 4, 0, 3) == why
    ranked = sketch.add(aten.sort.default, sketch.rows(EXPERTS), -1)
    assert routed.refusal(routed.counts(_item(sketch, ranked, 1))) == why
    weights = sketch.add(aten.bincount.default, routed.ids, sketch.const(3), EXPERTS)
    assert routed.refusal(weights) == "mixes: bincount counts over the rows"


def test_a_list_in_descending_order_has_other_groups() -> None:
    routed = _Routed(descending=True)
    why = "mixes: histc counts in the opposite order of the list"
    assert routed.refusal(routed.counts(routed.keys)) == why
    assert routed.refusal(routed.counts(routed.ids)) == why


def test_keys_of_which_no_bound_is_seen_are_refused() -> None:
    sketch = Sketch()
    unknown = "mixes: histc of keys that are not known to be in its range"
    ids = sketch.rows()
    keys = _item(sketch, sketch.add(aten.sort.default, ids), 0)
    assert sketch.refusal(aten.histc.default, keys, 4, 0, 3) == unknown
    assert sketch.refusal(aten.histc.default, ids, 4, 0, 3) == "mixes: histc counts over the rows"


def test_a_dtype_that_does_not_hold_all_keys_is_refused() -> None:
    routed = _Routed()
    sketch = routed.sketch
    narrow = sketch.add(aten.to.dtype, routed.ids, torch.bool)
    keys = _item(sketch, sketch.add(aten.sort.default, narrow), 0)
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
    routed = _Routed()
    sketch = routed.sketch
    sketch.add(aten.add_.Tensor, routed.ids, 1)
    assert routed.refusal(routed.counts(routed.keys)).startswith("mixes: histc of keys that are not known")
    assert routed.refusal(routed.counts(routed.ids)) == "mixes: histc counts over the rows"
    # A write to what only reads them is none.
    other = _Routed()
    target = other.sketch.add(aten.clone.default, other.ids)
    other.sketch.add(aten.add_.Tensor, target, other.ids)
    assert other.of(other.counts(other.keys)) == Ends(other.order, "counts")


def _keys(sketch: Sketch, ids: Any) -> Any:
    return _item(sketch, sketch.add(aten.sort.default, ids), 0)


def test_a_write_to_what_was_ranked_is_none_to_its_places() -> None:
    routed = _Routed()
    sketch = routed.sketch
    ranked = sketch.add(aten.topk.default, sketch.rows(EXPERTS), 1)
    sketch.add(aten.mul_.Tensor, _item(sketch, ranked, 0), 2.0)
    keys = _keys(sketch, routed._view(aten.reshape.default, _item(sketch, ranked, 1), [-1], Rows(0)))
    assert isinstance(routed.of(routed.counts(keys)), Ends)


UNKNOWN = "mixes: histc of keys that are not known to be in its range"


@pytest.mark.parametrize("target", [aten.argmax.default, aten.argmin.default])
def test_the_largest_entrys_place_is_a_key(target: Any) -> None:
    routed = _Routed()
    keys = _keys(routed.sketch, routed.sketch.add(target, routed.sketch.rows(EXPERTS), -1))
    assert isinstance(routed.of(routed.counts(keys)), Ends)


def test_other_whole_numbers_are_no_keys() -> None:
    routed = _Routed()
    sketch = routed.sketch
    ids = sketch.rows(EXPERTS, dtype=torch.int64)
    second = _item(sketch, sketch.add(aten.split.Tensor, ids, 1, 1), 1)
    largest = _item(sketch, sketch.add(aten.topk.default, ids, 1), 0)
    for column in (second, largest):
        keys = _keys(sketch, routed._view(aten.reshape.default, column, [-1], Rows(0)))
        assert routed.refusal(routed.counts(keys)) == UNKNOWN
    more = _keys(sketch, sketch.add(aten.add.Tensor, routed.ids, 5))
    assert routed.refusal(routed.counts(more)) == UNKNOWN


def test_some_of_the_keys_are_not_counted_for_all() -> None:
    routed = _Routed()
    sketch = routed.sketch
    some = _item(sketch, sketch.add(aten.topk.default, routed.chosen, 2), 0)
    assert routed.refusal(routed.counts(some)) == "mixes: histc counts over the rows"


def test_bits_that_are_taken_for_others_are_no_keys() -> None:
    routed = _Routed()
    sketch = routed.sketch
    view = sketch.add(aten.view.dtype, routed.ids, torch.float64)
    sketch.proof.claims[view] = Rows(0, inner=EXPERTS)
    assert routed.refusal(routed.counts(view)) == "mixes: histc counts over the rows"
    folded = sketch.add(aten.view.default, view, [-1, 2])  # in whose dtype the keys' memory is written to
    sketch.add(aten.mul_.Tensor, folded, 2)
    assert routed.refusal(routed.counts(routed.ids)) == "mixes: histc counts over the rows"


def test_one_hot_of_a_known_length() -> None:
    routed = _Routed()
    sketch = routed.sketch
    assert sketch.claim(aten.one_hot.default, sketch.rows(5, dtype=torch.int64), 9) == Rows(0)
    values = Packed(0, routed.order, routed.order.rows)
    assert sketch.claim(aten.one_hot.default, routed.keys, 9) == values
    assert sketch.refusal(aten.one_hot.default, routed.places, 9) == LIST
    found = sketch.refusal_like(aten.one_hot.default, sketch.rows(dtype=torch.int64))
    assert found == "mixes: one_hot without num_classes is as long as the largest entry of all rows"
    numbers = sketch.claimed(Iota(0), sketch.batch, dtype=torch.int64)
    assert sketch.refusal(aten.one_hot.default, numbers, 9) == "mixes: computes with the number of the row"


def _grouped(routed: _Routed, given: Any, offs: Any, weight: Any = None, bias: Any = None) -> Any:
    weight = weight or routed.sketch.const(EXPERTS, 8, 16, dtype=torch.bfloat16)
    node = routed.sketch.graph.call_function(aten._grouped_mm.default, (given, weight, offs, bias))
    node.meta["val"] = given.meta["val"]
    found = routed.sketch.proof.claim_of(node)
    return f"{found.kind}: {found.why}" if isinstance(found, All) else found


def test_products_over_the_groups_of_a_list() -> None:
    routed = _Routed()
    sketch = routed.sketch
    values, ends = routed.values("value", 8), Ends(routed.order, "ends")
    offs = sketch.claimed(ends, EXPERTS, dtype=torch.int32)
    assert _grouped(routed, values, offs) == sketch.of(values)
    groups = "mixes: the groups of a product are not those of its list"
    assert _grouped(routed, values, sketch.claimed(Ends(routed.order, "counts"), EXPERTS)) == groups
    assert _grouped(routed, values, sketch.const(EXPERTS)) == groups
    other = dataclasses.replace(routed.order, node=routed.ids)
    assert _grouped(routed, values, sketch.claimed(Ends(other, "ends"), EXPERTS)) == groups
    product = "mixes: a product over groups of all rows"
    assert _grouped(routed, sketch.rows(8), offs) == product
    assert _grouped(routed, routed.values("sorted", 8), offs) == product
    late = sketch.claimed(Packed(1, routed.order, routed.order.rows), 8, sketch.batch * EXPERTS)
    assert _grouped(routed, late, offs) == product
    assert _grouped(routed, values, offs, sketch.const(8, 16)) == product
    weights = "mixes: the weights of experts come from rows"
    assert _grouped(routed, values, offs, sketch.rows(8, 16)) == weights
    assert _grouped(routed, values, offs, None, sketch.rows(16)) == weights


def test_a_list_picks_from_its_own_rows() -> None:
    routed = _Routed()
    sketch, index = routed.sketch, aten.index.Tensor
    values = Packed(0, routed.order, routed.order.rows)
    assert sketch.claim(index, sketch.claimed(Rows(0, inner=4), sketch.batch * 4, 3), [routed.places]) == values
    late = sketch.claimed(Rows(1, inner=4), 3, sketch.batch * 4)
    assert sketch.claim(index, late, [None, routed.places]) == values.at(1)
    assert sketch.claim(aten.index_select.default, late, 1, routed.places) == values.at(1)
    token = sketch.claimed(Packed(0, routed.order, Rows(0), "index_part"), sketch.batch * EXPERTS, dtype=torch.int64)
    assert sketch.claim(index, sketch.rows(3), [token]) == values
    other = "mixes: a list picks from other rows than its own"
    assert sketch.refusal(index, sketch.rows(3), [routed.places]) == other
    for claim in (Rows(0, outer=4), Rows(0, outer=2, inner=4), Same(0, 1, 4)):
        rows = sketch.claimed(claim, sketch.batch * claim.outer * claim.inner, 3)
        assert sketch.refusal(index, rows, [routed.places]) == other
    assert sketch.refusal(index, sketch.claimed(Rows(1, inner=4), 3, sketch.batch * 4), [routed.places]) == other
    assert sketch.refusal(index, sketch.const(9, 3), [routed.places]) == other
    assert sketch.refusal(index, routed.values("value", 3), [routed.places]) == other
    folded = "mixes: places in a list of all rows are folded"
    assert sketch.refusal(index, sketch.rows(3), [routed.values("index", 1)]) == folded


def test_a_list_is_put_back_by_its_inverse() -> None:
    routed = _Routed()
    sketch, index = routed.sketch, aten.index.Tensor
    inverse = sketch.add(aten.argsort.default, routed.places)
    assert sketch.claim(index, routed.values("value", 3), [inverse]) == Rows(0, inner=4)
    assert sketch.claim(index, routed.keys, [inverse]) == Rows(0, inner=4)
    late = Packed(1, routed.order, routed.order.rows)
    moved = sketch.claimed(late, 3, sketch.batch * EXPERTS)
    assert sketch.claim(index, moved, [None, inverse]) == Rows(1, inner=4)
    other = "mixes: a list is put back by the places of another"
    assert sketch.refusal(index, moved, [inverse]) == other
    assert sketch.refusal(index, routed.places, [inverse]) == other
    assert sketch.refusal(index, sketch.claimed(Rows(0, inner=4), sketch.batch * 4), [inverse]) == other
    order = dataclasses.replace(routed.order, node=routed.ids)
    assert sketch.refusal(index, routed.values(claim=Packed(0, order, order.rows)), [inverse]) == other


def test_a_list_is_added_to_the_rows_of_its_places() -> None:
    routed = _Routed()
    sketch, add = routed.sketch, aten.index_add.default
    whole, values = sketch.claimed(Rows(0, inner=4), sketch.batch * 4, 3), routed.values("value", 3)
    assert sketch.claim(add, whole, 0, routed.places, values) == Rows(0, inner=4)
    assert sketch.claim(aten.index_copy.default, whole, 0, routed.places, values) == Rows(0, inner=4)
    assert sketch.claim(aten.index_put.default, whole, [routed.places], values) == Rows(0, inner=4)
    part = Packed(0, routed.order, Rows(0), "index_part")
    tokens = sketch.claimed(part, sketch.batch * EXPERTS, dtype=torch.int64)
    assert sketch.claim(add, sketch.rows(3), 0, tokens, values) == Rows(0)
    assert sketch.claim(aten.index_put.default, sketch.rows(3), [tokens], values, True) == Rows(0)
    same = sketch.claimed(Same(0, 2, 2), sketch.batch * 4, 3)
    assert sketch.claim(add, same, 0, routed.places, values) == Rows(0, inner=4)
    empty = sketch.claimed(Uniform(), sketch.batch * 4, 3)
    assert sketch.claim(add, empty, 0, routed.places, values) == Rows(0, inner=4)
    late = sketch.claimed(Rows(1, inner=4), 3, sketch.batch * 4)
    moved = sketch.claimed(Packed(1, routed.order, routed.order.rows), 3, sketch.batch * 4)
    assert sketch.claim(add, late, 1, routed.places, moved) == Rows(1, inner=4)
    one = routed.values()
    assert sketch.claim(aten.index_put.default, late, [None, routed.places], one) == Rows(1, inner=4)


def test_a_list_of_several_entries_a_place_is_not_copied() -> None:
    routed = _Routed()
    sketch, values = routed.sketch, routed.values("value", 3)
    part = Packed(0, routed.order, Rows(0), "index_part")
    tokens = sketch.claimed(part, sketch.batch * EXPERTS, dtype=torch.int64)
    refused = "of several entries to one place: which one stays depends on their order in the list"
    assert sketch.refusal(aten.index_copy.default, sketch.rows(3), 0, tokens, values) == f"mixes: index_copy {refused}"
    assert sketch.refusal(aten.index_put.default, sketch.rows(3), [tokens], values) == f"mixes: index_put {refused}"


def test_a_list_is_not_added_elsewhere() -> None:
    routed = _Routed()
    sketch, add = routed.sketch, aten.index_add.default
    whole, values = sketch.claimed(Rows(0, inner=4), sketch.batch * 4, 3), routed.values("value", 3)
    places = "mixes: index_add at places from rows"
    assert sketch.refusal(add, whole, 0, routed.keys, values) == places
    inverse = sketch.add(aten.argsort.default, routed.places)
    assert sketch.refusal(add, whole, 0, inverse, values) == places
    folded = routed.values("index", 1)
    found = sketch.refusal_like(aten.index_put.default, whole, [folded], values)
    assert found == "mixes: index_put at places from rows"
    source = "mixes: index_add puts back what is not the list of these places"
    assert sketch.refusal(add, whole, 0, routed.places, whole) == source
    assert sketch.refusal(add, whole, 0, routed.places, routed.values("sorted", 3)) == source
    order = dataclasses.replace(routed.order, node=routed.ids)
    other = routed.values("value", 3, claim=Packed(0, order, order.rows))
    assert sketch.refusal(add, whole, 0, routed.places, other) == source
    moved = sketch.claimed(Packed(1, routed.order, routed.order.rows), 3, sketch.batch * 4)
    assert sketch.refusal_like(add, whole, 0, routed.places, moved) == source
    fill = sketch.refusal(aten.index_fill.int_Scalar, whole, 0, routed.places, 1.0)
    assert fill == "mixes: index_fill puts back what is not the list of these places"
    rows = "mixes: index_add of a list into rows that it is not of"
    tiled = sketch.claimed(Rows(0, outer=4), sketch.batch * 4, 3)
    assert sketch.refusal(add, tiled, 0, routed.places, values) == rows
    assert sketch.refusal(add, sketch.const(9, 3), 0, routed.places, values) == rows


def test_writing_numbers_to_the_places_of_an_order_inverts_it() -> None:
    routed = _Routed()
    sketch, put = routed.sketch, aten.index_put.default
    size = sketch.batch * EXPERTS
    inverse = dataclasses.replace(routed.of(routed.places), role="inverse")

    def numbers(claim: Any = None) -> Any:
        return sketch.claimed(claim or Iota(0, inner=EXPERTS), size, dtype=torch.int64)

    for claim in (Uniform(), Rows(0, inner=4)):
        empty = sketch.claimed(claim, size, dtype=torch.int64)
        assert sketch.claim(put, empty, [routed.places], numbers()) == inverse
    written = sketch.add(aten.empty_like.default, routed.ids)
    sketch.proof.claims[written] = Uniform()
    assert sketch.claim(aten.index_put_.default, written, [routed.places], numbers()) == inverse
    assert sketch.of(written) == inverse
    why = "mixes: writes numbers to places in a list of all rows"
    empty = sketch.claimed(Uniform(), size, dtype=torch.int64)
    assert sketch.refusal(put, empty, [routed.places], numbers(), True) == why
    assert sketch.refusal(put, empty, [routed.values("index_part")], numbers()) == why
    assert sketch.refusal(put, empty, [routed.keys], numbers()) == why
    assert sketch.refusal_like(put, empty, [routed.places], sketch.claimed(Iota(0, step=4), sketch.batch)) == why
    plain = sketch.add(aten.argsort.default, sketch.rows())
    few = sketch.claimed(Uniform(), sketch.batch, dtype=torch.int64)
    steps = [sketch.claimed(Iota(0, step=step), sketch.batch, dtype=torch.int64) for step in (1, 4)]
    assert sketch.claim(put, few, [plain], steps[0]) == dataclasses.replace(sketch.of(plain), role="inverse")
    assert sketch.refusal(put, few, [plain], steps[1]) == why
    assert sketch.refusal_like(put, empty, [routed.places], sketch.claimed(Iota(0, 2, 2), size)) == why
    longer = sketch.claimed(Uniform(), size * 2, dtype=torch.int64)
    assert sketch.refusal(put, longer, [routed.places], numbers()) == why
    wide = sketch.claimed(Uniform(), size, size, dtype=torch.int64)
    assert sketch.refusal(put, wide, [routed.places], numbers()) == why
    assert sketch.refusal_like(put, empty, [routed.values("index", 1)], numbers()) == why
    assert sketch.of(sketch.const(3)) == CONST
