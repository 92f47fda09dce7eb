"""Other shapes for the same entries."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import check, count, folded, listed, numbers, order, same, shaped_constant, uniform

from torchpool.contract.rows.domain import CONST, All, Iota, Packed, Rows, Same, Uniform

CUT = "mixes: a reshape cuts through rows"


# Other sizes for the same entries.


@pytest.mark.parametrize(
    ("make", "sizes", "expected"),
    [
        (lambda s: s.rows(6), lambda b: [b, 2, 3], Rows(0)),
        (lambda s: s.rows(6), lambda b: [2 * b, 3], Rows(0, 1, 2)),
        (lambda s: s.rows(6), lambda b: [6 * b], Rows(0, 1, 6)),
        (lambda s: s.rows(6, dim=1), lambda b: [6 * b], Rows(0, 6)),
        (lambda s: s.rows(6, 4, dim=1), lambda b: [3, 2 * b, 4], Rows(1, 2)),
        (lambda s: s.rows(6, 4, dim=1), lambda b: [3, 4 * b, 2], Rows(1, 2, 2)),
        (lambda s: s.rows(6, 4, dim=1), lambda b: [2, 3, b, 2, 2], Rows(2)),
        (lambda s: s.rows(6, 4, dim=1), lambda b: [1, 6, b, 1, 4], Rows(2)),
        (lambda s: folded(s, 2, 3, 4), lambda b: [2, 3 * b, 4], Rows(1, 1, 3)),
        (lambda s: folded(s, 2, 3, 4), lambda b: [2 * b, 12], Rows(0, 2)),
        (lambda s: folded(s, 2, 3, 4), lambda b: [2, b, 12], Rows(1)),
        (lambda s: folded(s, 2, 3), lambda b: [3 * b, 2], CUT),
        (lambda s: folded(s, 2, 3), lambda b: [3, 2 * b], CUT),
        (lambda s: folded(s, 1, 2), lambda b: [2, b], CUT),
        (lambda s: folded(s, 2, 1), lambda b: [b, 2], CUT),
        (lambda s: s.rows(6, dim=1), lambda b: [b, 6], CUT),
        (lambda s: s.rows(3, 2, dim=1), lambda b: [2, 3 * b], CUT),
        (lambda s: numbers(s), lambda b: [1, b, 1], Iota(1)),
        (lambda s: numbers(s, 1), lambda b: [b], Iota(0)),
        (
            lambda s: numbers(s, 2),
            lambda b: [2 * b],
            "mixes: folds the numbers of rows, which are no numbers of entries then",
        ),
        (
            lambda s: s.claimed(Iota(0, 1, 2), 2 * s.batch),
            lambda b: [b, 2],
            "mixes: folds the numbers of rows, which are no numbers of entries then",
        ),
        (lambda s: uniform(s, 2 * s.batch), lambda b: [2, b], Rows(1)),
        (lambda s: uniform(s, s.batch, 2 * s.batch), lambda b: [2 * b, b], Uniform()),
        (
            lambda s: shaped_constant(s, s.batch, 2),
            lambda b: [b, 2, 1],
            "mixes: a constant is cut into as many parts as there are rows",
        ),
        (lambda s: s.rows(0), lambda b: [b, 0, 3], "unknown: reshapes a value without entries"),
        (lambda s: s.rows(0), lambda b: [0], "unknown: reshapes a value without entries"),
    ],
)
def test_views(make: Any, sizes: Any, expected: Any) -> None:
    sketch = Sketch()
    given = [size if isinstance(size, int) else count(sketch, size) for size in sizes(sketch.batch)]
    for target in (aten.view.default, aten.reshape.default, aten._unsafe_view.default):
        check(sketch.claim(target, make(sketch), given), expected)


def test_views_with_free_lengths() -> None:
    sketch = Sketch()
    length = sketch.length(5)
    x = sketch.rows(length, 8)
    tokens = sketch.add(aten.view.default, x, [-1, 8])
    assert sketch.of(tokens) == Rows(0, 1, length.node.expr)
    sizes = [count(sketch), count(sketch, length), 2, 4]
    assert sketch.claim(aten.view.default, tokens, sizes) == Rows(0)


def test_a_view_that_puts_the_number_of_rows_into_two_dims_is_refused() -> None:
    sketch = Sketch()
    length = sketch.length(5)
    x = sketch.rows(length)
    assert sketch.claim(aten.view.default, x, [-1]) == Rows(0, 1, length.node.expr)
    node = sketch.claimed(Rows(0), sketch.batch)
    node.meta["val"] = sketch.claimed(Uniform(), sketch.batch * sketch.batch).meta["val"]
    found = sketch.refusal(aten.view.default, node, [count(sketch), count(sketch)])
    assert found == "mixes: a reshape puts the number of rows into 2 dims"


@pytest.mark.parametrize(
    ("make", "sizes", "expected"),
    [
        (lambda s: same(s, 6), lambda b: [3, 2 * b], Same(1, 2)),
        (lambda s: same(s, 6), lambda b: [b, 6], Same(0)),
        (lambda s: same(s, 6), lambda b: [2, b, 3], Same(1)),
        (lambda s: same(s, 2, 3), lambda b: [2, b, 3], Same(1)),
        (lambda s: same(s, 2, 3), lambda b: [2 * b, 3, 1], Same(0, 2)),
        (lambda s: same(s, 2, 3), lambda b: [6 * b], Rows(0, 2, 3)),
        (lambda s: same(s, 2, 3), lambda b: [b, 6], Same(0)),
        (lambda s: same(s, 2, 3), lambda b: [2, 3 * b], Rows(1, 1, 3)),
        (lambda s: s.claimed(Same(1, 2), 3, 2 * s.batch), lambda b: [3 * b, 2], Rows(0, 3)),
        (lambda s: s.claimed(Same(1, 2), 3, 2 * s.batch), lambda b: [6, b], Same(1)),
        (lambda s: s.claimed(Same(0), s.batch, 6), lambda b: [2, 3 * b], CUT),
        (lambda s: s.claimed(Same(0, 3), 3 * s.batch, 6), lambda b: [2, 9 * b], CUT),
        (lambda s: s.claimed(Same(1), 6, s.batch), lambda b: [3 * b, 2], CUT),
        (lambda s: same(s, 5), lambda b: [7, 5 * b // 7], CUT),
    ],
)
def test_views_of_entries_that_are_equal_for_all_rows(make: Any, sizes: Any, expected: Any) -> None:
    sketch = Sketch()
    given = [size if isinstance(size, int) else count(sketch, size) for size in sizes(sketch.batch)]
    check(sketch.claim(aten.view.default, make(sketch), given), expected)


@pytest.mark.parametrize(
    ("shape", "sizes", "dim"),
    [
        ((6,), lambda n: [n, 2, 3], 0),
        ((6,), lambda n: [n, 6, 1], 0),
        ((6,), lambda n: [1, n, 6], 1),
        ((6,), lambda n: [2 * n, 3], None),
        ((6,), lambda n: [6 * n], None),
        ((6,), lambda n: [6, n], None),
    ],
)
def test_views_of_a_list(shape: Any, sizes: Any, dim: int | None) -> None:
    sketch = Sketch()
    by = order(sketch, 2)
    given = [size if isinstance(size, int) else count(sketch, size) for size in sizes(2 * sketch.batch)]
    found = sketch.claim(aten.reshape.default, listed(sketch, by, *shape), given)
    refused = "mixes: a reshape cuts through a list in an order that all rows decide"
    check(found, refused if dim is None else Packed(dim, by, by.rows))


def test_other_ways_to_reshape() -> None:
    sketch = Sketch()
    x = sketch.rows(2, 6)
    spoiled = sketch.claimed(All("x"), sketch.batch, 12)
    assert sketch.claim(aten.flatten.using_ints, x, 0, 1) == Rows(0, 1, 2)
    assert sketch.claim(aten.flatten.using_ints, x, -2, -1) == Rows(0)
    assert sketch.claim(aten.ravel.default, x) == Rows(0, 1, 12)
    assert sketch.claim(aten.unflatten.int, x, 2, [2, 3]) == Rows(0)
    assert sketch.claim(aten.view_as.default, x, spoiled) == Rows(0)
    assert sketch.claim(aten.reshape_as.default, x, spoiled) == Rows(0)
    found = sketch.refusal(aten.view.dtype, x, torch.int32)
    assert found == "unknown: reinterprets bytes as another dtype"


# The same dims in another order, some more or some less.


@pytest.mark.parametrize(
    ("target", "arguments", "dims"),  # where dims 0, 1, 2 go
    [
        (aten.permute.default, ([2, 0, 1],), (1, 2, 0)),
        (aten.permute.default, ([-1, -3, -2],), (1, 2, 0)),
        (aten.transpose.int, (0, 2), (2, 1, 0)),
        (aten.transpose.int, (-2, -1), (0, 2, 1)),
        (aten.swapaxes.default, (0, 1), (1, 0, 2)),
        (aten.swapdims.default, (-3, 2), (2, 1, 0)),
        (aten.mT.default, (), (0, 2, 1)),
        (aten.mH.default, (), (0, 2, 1)),
        (aten.adjoint.default, (), (0, 2, 1)),
        (aten.numpy_T.default, (), (2, 1, 0)),
        (aten.movedim.int, (0, 2), (2, 0, 1)),
        (aten.movedim.int, (-1, 0), (1, 2, 0)),
        (aten.movedim.intlist, ([0, 1], [2, 0]), (2, 0, 1)),
        (aten.movedim.intlist, ([2, 0], [0, 1]), (1, 2, 0)),
        (aten.moveaxis.int, (1, 0), (1, 0, 2)),
    ],
)
def test_dims_in_another_order(target: Any, arguments: Any, dims: tuple[int, ...]) -> None:
    for dim, place in enumerate(dims):
        sketch = Sketch()
        assert sketch.claim(target, sketch.rows(3, 4, dim=dim), *arguments) == Rows(place)
        assert sketch.claim(target, numbers(sketch, 3, 4, dim=dim), *arguments) == Iota(place)


def test_matrices_are_turned() -> None:
    sketch = Sketch()
    for target in (aten.t.default, aten.numpy_T.default, aten.mT.default, aten.matrix_H.default, aten.adjoint.default):
        assert sketch.claim(target, folded(sketch, 2, 3, 4)) == Rows(1, 2, 3)
    assert sketch.claim(aten.t.default, sketch.rows()) == Rows(0)
    assert sketch.claim(aten.t.default, uniform(sketch, 2 * sketch.batch, 3)) == Uniform()
    by = order(sketch)
    assert sketch.claim(aten.t.default, listed(sketch, by, 3)) == Packed(1, by, by.rows)


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.transpose_.default, (1, 2)),
        (aten.swapaxes_.default, (1, 2)),
        (aten.unsqueeze_.default, (3,)),
        (aten.squeeze_.dim, (2,)),
        (aten.as_strided_.default, ([7, 3], [3, 1])),
    ],
)
def test_a_shape_is_not_changed_in_place(target: Any, arguments: Any) -> None:
    sketch = Sketch()
    x = sketch.add(aten.contiguous.default, sketch.rows(3, 1))
    name = target._schema.name.removeprefix("aten::")
    assert sketch.refusal(target, x, *arguments) == f"unknown: {name} changes a shape in place"
    assert isinstance(sketch.of(x), All)


@pytest.mark.parametrize(("dim", "place"), [(0, 2), (1, 2), (2, 1), (-1, 1), (-2, 1), (-3, 2), (3, 1)])
def test_one_more_dim(dim: int, place: int) -> None:
    sketch = Sketch()
    assert sketch.claim(aten.unsqueeze.default, sketch.rows(4, 3, dim=1), dim) == Rows(place)
    assert sketch.claim(aten.unsqueeze.default, uniform(sketch, 2 * sketch.batch, 3, 4), dim) == Uniform()
    by = order(sketch)
    values = sketch.add(aten.transpose.int, listed(sketch, by, 3, 4), 0, 1)
    assert sketch.claim(aten.unsqueeze.default, values, dim) == Packed(place, by, by.rows)


@pytest.mark.parametrize(
    ("make", "dims", "expected"),
    [
        (lambda s: s.rows(1, 4, 1, dim=1), [0], Rows(0)),
        (lambda s: s.rows(1, 4, 1, dim=1), [-4], Rows(0)),
        (lambda s: s.rows(1, 4, 1, dim=1), [3], Rows(1)),
        (lambda s: s.rows(1, 4, 1, dim=1), [0, 2, 3], Rows(0)),
        (lambda s: s.rows(4, 1, dim=1), [0], Rows(1)),
        (lambda s: numbers(s, 1, dim=1), [0], Iota(0)),
        (lambda s: s.rows(1, dim=1), [1], "mixes: squeezes the dim of the rows"),
        (lambda s: s.rows(1, dim=0), [0, 1], "mixes: squeezes the dim of the rows"),
        (lambda s: uniform(s, 2 * s.batch, 1), [0], "mixes: squeezes the dim of the rows"),
        (lambda s: uniform(s, 2 * s.batch, 1), [1], Uniform()),
        (lambda s: listed(s, order(s), 1), [0], "mixes: squeezes the dim of the rows"),
        (
            lambda s: s.rows(s.length(5), 1),
            [1],
            "unknown: squeezes a dim that goes only where its length is 1",
        ),
    ],
)
def test_dims_of_one_entry_go(make: Any, dims: list[int], expected: Any) -> None:
    sketch = Sketch()
    check(sketch.claim(aten.squeeze.dims, make(sketch), dims), expected)
    if len(dims) == 1:
        check(sketch.claim(aten.squeeze.dim, make(sketch), dims[0]), expected)


def test_the_rows_dim_goes_for_one_row() -> None:
    sketch = Sketch()
    found = sketch.refusal(aten.squeeze.default, sketch.rows(1, 4))
    assert found == "mixes: squeezes the dim of the rows, as all that have one entry"
    by = order(sketch)
    values = sketch.add(aten.transpose.int, listed(sketch, by, 1), 0, 1)
    assert sketch.claim(aten.squeeze.dim, values, 0) == Packed(0, by, by.rows)


def test_at_least_so_many_dims() -> None:
    sketch = Sketch()
    line, matrix = sketch.rows(), sketch.rows(4)
    assert sketch.claim(aten.atleast_1d.default, line) == Rows(0)
    assert sketch.claim(aten.atleast_2d.default, line) == Rows(1)
    assert sketch.claim(aten.atleast_3d.default, line) == Rows(1)
    assert sketch.claim(aten.atleast_2d.default, matrix) == Rows(0)
    assert sketch.claim(aten.atleast_3d.default, matrix) == Rows(0)
    assert sketch.claim(aten.atleast_2d.Sequence, [line, matrix, sketch.const(3)]) == [Rows(1), Rows(0), CONST]


# Parts that are views.


@pytest.mark.parametrize(
    ("dims", "expected"),
    [
        ((0, 2), Rows(0)),
        ((2, 0), Rows(0)),
        ((-4, -2), Rows(0)),
        ((2, 3), Rows(1)),
        ((0, 1), "mixes: a diagonal over the rows"),
        ((-3, 2), "mixes: a diagonal over the rows"),
    ],
)
def test_diagonals(dims: tuple[int, int], expected: Any) -> None:
    sketch = Sketch()
    check(sketch.claim(aten.diagonal.default, sketch.rows(3, 3, 3, dim=1), 0, *dims), expected)


def test_diagonals_of_other_values() -> None:
    sketch = Sketch()
    by = order(sketch)
    assert sketch.claim(aten.diagonal.default, listed(sketch, by, 3, 3), 0, 1, 2) == Packed(0, by, by.rows)
    assert sketch.claim(aten.diagonal.default, uniform(sketch, sketch.batch, sketch.batch)) == Rows(0)


def test_windows() -> None:
    sketch = Sketch()
    x = sketch.rows(6, 4, dim=1)
    assert sketch.claim(aten.unfold.default, x, 0, 2, 1) == Rows(1)
    assert sketch.claim(aten.unfold.default, x, -1, 2, 2) == Rows(1)
    for dim in (1, -2):
        assert sketch.refusal(aten.unfold.default, x, dim, 2, 1) == "mixes: windows over the rows"
    by = order(sketch)
    assert sketch.claim(aten.unfold.default, listed(sketch, by, 6), 1, 2, 1) == Packed(0, by, by.rows)
    assert sketch.claim(aten.unfold.default, numbers(sketch, 6), 1, 2, 1) == Iota(0)


@pytest.mark.parametrize(
    ("sizes", "strides", "expected"),
    [
        (lambda b: [b, 3, 4], [8, 2, 1], Rows(0)),
        (lambda b: [b, 8], [8, 1], Rows(0)),
        (lambda b: [b], [8], Rows(0)),
        (lambda b: [b, 9], [8, 1], "unknown: as_strided may reach beyond a row"),
        (lambda b: [b, 3, 4], [8, 3, 1], "unknown: as_strided may reach beyond a row"),
        (lambda b: [b, 3], [4, 1], "unknown: as_strided that moves rows"),
        (lambda b: [4, b], [1, 8], "unknown: as_strided that moves rows"),
        (lambda b: [], [], "unknown: as_strided that moves rows"),
    ],
)
def test_strides_within_a_row(sizes: Any, strides: Any, expected: Any) -> None:
    sketch = Sketch()
    x = sketch.add(aten.contiguous.default, sketch.rows(8))
    given = [size if isinstance(size, int) else count(sketch, size) for size in sizes(sketch.batch)]
    check(sketch.claim(aten.as_strided.default, x, given, strides), expected)


def test_strides_of_what_is_not_known_to_be_contiguous() -> None:
    sketch = Sketch()
    x, sizes = sketch.rows(8), [count(sketch), 4]
    found = sketch.refusal(aten.as_strided.default, x, sizes, [8, 1])
    assert found == "unknown: as_strided of memory that is not made contiguous just before"
    found = sketch.refusal(aten.as_strided.default, sketch.add(aten.clone.default, x), sizes, [8, 1])
    assert found == "unknown: as_strided of memory that is not made contiguous just before"
    known = sketch.add(aten.contiguous.default, x)
    assert sketch.refusal(aten.as_strided.default, known, sizes, [8, 1], 0) == "unknown: as_strided from an offset"
    for other in (sketch.rows(8, dim=1), folded(sketch, 2, 1, 8)):
        given = sketch.add(aten.contiguous.default, other)
        found = sketch.refusal(aten.as_strided.default, given, sizes, [8, 1])
        assert found == "unknown: as_strided of rows that are not the first dim, or folded"


def test_triangles() -> None:
    sketch = Sketch()
    for target in (aten.tril.default, aten.triu.default):
        assert sketch.claim(target, sketch.rows(3, 3)) == Rows(0)
        for dim in (1, 2):
            assert sketch.refusal(target, sketch.rows(3, 3, dim=dim)) == "mixes: a triangle over the rows"
    by = order(sketch)
    assert sketch.claim(aten.tril.default, listed(sketch, by, 3, 3, role="sorted")) == Packed(0, by, by.rows)
    found = sketch.refusal(aten.tril.default, listed(sketch, by, 3, 3, role="index"))
    assert found == "mixes: computes with places in a list of all rows"


def test_complex_numbers() -> None:
    sketch = Sketch()
    x = sketch.add(aten.view_as_complex.default, sketch.rows(4, 2, dim=1))
    assert sketch.of(x) == Rows(1)
    assert sketch.claim(aten.view_as_real.default, x) == Rows(1)
    assert sketch.claim(aten.real.default, x) == Rows(1)
    assert sketch.claim(aten.imag.default, x) == Rows(1)
    assert sketch.claim(aten._conj.default, x) == Rows(1)
