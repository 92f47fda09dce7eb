"""Over and along dims."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import count, folded, listed, order, same

from torchpool.contract.rows.domain import Packed, Rows, Same

REDUCTIONS = [
    (aten.sum.dim_IntList, "{dims}", 1),
    (aten.mean.dim, "{dims}", 1),
    (aten.amax.default, "{dims}", 1),
    (aten.std.correction, "{dims}", 1),
    (aten.var_mean.correction, "{dims}", 2),
    (aten.logsumexp.default, "{dims}", 1),
    (aten.linalg_vector_norm.default, "2 {dims}", 1),
    (aten.norm.ScalarOpt_dim, "2 {dims}", 1),
    (aten.prod.dim_int, "{dim}", 1),
    (aten.any.dim, "{dim}", 1),
    (aten.argmax.default, "{dim}", 1),
    (aten.max.dim, "{dim}", 2),
    (aten.min.dim, "{dim}", 2),
    (aten.median.dim, "{dim}", 2),
    (aten.mode.default, "{dim}", 2),
    (aten.kthvalue.default, "1 {dim}", 2),
]


def _given(text: str, dim: int) -> list[Any]:
    return [{"{dims}": [dim], "{dim}": dim}.get(item, 2) if item != "1" else 1 for item in text.split()]


def _each(claim: Any, results: int) -> Any:
    return claim if results == 1 else [claim] * results


@pytest.mark.parametrize(("target", "text", "results"), REDUCTIONS)
def test_a_reduction_leaves_out_dims_that_are_not_the_rows(target: Any, text: str, results: int) -> None:
    sketch = Sketch()
    first, last = sketch.rows(3, 4), sketch.rows(3, 4, dim=1)
    assert sketch.claim(target, first, *_given(text, 1)) == _each(Rows(0), results)
    assert sketch.claim(target, first, *_given(text, -1)) == _each(Rows(0), results)
    assert sketch.claim(target, last, *_given(text, 0)) == _each(Rows(0), results)
    if "correction" not in str(target):  # there a keyword
        assert sketch.claim(target, last, *_given(text, 0), True) == _each(Rows(1), results)
    assert sketch.claim(target, folded(sketch, 2, 3, 4), *_given(text, 1)) == _each(Rows(0, 2, 3), results)


@pytest.mark.parametrize(("target", "text"), [(target, text) for target, text, _ in REDUCTIONS])
@pytest.mark.parametrize("dim", [1, -2])
def test_a_reduction_over_the_rows_is_refused(target: Any, text: str, dim: int) -> None:
    sketch = Sketch()
    found = sketch.refusal(target, sketch.rows(3, 4, dim=1), *_given(text, dim))
    assert found == f"mixes: {target._schema.name.removeprefix('aten::')} over the rows"


@pytest.mark.parametrize(
    "target",
    [aten.sum.default, aten.max.default, aten.argmax.default, aten.median.default, aten.std.default, aten.norm.Scalar],
)
def test_a_reduction_without_dims_is_one_over_all(target: Any) -> None:
    sketch = Sketch()
    found = sketch.refusal(target, sketch.rows(3))
    assert found == f"mixes: {target._schema.name.removeprefix('aten::')} over the rows, as over all dims"
    assert sketch.refusal(aten.sum.default, sketch.rows()) == "mixes: sum over the rows"
    assert sketch.refusal(aten.amax.default, sketch.rows(3), []).endswith("over all dims")
    two = sketch.refusal(aten.sum.dim_IntList, sketch.rows(3, 4), [0, 1])
    assert two == "mixes: sum over the rows"


def test_a_reduction_over_several_dims() -> None:
    sketch = Sketch()
    x = sketch.rows(3, 4, 5, dim=2)
    assert sketch.claim(aten.sum.dim_IntList, x, [0, 1]) == Rows(0)
    assert sketch.claim(aten.sum.dim_IntList, x, [0, -1]) == Rows(1)
    assert sketch.claim(aten.sum.dim_IntList, x, [0, -1], True) == Rows(2)
    assert sketch.claim(aten.var_mean.correction, x, [0], keepdim=True) == [Rows(2), Rows(2)]
    assert sketch.claim(aten.aminmax.default, x, dim=0) == [Rows(1), Rows(1)]
    assert sketch.claim(aten.sum.dim_IntList, same(sketch, 2, 3), [1]) == Same(0, 2)


def test_the_larger_of_two_is_pointwise() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.max.other, sketch.rows(3), sketch.const(3)) == Rows(0)
    assert sketch.refusal(aten.min.other, sketch.rows(1), sketch.rows(1, dim=1)).startswith("mixes: rows along dim 0")


def test_lists_of_rows() -> None:
    sketch = Sketch()
    by = order(sketch)
    values = Packed(0, by, by.rows)
    assert sketch.claim(aten.sum.dim_IntList, listed(sketch, by, 3), [1]) == values
    assert sketch.claim(aten.amax.default, listed(sketch, by, 3, role="sorted"), [1]) == values
    assert sketch.claim(aten.softmax.int, listed(sketch, by, 3), 1) == values
    assert sketch.claim(aten.max.dim, listed(sketch, by, 3), 1) == [values, values]
    assert sketch.refusal(aten.softmax.int, listed(sketch, by, 3), 0) == "mixes: softmax over the rows"
    for role in ("index", "index_part", "inverse"):
        places = listed(sketch, by, 3, role=role)
        found = sketch.refusal(aten.sum.dim_IntList, places, [1])
        assert found == "mixes: computes with places in a list of all rows"


def test_quantiles() -> None:
    sketch = Sketch()
    x = sketch.rows(4, 5, dim=1)
    assert sketch.claim(aten.quantile.scalar, x, 0.5, 0) == Rows(0)
    assert sketch.claim(aten.quantile.default, x, sketch.const(3), 2) == Rows(2)
    assert sketch.claim(aten.quantile.default, x, sketch.const(3), 2, True) == Rows(2)
    assert sketch.claim(aten.quantile.default, x, sketch.const(), 0) == Rows(0)
    assert sketch.refusal(aten.nanquantile.scalar, x, 0.5, 1) == "mixes: nanquantile over the rows"
    found = sketch.refusal(aten.quantile.default, sketch.const(4), sketch.rows(), 0)
    assert found == "mixes: which quantile is taken comes from rows"


ALONG = [
    (aten.softmax.int, lambda dim: (dim,), 1),
    (aten._safe_softmax.default, lambda dim: (dim,), 1),
    (aten.log_softmax.int, lambda dim: (dim,), 1),
    (aten.cumprod.default, lambda dim: (dim,), 1),
    (aten.cummax.default, lambda dim: (dim,), 2),
    (aten.logcumsumexp.default, lambda dim: (dim,), 1),
    (aten.topk.default, lambda dim: (2, dim), 2),
    (aten.flip.default, lambda dim: ([dim],), 1),
    (aten.roll.default, lambda dim: ([1], [dim]), 1),
    (aten.glu.default, lambda dim: (dim,), 1),
    (aten.fft_fft.default, lambda dim: (None, dim), 1),
    (aten.fft_fftshift.default, lambda dim: ([dim],), 1),
    (aten.diff.default, lambda dim: (1, dim), 1),
]


@pytest.mark.parametrize(("target", "arguments", "results"), ALONG)
def test_along_a_dim_that_is_not_the_rows(target: Any, arguments: Any, results: int) -> None:
    sketch = Sketch()
    for dim in (0, 2, -1):
        assert sketch.claim(target, sketch.rows(4, 4, dim=1), *arguments(dim)) == _each(Rows(1), results)
    if target is not aten.glu.default:  # which takes no odd number of rows
        for dim in (1, -2):
            found = sketch.refusal(target, sketch.rows(4, 4, dim=1), *arguments(dim))
            assert found == f"mixes: {target._schema.name.removeprefix('aten::')} over the rows"


def test_a_gate_over_the_rows_is_refused() -> None:
    sketch = Sketch()
    assert sketch.refusal(aten.glu.default, folded(sketch, 2, 1, 3), 0) == "mixes: glu over the rows"


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.roll.default, ([1],)),
        (aten.fft_fftn.default, ()),
        (aten.fft_fftshift.default, ()),
        (aten.flip.default, ([],)),
    ],
)
def test_along_all_dims_is_refused(target: Any, arguments: Any) -> None:
    sketch = Sketch()
    found = sketch.refusal(target, sketch.rows(4), *arguments)
    assert found == f"mixes: {target._schema.name.removeprefix('aten::')} over the rows, as over all dims"


def test_along_two_dims() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.fft_fft2.default, sketch.rows(4, 4)) == Rows(0)
    assert sketch.refusal(aten.fft_fft2.default, sketch.rows(4, 4, dim=1)) == "mixes: fft_fft2 over the rows"
    assert sketch.claim(aten.rot90.default, sketch.rows(4, 4), 1, [1, 2]) == Rows(0)
    assert sketch.refusal(aten.rot90.default, sketch.rows(4, 4)) == "mixes: rot90 over the rows"
    found = sketch.refusal(aten.roll.default, sketch.rows(4), [count(sketch)], [1])
    assert found == "mixes: computes with the number of rows"


def test_differences_from_what_is_aligned() -> None:
    sketch = Sketch()
    x = folded(sketch, 2, 1, 4)
    beside = folded(sketch, 2, 1, 1)
    assert sketch.claim(aten.diff.default, x, 1, -1, beside) == Rows(0, 2)
    assert sketch.claim(aten.diff.default, x, 1, -1, None, beside) == Rows(0, 2)
    other = sketch.claimed(Rows(0, 1, 2), 2 * sketch.batch, 1)
    for arguments in ((other,), (None, other), (beside, other)):
        found = sketch.refusal(aten.diff.default, x, 1, -1, *arguments)
        assert found == "mixes: diff from values that are not aligned with the rows"


def test_renorm_takes_norms_over_all_other_dims() -> None:
    sketch = Sketch()
    x = sketch.rows(3, 4, dim=1)
    for dim in (1, -2):
        assert sketch.claim(aten.renorm.default, x, 2, dim, 1.0) == Rows(1)
    for dim in (0, 2, -1):
        assert sketch.refusal(aten.renorm.default, x, 2, dim, 1.0) == "mixes: renorm takes norms over the rows"
    assert torch.renorm(torch.ones(2, 3), 2, 0, 1.0).norm(dim=1).allclose(torch.ones(2))
