"""Several index tensors at once, and the dims of what they pick."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import Iota, Mixes, Rows
from torchpool.contract.rows.indices import picked
from torchpool.contract.rows.op import Operand


def _index(sketch: Sketch, *shape: Any, dtype: torch.dtype = torch.int64) -> Any:
    return sketch.const(*shape, dtype=dtype)


@pytest.mark.parametrize(
    ("rows_dim", "indices", "found"),
    [
        (0, [None, 3], 0),
        (0, [None, None, 3], 0),
        (1, [3], 1),
        (2, [(2, 3)], 3),
        (2, [(2, 3), (3,)], 2),
        (1, [3, None, 3], 1),
        (1, [(2, 3), None, 3], 2),
        (3, [None, 3, 3], 2),
        (0, [None, 3, None, 3], 1),
        (0, [None, (2, 3), None, 3], 2),
        (3, [None, (2, 3), (2, 1)], 3),
    ],
)
def test_rows_that_are_taken_whole_are_where_the_index_dims_leave_them(
    rows_dim: int, indices: list[Any], found: int
) -> None:
    sketch = Sketch()
    x = sketch.rows(4, 5, 6, dim=rows_dim)
    given = [None if i is None else _index(sketch, *((i,) if isinstance(i, int) else i)) for i in indices]
    assert sketch.claim(aten.index.Tensor, x, given) == Rows(found)


@pytest.mark.parametrize(("shape", "rows_dim", "found"), [((4,), 1, 1), ((4, 5), 2, 1), ((5, 6), 0, 0), ((5,), 0, 0)])
def test_a_mask_of_all_rows_has_one_dim_for_those_it_covers(shape: Any, rows_dim: int, found: int) -> None:
    sketch = Sketch()
    x = sketch.rows(4, 5, 6, dim=rows_dim)
    mask = sketch.const(*shape, dtype=torch.bool)
    given = [None, mask] if rows_dim == 0 else [mask]
    node = sketch.claimed(sketch.of(x), *x.meta["val"].shape)
    operands = [None if i is None else Operand(sketch.of(i), i.meta["val"], i) for i in given]
    result = picked(Operand(sketch.of(node), node.meta["val"], node), operands)
    (_, letters), places = result.target, result.result
    assert places.index(letters[rows_dim]) == found


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8])
def test_a_mask_from_rows_is_refused(dtype: torch.dtype) -> None:
    sketch = Sketch()
    mask = sketch.rows(dtype=dtype)
    operands = [Operand(sketch.of(node), node.meta["val"], node) for node in (sketch.rows(4), mask)]
    with pytest.raises(Mixes, match="picks by a mask"):
        picked(operands[0], [operands[1]])


def test_a_mask_of_no_dims_is_not_known() -> None:
    sketch = Sketch()
    x, mask = sketch.rows(4), sketch.const(dtype=torch.bool)
    operands = [Operand(sketch.of(node), node.meta["val"], node) for node in (x, mask)]
    with pytest.raises(Mixes, match="a mask of no dims") as refused:
        picked(operands[0], [operands[1]])
    assert refused.value.kind == "unknown"


def _numbers(sketch: Sketch, inner: int = 1, step: int = 1) -> Any:
    return sketch.claimed(Iota(0, inner=inner, step=step), sketch.batch * inner, dtype=torch.int64)


def test_numbers_of_rows_pick_each_row() -> None:
    sketch = Sketch()
    x, last = sketch.rows(5, 6), sketch.rows(dtype=torch.int64)
    assert sketch.claim(aten.index.Tensor, x, [_numbers(sketch)]) == Rows(0)
    assert sketch.claim(aten.index.Tensor, x, [_numbers(sketch), last]) == Rows(0)
    assert sketch.claim(aten.index.Tensor, x, [_numbers(sketch), None, last]) == Rows(0)
    assert sketch.claim(aten.index.Tensor, x, [_numbers(sketch), _index(sketch, 1)]) == Rows(0)
    column = sketch.claimed(Iota(0), sketch.batch, 1, dtype=torch.int64)
    assert sketch.claim(aten.index.Tensor, x, [column, _index(sketch, 3)]) == Rows(0)
    wide = sketch.claimed(Iota(1), 1, sketch.batch, dtype=torch.int64)
    assert sketch.claim(aten.index.Tensor, x, [wide, _index(sketch, 4, 1)]) == Rows(1)
    later = sketch.rows(5, 6, dim=1)
    assert sketch.claim(aten.index.Tensor, later, [None, _numbers(sketch)]) == Rows(1)
    assert sketch.claim(aten.index.Tensor, later, [_index(sketch, 3, 1), _numbers(sketch)]) == Rows(1)


def test_numbers_of_folded_rows_pick_entries_of_their_own() -> None:
    sketch = Sketch()
    x = sketch.claimed(Rows(0, inner=3), sketch.batch * 3, 4)
    assert sketch.claim(aten.index.Tensor, x, [_numbers(sketch, inner=3)]) == Rows(0, inner=3)
    assert sketch.claim(aten.index.Tensor, x, [_numbers(sketch, step=3)]) == Rows(0)
    tiled = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, 4)
    assert sketch.claim(aten.index.Tensor, tiled, [_numbers(sketch)]) == Rows(0)


FOLDED = "mixes: picks by numbers of rows that are folded otherwise"
NUMBER = "mixes: picks by the number of the row"


@pytest.mark.parametrize(
    ("claim", "numbers", "why"),
    [
        (Rows(0, inner=3), {}, FOLDED),
        (Rows(0, inner=3), {"step": 2}, FOLDED),
        (Rows(0, inner=2), {"inner": 3}, FOLDED),
        (Rows(1, inner=3), {"inner": 3}, NUMBER),
        (Iota(0), {}, "mixes: picks from the numbers of rows"),
    ],
)
def test_numbers_of_other_rows_are_refused(claim: Any, numbers: dict[str, int], why: str) -> None:
    sketch = Sketch()
    shape: list[Any] = [4, 4]
    shape[claim.dim] = sketch.batch * claim.inner
    x = sketch.claimed(claim, *shape)
    assert sketch.refusal(aten.index.Tensor, x, [_numbers(sketch, **numbers)]) == why


def test_numbers_of_rows_pick_nothing_from_constants() -> None:
    sketch = Sketch()
    numbers = _numbers(sketch)
    assert sketch.refusal(aten.index.Tensor, sketch.const(9, 4), [numbers]) == NUMBER
    assert sketch.refusal(aten.index.Tensor, sketch.rows(9), [numbers, numbers]) == NUMBER
    assert sketch.refusal(aten.index.Tensor, sketch.rows(9), [None, numbers]) == NUMBER


def test_indices_are_aligned_with_the_numbers_of_rows() -> None:
    sketch = Sketch()
    x, numbers = sketch.rows(5, 6), _numbers(sketch)
    column = sketch.claimed(Iota(0), sketch.batch, 1, dtype=torch.int64)
    each = "mixes: each row meets each other row"
    assert sketch.refusal(aten.index.Tensor, x, [column, sketch.rows(dtype=torch.int64)]) == each
    taken = sketch.claimed(Rows(0, inner=3), sketch.batch * 3, 5)
    folded = sketch.claimed(Rows(0, outer=3), sketch.batch * 3, dtype=torch.int64)
    found = sketch.refusal(aten.index.Tensor, taken, [_numbers(sketch, inner=3), folded])
    assert found == "mixes: rows in dim 0, 1 x rows x 3 meet rows in dim 0, 3 x rows x 1"
    assert sketch.refusal(aten.index.Tensor, sketch.const(4, 4), [numbers, numbers]) == NUMBER


def test_indices_from_rows_pick_from_constants_and_not_among_rows() -> None:
    sketch = Sketch()
    ids = sketch.rows(3, dtype=torch.int64)
    assert sketch.claim(aten.index.Tensor, sketch.const(9, 4), [ids]) == Rows(0)
    assert sketch.claim(aten.index.Tensor, sketch.const(9, 4), [None, ids]) == Rows(1)
    assert sketch.claim(aten.index.Tensor, sketch.const(9, 4, 5), [ids, None, _index(sketch, 3)]) == Rows(0)
    among = "mixes: an index picks among the rows"
    assert sketch.refusal(aten.index.Tensor, sketch.rows(4), [ids]) == among
    assert sketch.refusal(aten.index.Tensor, sketch.rows(4), [_index(sketch, 2)]) == among
    assert sketch.refusal(aten.index.Tensor, sketch.rows(4), [None, ids]) == "mixes: each row meets each other row"
