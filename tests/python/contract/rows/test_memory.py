"""What a write does to the claims of other values in its memory; and where a rule is not asked."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import count, listed, order, same, uniform

from torchpool.contract.rows.domain import CONST, All, Rows, Same, Uniform
from torchpool.contract.rows.sizes import whole


def test_a_write_through_a_view_that_mixes_spoils_what_shares_its_memory() -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(4))
    first = sketch.add(aten.as_strided.default, x, [1, 4], [4, 1])
    assert isinstance(sketch.of(first), All)
    sketch.add(aten.fill_.Scalar, first, 0.0)
    assert isinstance(sketch.of(x), All)


def test_a_write_through_one_fold_of_equal_entries_spoils_another() -> None:
    sketch = Sketch()
    zeros = sketch.add(aten.zeros.default, [count(sketch, 2 * sketch.batch)])
    over = sketch.add(aten.view.default, zeros, [2, count(sketch)])
    under = sketch.add(aten.view.default, zeros, [count(sketch), 2])
    assert sketch.of(over) == Rows(1)
    assert sketch.of(under) == Rows(0)
    assert sketch.refusal(aten.copy_.default, over, sketch.rows(2, dim=1)).startswith("unknown: writes ")
    assert isinstance(sketch.of(under), All)
    assert isinstance(sketch.of(zeros), All)


@pytest.mark.parametrize(("target", "argument"), [(aten.fill_.Scalar, 1.0), (aten.add_.Scalar, 1.0)])
def test_a_write_to_a_part_of_equal_entries_spoils_them(target: Any, argument: float) -> None:
    sketch = Sketch()
    zeros = sketch.add(aten.zeros.default, [count(sketch, 2 * sketch.batch)])
    half = sketch.add(aten.slice.Tensor, zeros, 0, 0, count(sketch))
    assert sketch.of(half) == Rows(0)
    sketch.add(target, half, argument)
    assert isinstance(sketch.of(zeros), All)


def test_a_write_to_all_equal_entries_keeps_them() -> None:
    sketch = Sketch()
    zeros = sketch.add(aten.zeros.default, [count(sketch, 2 * sketch.batch)])
    assert sketch.claim(aten.add_.Scalar, zeros, 1.0) == Uniform()
    assert sketch.claim(aten.copy_.default, zeros, sketch.claimed(Rows(0, 2), 2 * sketch.batch)) == Rows(0, 2)
    assert sketch.of(zeros) == Rows(0, 2)


def test_a_write_to_entries_repeated_for_the_rows_keeps_them_where_all_views_have_that_fold() -> None:
    sketch = Sketch()
    lines = sketch.add(aten.clone.default, same(sketch, 2, 3))
    again = sketch.add(aten.alias.default, lines)
    claim = sketch.of(lines)
    assert isinstance(claim, Same)
    assert sketch.claim(aten.mul_.Tensor, again, sketch.const(1, 1)) == claim
    assert sketch.of(lines) == claim


def test_a_write_to_entries_repeated_for_the_rows_spoils_other_folds() -> None:
    sketch = Sketch()
    lines = sketch.add(aten.clone.default, same(sketch, 2, 3))
    view = sketch.add(aten.view.default, lines, [2, count(sketch), 3])
    sketch.add(aten.mul_.Tensor, view, sketch.const(2, 1, 1))
    assert isinstance(sketch.of(lines), All)


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.masked_fill_.Scalar, lambda s: (s.rows(4, dtype=torch.bool), 1.0)),
        (aten.index_put_.default, lambda s: ([None, s.const(2, dtype=torch.int64)], s.rows(2))),
        (aten.scatter_.src, lambda s: (1, s.rows(2, dtype=torch.int64), s.rows(2))),
        (aten.index_add_.default, lambda s: (1, s.const(2, dtype=torch.int64), s.rows(2))),
    ],
)
def test_rows_are_not_written_to_one_constant_that_is_expanded(target: Any, arguments: Any) -> None:
    sketch = Sketch()
    line = sketch.add(aten.zeros.default, [4])
    lines = sketch.add(aten.expand.default, line, [count(sketch), 4])
    assert sketch.of(lines) == Rows(0)
    refused = "unknown: writes rows in dim 0 over rows in dim 0 in memory that stands for several rows"
    assert sketch.refusal(target, lines, *arguments(sketch)) == refused
    assert isinstance(sketch.of(line), All)


def test_a_constant_is_written_to_a_constant_that_is_expanded_elsewhere() -> None:
    sketch = Sketch()
    line = sketch.add(aten.zeros.default, [4])
    lines = sketch.add(aten.expand.default, line, [count(sketch), 4])
    assert sketch.claim(aten.fill_.Scalar, line, 1.0) == CONST
    assert sketch.of(lines) == Rows(0)


def test_a_write_of_no_known_layout_gives_none_to_what_shares_the_memory() -> None:
    sketch = Sketch()
    square = sketch.add(aten.zeros.default, [count(sketch), count(sketch)])
    view = sketch.add(aten.view.default, square, [count(sketch), count(sketch)])
    refused = sketch.refusal(aten.copy_.default, square, sketch.rows())
    assert refused == "unknown: rows are claimed along dim 1, and the number of rows is in dims [0, 1]"
    assert isinstance(sketch.of(view), All)
    assert isinstance(sketch.of(square), All)


@pytest.mark.parametrize("target", [aten.view_as.default, aten.expand_as.default, aten.type_as.default])
def test_what_mixes_does_so_as_its_own_donor(target: Any) -> None:
    sketch = Sketch()
    mixed = sketch.add(aten.sum.dim_IntList, sketch.rows(3), [0])
    assert sketch.refusal(target, mixed, mixed) == "mixes: sum over the rows"


def test_results_that_torch_does_not_call_views_share_memory() -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(4))
    parts = sketch.add(aten.unsafe_chunk.default, x, 2, 1)
    assert sketch.proof.memory.roots(parts) == {x}


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.einsum.default, lambda x: ("bchw->bchw", [x])),
        (aten._unsafe_view.default, lambda x: (x, [-1, 4, 9])),
        (aten.feature_alpha_dropout.default, lambda x: (x, 0.5, False)),
        (aten.native_channel_shuffle.default, lambda x: (x, 1)),
        (aten.channel_shuffle.default, lambda x: (x, 1)),
    ],
)
def test_single_results_that_torch_does_not_call_views_share_memory(target: Any, arguments: Any) -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(4, 3, 3))
    view = sketch.graph.call_function(target, arguments(x))
    view.meta["val"] = x.meta["val"]
    sketch.proof.claim_of(view)
    assert sketch.proof.memory.roots(view) == {x}


@pytest.mark.parametrize(
    "again",
    [
        lambda s, x: s.add(aten.reshape.default, x, [-1, 3]),
        lambda s, x: s.add(aten.flatten.using_ints, x, 0, 1),
        lambda s, x: s.add(aten.contiguous.default, x),
        lambda s, x: s.add(aten.to.dtype, x, torch.float32, False, False, torch.contiguous_format),
    ],
)
def test_a_write_to_what_is_a_view_of_one_row_only_spoils_what_it_is_a_view_of(again: Any) -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(2, 3))
    turned = sketch.add(aten.transpose.int, x, 0, 1)
    copied = again(sketch, turned)
    before = sketch.of(copied)
    assert isinstance(before, Rows)
    assert sketch.claim(aten.neg_.default, copied) == before
    assert isinstance(sketch.of(x), All)
    assert isinstance(sketch.of(turned), All)


@pytest.mark.parametrize(
    "again",
    [
        lambda s, x: s.add(aten.reshape.default, x, [-1, 3]),
        lambda s, x: s.add(aten.contiguous.default, x),
        lambda s, x: s.add(aten.transpose.int, x, 0, 1),
        lambda s, x: s.add(aten.to.dtype, x, torch.float32),
        lambda s, x: s.add(aten.unsqueeze.default, s.add(aten.transpose.int, x, 0, 1), 0),
        lambda s, x: s.add(
            aten.reshape.default, s.add(aten.transpose.int, s.add(aten.unsqueeze.default, x, 3), 2, 3), [-1, 3]
        ),
        lambda s, x: s.add(aten.to.dtype, s.add(aten.transpose.int, x, 0, 1), torch.float32),
    ],
)
def test_a_write_to_a_view_of_any_number_of_rows_keeps_claims(again: Any) -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(2, 3))
    view = again(sketch, x)
    assert isinstance(sketch.claim(aten.neg_.default, view), Rows)
    assert sketch.of(x) == Rows(0)


def test_a_copy_of_a_constant_that_is_expanded_may_be_written_to() -> None:
    sketch = Sketch()
    line = sketch.add(aten.zeros.default, [4])
    lines = sketch.add(aten.expand.default, line, [count(sketch), 4])
    copied = sketch.add(aten.contiguous.default, lines)
    assert sketch.claim(aten.add_.Tensor, copied, sketch.rows(4)) == Rows(0)
    assert isinstance(sketch.of(line), All), "the copy of one row is none"


def test_another_shape_of_a_constant_that_is_expanded_may_be_a_view() -> None:
    sketch = Sketch()
    lines = sketch.add(aten.expand.default, sketch.add(aten.zeros.default, [4]), [count(sketch), 4])
    again = sketch.add(aten.reshape.default, lines, [count(sketch), 1, 4])
    assert isinstance(sketch.claim(aten.add_.Tensor, again, sketch.rows(1, 4)), All)


def test_what_is_contiguous_already_is_no_copy() -> None:
    sketch = Sketch()
    zeros = sketch.add(aten.zeros.default, [count(sketch, 2 * sketch.batch)])
    under = sketch.add(aten.view.default, zeros, [count(sketch), 2])
    again = sketch.add(aten.contiguous.default, zeros)
    assert isinstance(sketch.claim(aten.copy_.default, again, sketch.claimed(Rows(0, 2), 2 * sketch.batch)), All)
    assert isinstance(sketch.of(under), All)


def test_a_constant_that_gets_the_memory_of_another_is_refused() -> None:
    sketch = Sketch()
    first, second = (sketch.add(aten.zeros.default, [4]) for _ in range(2))
    refused = sketch.refusal(aten.set_.source_Tensor, second, first)
    assert refused == "unknown: aten.set_.source_Tensor gives a value other memory"
    assert isinstance(sketch.of(second), All)
    assert isinstance(sketch.of(first), All), "a write to the second is one to the first"
    third = sketch.add(aten.zeros.default, [4])
    refused = sketch.refusal(aten.resize_.default, third, [4])
    assert refused == "unknown: aten.resize_.default gives a value other memory"


def test_a_product_by_letters_has_memory_of_its_own() -> None:
    sketch = Sketch()
    product = sketch.add(aten.einsum.default, "bi,oi->bo", [sketch.rows(4), sketch.const(3, 4)])
    sketch.add(aten.relu_.default, product)
    assert sketch.of(product) == Rows(0)
    assert sketch.proof.writes == []


def test_the_shape_of_a_view_comes_from_another_value() -> None:
    sketch = Sketch()
    x, like = (sketch.add(aten.clone.default, sketch.rows(4)) for _ in range(2))
    assert sketch.proof.memory.roots(sketch.add(aten.view_as.default, x, like)) == {x}


def test_a_view_of_computed_sizes_shares_memory() -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(4))
    view = sketch.add(aten._unsafe_view.default, x, [count(sketch, 2 * sketch.batch), 2])
    assert x in sketch.proof.memory.roots(view)


def test_a_write_to_one_of_several_results_meets_all_of_them() -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(4))
    half = sketch.add(operator.getitem, sketch.add(aten.split.Tensor, x, 2, 1), 0)
    assert sketch.claim(aten.mul_.Tensor, half, 2.0) == Rows(0)
    assert sketch.of(x) == Rows(0)


def test_a_write_of_rows_in_one_fold_spoils_views_in_another() -> None:
    sketch = Sketch()
    zeros = sketch.add(aten.zeros.default, [count(sketch, 2 * sketch.batch)])
    under = sketch.add(aten.view.default, zeros, [count(sketch), 2])
    found = sketch.refusal(aten.copy_.default, zeros, sketch.claimed(Rows(0, 2), 2 * sketch.batch))
    assert found.startswith("unknown: writes rows in dim 0, 2 x rows x 1 over uniform")
    assert isinstance(sketch.of(under), All)


def test_a_write_of_rows_over_entries_repeated_for_the_rows_is_not_known() -> None:
    sketch = Sketch()
    lines = sketch.add(aten.clone.default, same(sketch, 2, 3))
    found = sketch.refusal(aten.add_.Tensor, lines, sketch.claimed(Rows(0, 2), 2 * sketch.batch, 3))
    assert found.startswith("unknown: writes rows in dim 0, 2 x rows x 1 over same in dim 0")


def test_a_list_has_the_number_of_rows_in_no_other_dim() -> None:
    sketch = Sketch()
    expanded = sketch.refusal(aten.expand.default, listed(sketch, order(sketch), 1), [-1, count(sketch)])
    assert expanded == "unknown: a list lies in dim 0, and the number of rows is in dims [0, 1]"
    assert isinstance(
        sketch.claim(aten.add.Tensor, listed(sketch, order(sketch), 1), uniform(sketch, 1, sketch.batch)), All
    )


def test_a_quotient_of_plain_numbers_is_not_taken_for_whole() -> None:
    assert whole(1 / 2) is None
