"""Products, distances and linear algebra: which dims may hold rows, and whose."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import CONST, Order, Packed, Rows, Same

SUMS = "mixes: a product sums over the rows"
EACH = "mixes: each row meets each other row"


def _tensor(sketch: Sketch, text: str) -> Any:
    """ "B 4" is [B, 4] of rows, "3 4" a constant; "2*B" are two entries of each row, "B*2" all rows twice."""
    folds = {"B": Rows(0), "B*2": Rows(0, outer=2), "2*B": Rows(0, inner=2)}
    words = text.split()
    dim = next((place for place, word in enumerate(words) if word in folds), None)
    if dim is None:
        return sketch.const(*map(int, words))
    layout = folds[words[dim]].at(dim)
    entries = sketch.batch * layout.outer * layout.inner
    return sketch.claimed(layout, *(entries if place == dim else int(word) for place, word in enumerate(words)))


def _found(target: Any, *operands: str, **more: Any) -> Any:
    sketch = Sketch()
    return sketch.claim(target, *(_tensor(sketch, text) for text in operands), **more)


def _refusal(target: Any, *operands: str, **more: Any) -> str:
    sketch = Sketch()
    return sketch.refusal(target, *(_tensor(sketch, text) for text in operands), **more)


@pytest.mark.parametrize(
    ("target", "operands", "dim"),
    [
        (aten.matmul.default, ["B 3 4", "4 5"], 0),
        (aten.matmul.default, ["3 B 4", "4 5"], 1),
        (aten.matmul.default, ["B 2 3 4", "B 2 4 5"], 0),
        (aten.matmul.default, ["B 2 3 4", "1 2 4 5"], 0),
        (aten.matmul.default, ["2 B 3 4", "B 4 5"], 1),
        (aten.matmul.default, ["B 3 4", "4"], 0),
        (aten.matmul.default, ["4", "B 4 5"], 0),
        (aten.matmul.default, ["4", "4 B"], 0),
        (aten.matmul.default, ["3 4", "4 B"], 1),
        (aten.matmul.default, ["3 4", "B 4 5"], 0),
        (aten.linalg_matmul.default, ["B 4", "4 5"], 0),
        (aten.mm.default, ["B 4", "4 5"], 0),
        (aten.bmm.default, ["B 3 4", "B 4 5"], 0),
        (aten.bmm.default, ["2 B 4", "2 4 5"], 1),
        (aten.mv.default, ["B 4", "4"], 0),
        (aten.addmm.default, ["5", "B 4", "4 5"], 0),
        (aten.addmm.default, ["B 5", "B 4", "4 5"], 0),
        (aten.baddbmm.default, ["B 1 5", "B 3 4", "B 4 5"], 0),
        (aten.addmv.default, ["B", "B 4", "4"], 0),
        (aten.addbmm.default, ["5", "2 B 4", "2 4 5"], 0),
        (aten.outer.default, ["B", "3"], 0),
        (aten.outer.default, ["3", "B"], 1),
        (aten.addr.default, ["4", "B", "4"], 0),
        (aten.inner.default, ["B 4", "3 4"], 0),
        (aten.inner.default, ["2 3 4", "B 4"], 2),
        (aten.linear.default, ["B 3 4", "5 4", "5"], 0),
        (aten.linear.default, ["3 B 4", "5 4"], 1),
        (aten.linear.default, ["B 4", "4"], 0),
        (aten.linear.default, ["3 4", "B 4"], 1),
        (aten.bilinear.default, ["B 3", "B 4", "5 3 4", "5"], 0),
        (aten.cdist.default, ["B 3 4", "B 5 4"], 0),
        (aten.cdist.default, ["B 4", "5 4"], 0),
        (aten.cdist.default, ["5 4", "B 4"], 1),
        (aten.cosine_similarity.default, ["B 4", "B 4"], 0),
        (aten.cosine_similarity.default, ["2 4 B", "2 4 B"], 1),
        (aten.linalg_vecdot.default, ["B 4", "4"], 0),
        (aten.pairwise_distance.default, ["3 B 4", "3 B 4"], 1),
        (aten.linalg_cross.default, ["B 3", "B 3"], 0),
        (aten.linalg_solve.default, ["B 3 3", "B 3"], 0),
        (aten.linalg_solve.default, ["B 3 3", "3"], 0),
        (aten.linalg_solve.default, ["B 3 3", "B 3 2"], 0),
        (aten.linalg_solve.default, ["3 3", "B 3 2"], 0),
        (aten.linalg_solve.default, ["B 3 3", "3 2"], 0),
        (aten.cholesky_solve.default, ["B 3 2", "B 3 3"], 0),
        (aten.linalg_inv.default, ["B 3 3"], 0),
        (aten.linalg_det.default, ["2 B 3 3"], 1),
    ],
)
def test_rows_along_a_dim_that_is_not_summed_stay_apart(target: Any, operands: list[str], dim: int) -> None:
    assert _found(target, *operands) == Rows(dim)


def test_each_result_has_the_rows() -> None:
    assert _found(aten.linalg_inv_ex.default, "B 3 3") == [Rows(0), Rows(0)]
    assert _found(aten.linalg_solve_ex.default, "B 3 3", "B 3") == [Rows(0), Rows(0)]


def test_more_dims_of_products() -> None:
    assert _found(aten.pairwise_distance.default, "B 4", "B 4", keepdim=True) == Rows(0)
    assert _found(aten.linalg_solve_triangular.default, "B 3 3", "B 3 2", upper=True) == Rows(0)
    assert _found(aten.matmul.default, "3 4", "4 5") == CONST


@pytest.mark.parametrize(
    ("target", "operands", "why"),
    [
        (aten.matmul.default, ["3 B", "B 4"], SUMS),
        (aten.matmul.default, ["B", "B"], SUMS),
        (aten.matmul.default, ["B", "B 4"], SUMS),
        (aten.matmul.default, ["3 B", "B"], SUMS),
        (aten.matmul.default, ["B 4", "4 B"], EACH),
        (aten.matmul.default, ["B 3 4", "4 B"], EACH),
        (aten.dot.default, ["B", "B"], SUMS),
        (aten.vdot.default, ["B", "B"], SUMS),
        (aten.mv.default, ["3 B", "B"], SUMS),
        (aten.bmm.default, ["2 3 B", "2 B 4"], SUMS),
        (aten.addmm.default, ["3 5", "3 B", "B 5"], SUMS),
        (aten.addbmm.default, ["3 5", "B 3 4", "B 4 5"], SUMS),
        (aten.outer.default, ["B", "B"], EACH),
        (aten.inner.default, ["3 B", "B"], SUMS),
        (aten.inner.default, ["B 4", "B 4"], EACH),
        (aten.linear.default, ["3 B", "5 B"], "mixes: a linear layer sums over the rows"),
        (aten.linear.default, ["B 4", "B 4"], EACH),
        (aten.bilinear.default, ["3 B", "3 4", "5 B 4"], "mixes: a bilinear layer sums over the rows"),
        (aten.bilinear.default, ["3 4", "3 B", "5 4 B"], "mixes: a bilinear layer sums over the rows"),
        (aten.cdist.default, ["B 4", "B 4"], EACH),
        (aten.cdist.default, ["3 B", "4 B"], "mixes: a distance sums over the rows"),
        (aten.cosine_similarity.default, ["3 B", "3 B"], "mixes: cosine_similarity over the rows"),
        (aten.pairwise_distance.default, ["3 B", "3 B"], "mixes: pairwise_distance over the rows"),
    ],
)
def test_rows_that_are_summed_or_meet_are_refused(target: Any, operands: list[str], why: str) -> None:
    assert _refusal(target, *operands) == why


@pytest.mark.parametrize("dim", [1, -1])
def test_a_named_dim_with_the_rows_is_refused(dim: int) -> None:
    assert _refusal(aten.cosine_similarity.default, "3 B", "3 B", dim=dim) == "mixes: cosine_similarity over the rows"


@pytest.mark.parametrize(
    ("target", "operands"),
    [
        (aten.matmul.default, ["B*2 3 4", "2*B 4 5"]),
        (aten.addmm.default, ["B*2 5", "2*B 4", "4 5"]),
        (aten.addr.default, ["B*2 4", "2*B", "4"]),
        (aten.linear.default, ["3 4", "2*B 4", "B*2"]),
        (aten.cosine_similarity.default, ["B*2 4", "2*B 4"]),
        (aten.linalg_solve.default, ["B*2 3 3", "2*B 3 2"]),
    ],
)
def test_rows_that_are_folded_otherwise_are_refused(target: Any, operands: list[str]) -> None:
    found = _refusal(target, *operands)
    assert found.startswith("mixes: rows in dim ")
    assert "2 x rows x 1" in found
    assert "1 x rows x 2" in found


def test_folded_rows_stay_folded() -> None:
    assert _found(aten.linear.default, "2*B 4", "5 4") == Rows(0, inner=2)
    sketch = Sketch()
    same = sketch.claimed(Same(0, 2), sketch.batch * 2, 4)
    folded = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 4)
    assert sketch.claim(aten.linalg_vecdot.default, same, folded) == Rows(0, inner=2)


@pytest.mark.parametrize(
    ("equation", "operands", "dim"),
    [
        ("bij,bjk->bik", ["B 3 4", "B 4 5"], 0),
        ("bij,jk->ikb", ["B 3 4", "4 5"], 2),
        ("b i j , b j k -> b i k", ["B 3 4", "B 4 5"], 0),
        ("...ij,...jk->...ik", ["B 3 4", "B 4 5"], 0),
        ("...ij,jk->...ik", ["2 B 3 4", "4 5"], 1),
        ("...i,i...->...", ["B 3", "3 B"], 0),
        ("...i,...i->...i", ["2 B 3", "B 3"], 1),
        ("bij,jk", ["B 3 4", "4 5"], 0),
        ("zij,jk", ["B 3 4", "4 5"], 2),
        ("...a,a", ["2 B 3", "3"], 1),
        ("bii->bi", ["B 3 3"], 0),
        ("bij->b", ["B 3 4"], 0),
        ("bi,ib->bi", ["B 3", "3 B"], 0),
        ("Bb->bB", ["B 3"], 1),
        ("ij,jk->ik", ["B 4", "4 5"], 0),
    ],
)
def test_einsum_keeps_the_letter_of_the_rows(equation: str, operands: list[str], dim: int) -> None:
    sketch = Sketch()
    assert sketch.claim(aten.einsum.default, equation, [_tensor(sketch, text) for text in operands]) == Rows(dim)


@pytest.mark.parametrize(
    ("equation", "operands", "why"),
    [
        ("bij,bjk->ik", ["B 3 4", "B 4 5"], "mixes: einsum sums over the rows"),
        ("bi,bj", ["B 3", "B 4"], "mixes: einsum sums over the rows"),
        ("...i->i", ["B 3"], "mixes: einsum sums over the rows"),
        ("bi,ci->bc", ["B 3", "B 3"], EACH),
        ("bi,bi->bi", ["B*2 3", "2*B 3"], "mixes: rows in dim 0, 2 x rows x 1 meet rows in dim 0, 1 x rows x 2"),
    ],
)
def test_einsum_that_sums_over_the_rows_is_refused(equation: str, operands: list[str], why: str) -> None:
    sketch = Sketch()
    assert sketch.refusal(aten.einsum.default, equation, [_tensor(sketch, text) for text in operands]) == why


@pytest.mark.parametrize(
    ("operands", "dims", "expected"),
    [
        (["B 3 4", "4 5"], ([2], [0]), Rows(0)),
        (["3 B 4", "4 3 5"], ([0, -1], [1, 0]), Rows(0)),
        (["3 4", "5 B 4"], ([1], [2]), Rows(2)),
        (["3 B", "B 5"], ([1], [0]), SUMS),
        (["3 B", "B 5"], ([-1], [-2]), SUMS),
        (["B 4", "B 4"], ([1], [1]), EACH),
    ],
)
def test_tensordot_sums_over_the_dims_it_is_given(operands: list[str], dims: Any, expected: Any) -> None:
    sketch = Sketch()
    ask = sketch.refusal if isinstance(expected, str) else sketch.claim
    assert ask(aten.tensordot.default, *(_tensor(sketch, text) for text in operands), *dims) == expected


@pytest.mark.parametrize("target", [aten.cross.default, aten.linalg_cross.default])
def test_cross_products(target: Any) -> None:
    assert _found(target, "B 3 4", "B 3 4", dim=1) == Rows(0)
    assert _found(target, "3 B", "3 B", dim=-2) == Rows(1)


def test_a_cross_product_without_a_dim_is_not_known() -> None:
    assert _refusal(aten.cross.default, "B 3", "B 3") == "unknown: a cross product that is given no dim"


def test_a_distance_that_keeps_its_dim_is_none_over_the_rows() -> None:
    assert (
        _refusal(aten.pairwise_distance.default, "3 B", "3 B", keepdim=True) == "mixes: pairwise_distance over the rows"
    )


@pytest.mark.parametrize("operand", ["B 4", "4 B", "3 B 4"])
@pytest.mark.parametrize("name", ["linalg_qr", "linalg_svdvals"])
def test_linear_algebra_over_the_rows_is_refused(name: str, operand: str) -> None:
    assert _refusal(getattr(aten, name).default, operand) == f"mixes: {name} over the rows"


def test_right_sides_of_triangular_systems_are_matrices() -> None:
    assert _refusal(aten.linalg_solve_triangular.default, "B 1 1 1", "B 1 1", upper=True) == EACH


@pytest.mark.parametrize("right", ["3 B", "3 3 B"])
def test_rows_as_right_sides_are_refused(right: str) -> None:
    found = _refusal(aten.linalg_solve_triangular.default, "3 3", right, upper=True)
    assert found == "mixes: linalg_solve_triangular over the rows"


def test_a_list_in_an_order_that_all_rows_decide_passes_a_layer() -> None:
    sketch = Sketch()
    keys = sketch.rows(dtype=torch.int64)
    values = Packed(0, Order(keys, keys, Rows(0)), Rows(0))
    listed = sketch.claimed(values, sketch.batch, 4)
    assert sketch.claim(aten.linear.default, listed, sketch.const(5, 4), sketch.const(5)) == values
    assert sketch.claim(aten.matmul.default, listed, sketch.const(4, 5)) == values
    places = sketch.claimed(dataclasses.replace(values, role="index"), sketch.batch, 1)
    expected = "mixes: computes with places in a list of all rows"
    assert sketch.refusal(aten.linear.default, places, sketch.const(5, 1)) == expected
    refused = sketch.refusal(aten.addmm.default, listed, sketch.rows(3), sketch.const(3, 4))
    assert refused == "mixes: rows in dim 0 meet packed"
