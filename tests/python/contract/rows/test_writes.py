"""Entries that are replaced or added to, at places that are given."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import All, Iota, Order, Packed, Rows, Same, Uniform


def _ids(sketch: Sketch, *rest: int, dim: int = 0) -> Any:
    return sketch.rows(*rest, dim=dim, dtype=torch.int64)


def _places(sketch: Sketch, *shape: int) -> Any:
    return sketch.const(*shape, dtype=torch.int64)


def test_scatter_along_another_dim_than_the_rows() -> None:
    sketch = Sketch()
    x, index, source = sketch.rows(5), _ids(sketch, 3), sketch.rows(3)
    assert sketch.claim(aten.scatter.src, x, 1, index, source) == Rows(0)
    assert sketch.claim(aten.scatter.value, x, -1, index, 1.0) == Rows(0)
    assert sketch.claim(aten.scatter_add.default, x, 1, index, source) == Rows(0)
    assert sketch.claim(aten.scatter_reduce.two, x, 1, index, source, "amax") == Rows(0)
    other = sketch.rows(5, dim=1)
    assert sketch.claim(aten.scatter.value, other, 0, _ids(sketch, 3, dim=1), 1.0) == Rows(1)


def test_scatter_along_the_rows_is_refused() -> None:
    sketch = Sketch()
    x, index, source = sketch.rows(5), _ids(sketch, 5), sketch.rows(5)
    assert sketch.refusal(aten.scatter.src, x, 0, index, source) == "mixes: scatter along the rows"
    assert sketch.refusal(aten.scatter.value, x, -2, index, 1.0) == "mixes: scatter along the rows"
    assert sketch.refusal(aten.scatter_add.default, x, 0, index, source) == "mixes: scatter_add along the rows"


def test_scatter_of_some_rows_is_refused() -> None:
    sketch = Sketch()
    x = sketch.rows(5)
    apart = "mixes: scatter of rows that are not aligned: rows in dim 0, const"
    assert sketch.refusal(aten.scatter.value, x, 1, _places(sketch, 1, 3), 1.0) == apart
    assert sketch.refusal(aten.scatter.value, x, 1, _places(sketch, 2, 3), 1.0) == apart
    assert sketch.refusal(aten.scatter.src, x, 1, _places(sketch, 2, 3), sketch.rows(3)) == apart
    folded = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 5)
    index = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, 3, dtype=torch.int64)
    found = sketch.refusal(aten.scatter.value, folded, 1, index, 1.0)
    assert found.startswith("mixes: scatter of rows that are not aligned: rows in dim 0, 1 x rows x 2, ")


def test_scatter_by_an_index_for_fewer_entries_is_refused() -> None:
    sketch = Sketch()
    folded = sketch.claimed(Rows(0, inner=4), sketch.batch * 4, 5)
    index = sketch.claimed(Same(0, 2), sketch.batch * 2, 3, dtype=torch.int64)
    refused = "mixes: scatter of rows that are not aligned: rows in dim 0, 1 x rows x 4, same in dim 0, 2 x rows x 1"
    assert sketch.refusal(aten.scatter.value, folded, 1, index, 1.0) == refused


def test_scatter_over_entries_that_are_the_same_takes_the_rows_layout() -> None:
    sketch = Sketch()
    x = sketch.claimed(Same(0, 2), sketch.batch * 2, 5)
    index = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 3, dtype=torch.int64)
    assert sketch.claim(aten.scatter.value, x, 1, index, 1.0) == Rows(0, inner=2)


def test_writes_at_places_that_all_rows_share() -> None:
    sketch = Sketch()
    x, places, source = sketch.rows(5), _places(sketch, 3), sketch.rows(3)
    assert sketch.claim(aten.index_add.default, x, 1, places, source) == Rows(0)
    assert sketch.claim(aten.index_copy.default, x, -1, places, source) == Rows(0)
    assert sketch.claim(aten.index_reduce.default, x, 1, places, source, "mean") == Rows(0)
    assert sketch.claim(aten.index_fill.int_Scalar, x, 1, places, 1.0) == Rows(0)
    assert sketch.claim(aten.index_fill.int_Tensor, x, 1, places, sketch.const()) == Rows(0)


def test_writes_at_places_along_the_rows_are_refused() -> None:
    sketch = Sketch()
    x, places, few = sketch.rows(5), _places(sketch, 3), sketch.const(3, 5)
    assert sketch.refusal(aten.index_fill.int_Scalar, x, 0, places, 1.0) == "mixes: index_fill along the rows"
    assert sketch.refusal(aten.index_fill.int_Scalar, x, -2, places, 1.0) == "mixes: index_fill along the rows"
    apart = "mixes: index_add of rows that are not aligned: rows in dim 0, const"
    assert sketch.refusal(aten.index_add.default, x, 0, places, few) == apart
    from_rows = "mixes: index_fill at places from rows"
    assert sketch.refusal(aten.index_fill.int_Scalar, x, 1, _ids(sketch), 1.0) == from_rows
    shared = sketch.refusal(aten.index_add.default, sketch.const(9, 4), 0, _ids(sketch), sketch.rows(4))
    assert shared == "mixes: index_add at places from rows"
    uniform = sketch.claimed(Uniform(), sketch.batch, sketch.batch)
    found = sketch.refusal(aten.index_fill.int_Scalar, uniform, 1, places, 1.0)
    assert found == "mixes: index_fill of rows that are not aligned: uniform, uniform"


def test_masked_scatter_is_refused() -> None:
    sketch = Sketch()
    mask = sketch.const(5, dtype=torch.bool)
    found = sketch.refusal(aten.masked_scatter.default, sketch.rows(5), mask, sketch.const(99))
    assert found == "mixes: masked_scatter takes values in the order of all rows"


def test_a_part_is_written_along_another_dim_than_the_rows() -> None:
    sketch = Sketch()
    x = sketch.rows(5, 6)
    assert sketch.claim(aten.select_scatter.default, x, sketch.rows(6), 1, 0) == Rows(0)
    assert sketch.claim(aten.select_scatter.default, sketch.rows(5, dim=1), sketch.rows(), 0, 0) == Rows(1)
    assert sketch.claim(aten.slice_scatter.default, x, sketch.rows(2, 6), 1, 0, 2) == Rows(0)
    assert sketch.claim(aten.slice_scatter.default, x, sketch.rows(5, 2), -1, 0, 2) == Rows(0)
    select, cut = "mixes: select_scatter along the rows", "mixes: slice_scatter along the rows"
    assert sketch.refusal(aten.select_scatter.default, x, sketch.const(5, 6), 0, 0) == select
    assert sketch.refusal(aten.slice_scatter.default, x, sketch.const(1, 5, 6), 0, 0, 1) == cut
    tiled = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, 5)
    found = sketch.refusal(aten.select_scatter.default, tiled, sketch.claimed(Rows(0, 1, 2), sketch.batch * 2), 1, 0)
    assert found == "mixes: rows in dim 0, 2 x rows x 1 meet rows in dim 0, 1 x rows x 2"


def _put(sketch: Sketch, x: Any, indices: list[Any], values: Any, accumulate: bool = False) -> Any:
    found = sketch.claim(aten.index_put.default, x, indices, values, accumulate)
    return f"{found.kind}: {found.why}" if isinstance(found, All) else found


def _numbers(sketch: Sketch, *more: int) -> Any:
    return sketch.claimed(Iota(0), sketch.batch, *more, dtype=torch.int64)


@pytest.mark.parametrize("accumulate", [False, True])
def test_each_row_is_written_at_its_own_places(accumulate: bool) -> None:
    sketch = Sketch()
    x, numbers, zero = sketch.rows(5, 6), _numbers(sketch), sketch.const()
    assert _put(sketch, x, [None, _places(sketch, 3)], zero, accumulate) == Rows(0)
    assert _put(sketch, x, [None, _places(sketch, 3)], sketch.const(3, 6), accumulate) == Rows(0)
    assert _put(sketch, x, [None, _places(sketch, 3)], sketch.rows(3, 6), accumulate) == Rows(0)
    assert _put(sketch, x, [None, None, _places(sketch, 3)], sketch.const(5, 1), accumulate) == Rows(0)
    assert _put(sketch, x, [numbers, _ids(sketch)], sketch.rows(6), accumulate) == Rows(0)
    assert _put(sketch, x, [numbers, _ids(sketch)], zero, accumulate) == Rows(0)
    column = _numbers(sketch, 1)
    assert _put(sketch, x, [column, _ids(sketch, 3)], sketch.rows(3, 6), accumulate) == Rows(0)
    later = sketch.rows(5, 6, dim=1)
    assert _put(sketch, later, [None, numbers, _ids(sketch)], zero, accumulate) == Rows(1)


@pytest.mark.parametrize("target", [aten._unsafe_index_put.default, aten._index_put_impl_.default])
def test_other_names_of_index_put(target: Any) -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(5))
    assert sketch.claim(target, x, [None, _places(sketch, 3)], sketch.const()) == Rows(0)
    assert sketch.refusal(target, x, [_places(sketch, 3)], sketch.const()) == "mixes: writes among the rows"


def test_writes_that_reach_other_rows_are_refused() -> None:
    sketch = Sketch()
    x, numbers, zero = sketch.rows(5, 6), _numbers(sketch), sketch.const()
    among, each = "mixes: writes among the rows", "mixes: each row meets each other row"
    assert _put(sketch, x, [_places(sketch, 2)], zero) == among
    assert _put(sketch, x, [_ids(sketch)], zero) == among
    assert _put(sketch, x, [None, _ids(sketch)], zero) == each
    assert _put(sketch, sketch.rows(5), [None, _places(sketch, 1)], sketch.rows(dim=0)) == each
    column = _numbers(sketch, 1)
    assert _put(sketch, sketch.rows(9), [column, _ids(sketch)], zero) == each
    assert _put(sketch, x, [None, numbers], zero) == "mixes: picks by the number of the row"
    assert _put(sketch, sketch.rows(dtype=torch.int64), [_ids(sketch)], numbers) == among
    assert _put(sketch, sketch.const(5, 6), [_ids(sketch)], sketch.rows(6)) == "mixes: writes over const"
    same = sketch.claimed(Same(0, 2), sketch.batch * 2, 5)
    assert _put(sketch, same, [None, _places(sketch, 1)], zero) == "mixes: writes over same in dim 0, 2 x rows x 1"
    uniform = sketch.claimed(Uniform(), sketch.batch, sketch.batch)
    assert _put(sketch, uniform, [None, _places(sketch, 1)], zero) == "mixes: writes over uniform"


def test_a_mask_writes_one_value() -> None:
    sketch = Sketch()
    x, zero = sketch.rows(5, 6), sketch.const()
    assert _put(sketch, x, [sketch.rows(5, 6, dtype=torch.bool)], zero) == Rows(0)
    assert _put(sketch, x, [sketch.rows(5, dtype=torch.bool)], sketch.const(1)) == Rows(0)
    assert _put(sketch, sketch.rows(5, dim=1), [None, sketch.rows(dtype=torch.bool)], zero) == Rows(1)
    assert _put(sketch, x, [None, sketch.const(5, dtype=torch.bool)], zero) == Rows(0)
    assert _put(sketch, x, [None, sketch.const(5, dtype=torch.bool)], sketch.rows(1, 6)) == Rows(0)
    order = "mixes: writes by a mask: which value an entry gets depends on how many the mask has in the rows before"
    assert _put(sketch, x, [sketch.rows(5, dtype=torch.bool)], sketch.const(6)) == order
    assert _put(sketch, x, [sketch.rows(5, dtype=torch.bool)], sketch.rows(6)) == order
    folded = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 5)
    mask = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, dtype=torch.bool)
    found = _put(sketch, folded, [mask], zero)
    assert found == "mixes: rows in dim 0, 1 x rows x 2 meet rows in dim 0, 2 x rows x 1"
    several = _put(sketch, x, [None, sketch.const(5, dtype=torch.bool), sketch.rows(dtype=torch.bool)], zero)
    assert several.startswith("mixes: picks by a mask")
    first = _put(sketch, x, [sketch.rows(dtype=torch.bool), _places(sketch, 1)], zero)
    assert first.startswith("mixes: picks by a mask")
    single = _put(sketch, x, [sketch.rows(5, dtype=torch.bool)], sketch.claimed(Rows(0), sketch.batch, 6))
    assert single == order


def test_a_list_is_put_back() -> None:
    sketch = Sketch()
    keys = _ids(sketch)
    held = Packed(0, Order(keys, keys, Rows(0)), Rows(0), "index")
    places = sketch.claimed(held, sketch.batch, dtype=torch.int64)
    values = sketch.claimed(Packed(0, held.order, held.rows), sketch.batch, 5)
    x = sketch.rows(5)
    assert sketch.claim(aten.index_add.default, x, 0, places, values) == Rows(0)
    assert _put(sketch, x, [places], values) == Rows(0)
    empty = sketch.claimed(Uniform(), sketch.batch, dtype=torch.int64)
    assert _put(sketch, empty, [places], _numbers(sketch)) == Packed(0, held.order, held.rows, "inverse")


def test_places_counted_through_all_rows_are_refused() -> None:
    sketch = Sketch()
    places, source = sketch.const(2, dtype=torch.int64), sketch.const(2)
    found = sketch.refusal(aten.put.default, sketch.rows(4), places, source)
    assert found == "mixes: put writes at places that are counted through all rows"
    assert sketch.refusal(aten.put.default, sketch.const(9), sketch.rows(dtype=torch.int64), sketch.rows()) == found
