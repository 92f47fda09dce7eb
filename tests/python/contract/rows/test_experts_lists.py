"""What a sorted list of all rows is good for: products over its groups, picks, and the way back."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch
from rows_routed import EXPERTS, Routed
from rows_sketch import aten

from torchpool.contract.rows.domain import CONST, All, Ends, Iota, Packed, Rows, Same, Uniform


def _grouped(routed: Routed, given: Any, offs: Any, weight: Any = None, bias: Any = None) -> Any:
    weight = weight or routed.sketch.const(EXPERTS, 8, 16, dtype=torch.bfloat16)
    node = routed.sketch.graph.call_function(aten._grouped_mm.default, (given, weight, offs, bias))
    node.meta["val"] = given.meta["val"]
    found = routed.sketch.proof.claim_of(node)
    return f"{found.kind}: {found.why}" if isinstance(found, All) else found


def test_products_over_the_groups_of_a_list() -> None:
    routed = Routed()
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
    routed = Routed()
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
    routed = Routed()
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
    routed = Routed()
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
    routed = Routed()
    sketch, values = routed.sketch, routed.values("value", 3)
    part = Packed(0, routed.order, Rows(0), "index_part")
    tokens = sketch.claimed(part, sketch.batch * EXPERTS, dtype=torch.int64)
    refused = "of several entries to one place: which one stays depends on their order in the list"
    assert sketch.refusal(aten.index_copy.default, sketch.rows(3), 0, tokens, values) == f"mixes: index_copy {refused}"
    assert sketch.refusal(aten.index_put.default, sketch.rows(3), [tokens], values) == f"mixes: index_put {refused}"


def test_a_list_is_not_added_elsewhere() -> None:
    routed = Routed()
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
    routed = Routed()
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
