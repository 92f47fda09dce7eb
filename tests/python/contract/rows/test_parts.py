"""Parts of values, and repeated values."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import check, count, folded, forced, listed, numbers, order, same, uniform

from torchpool.contract.rows.domain import CONST, Iota, Packed, Rows, Same, Uniform

END = 2**63 - 1


def sized(sketch: Sketch, sizes: Any) -> list[Any]:
    """Sizes with B in them as numbers of the graph."""
    return [count(sketch, item) if isinstance(item, torch.SymInt) else item for item in sizes]


# Repeated.


@pytest.mark.parametrize(
    ("make", "counts", "expected"),
    [
        (lambda s: s.rows(4), lambda b: [1, 3], Rows(0)),
        (lambda s: s.rows(4), lambda b: [2, 1], Rows(0, 2)),
        (lambda s: s.rows(4), lambda b: [3, 2, 1], Rows(1, 2)),
        (lambda s: folded(s, 2, 3), lambda b: [5], Rows(0, 10, 3)),
        (lambda s: same(s, 2), lambda b: [3], Same(0, 6)),
        (lambda s: s.rows(4), lambda b: [b, 1], "mixes: rows are repeated as many times as there are rows"),
        (lambda s: numbers(s, 1), lambda b: [1, 3], Iota(0)),
        (lambda s: numbers(s), lambda b: [2], "mixes: repeats row numbers"),
        (lambda s: uniform(s, 2 * s.batch), lambda b: [3], Uniform()),
        (lambda s: s.const(4), lambda b: [b, 1], Rows(0)),
        (lambda s: s.const(4), lambda b: [3 * b, 1], Same(0, 3)),
        (lambda s: s.const(1), lambda b: [3 * b], Same(0, 3)),
        (lambda s: s.const(4), lambda b: [b], Rows(0, 1, 4)),
        (lambda s: s.const(4), lambda b: [3 * b], Rows(0, 3, 4)),
        (lambda s: s.const(2, 1), lambda b: [3, 1, b], Rows(2)),
        (lambda s: s.const(1), lambda b: [b, b], Uniform()),
        (
            lambda s: s.const(3),
            lambda b: [b, b],
            "mixes: a constant of several entries is repeated for the rows in 2 dims",
        ),
        (
            lambda s: s.const(3),
            lambda b: [b + 1],
            "mixes: a constant is repeated s26 + 1 times, which is no multiple of the number of rows",
        ),
    ],
)
def test_repeated_one_time_after_the_other(make: Any, counts: Any, expected: Any) -> None:
    sketch = Sketch()
    given = sized(sketch, counts(sketch.batch))
    check(sketch.claim(aten.repeat.default, make(sketch), given), expected)
    check(sketch.claim(aten.tile.default, make(sketch), given), expected)


def test_tiled_along_the_last_dims() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.tile.default, sketch.rows(4), [3]) == Rows(0)
    assert sketch.claim(aten.tile.default, sketch.rows(4, dim=1), [3]) == Rows(1, 3)


def test_a_list_repeated() -> None:
    sketch = Sketch()
    by = order(sketch)
    assert sketch.claim(aten.repeat.default, listed(sketch, by, 3), [2, 1, 2]) == Packed(1, by, by.rows)
    refused = "mixes: repeats a list in an order that all rows decide"
    assert sketch.refusal(aten.repeat.default, listed(sketch, by), [2]) == refused
    assert sketch.refusal(aten.repeat_interleave.self_int, listed(sketch, by), 2, 0) == refused
    assert sketch.claim(aten.repeat_interleave.self_int, listed(sketch, by, 3), 2, 1) == Packed(0, by, by.rows)


@pytest.mark.parametrize(
    ("make", "times", "dim", "expected"),
    [
        (lambda s: s.rows(4), lambda b: 2, 0, Rows(0, 1, 2)),
        (lambda s: s.rows(4), lambda b: 2, -1, Rows(0)),
        (lambda s: folded(s, 2, 3), lambda b: 5, 0, Rows(0, 2, 15)),
        (lambda s: same(s, 2), lambda b: 3, 0, Same(0, 2, 3)),
        (lambda s: s.rows(), lambda b: 2, None, Rows(0, 1, 2)),
        (lambda s: s.rows(4), lambda b: 2, None, Rows(0, 1, 8)),
        (lambda s: s.rows(4, dim=1), lambda b: 2, None, Rows(0, 4, 2)),
        (lambda s: s.rows(4), lambda b: b, 0, "mixes: rows are repeated as many times as there are rows"),
        (lambda s: numbers(s, 3), lambda b: 2, 1, Iota(0)),
        (lambda s: numbers(s), lambda b: 2, 0, "mixes: repeats row numbers"),
        (lambda s: uniform(s, 2 * s.batch), lambda b: 2, 0, Uniform()),
        (lambda s: s.const(4), lambda b: b, 0, Rows(0, 4)),
        (lambda s: s.const(4), lambda b: 3 * b, -1, Rows(0, 4, 3)),
        (lambda s: s.const(1, 4), lambda b: 3 * b, 0, Same(0, 3)),
        (lambda s: s.const(2, 3), lambda b: b, None, Rows(0, 6)),
        (
            lambda s: s.const(4),
            lambda b: b + 1,
            0,
            "mixes: a constant is repeated s26 + 1 times, which is no multiple of the number of rows",
        ),
    ],
)
def test_each_entry_repeated_at_once(make: Any, times: Any, dim: int | None, expected: Any) -> None:
    sketch = Sketch()
    [given] = sized(sketch, [times(sketch.batch)])
    check(sketch.claim(aten.repeat_interleave.self_int, make(sketch), given, dim), expected)


def test_numbers_of_repeats_from_a_tensor() -> None:
    sketch = Sketch()
    times = sketch.const(4, dtype=torch.int64)
    found = sketch.refusal(aten.repeat_interleave.self_Tensor, sketch.rows(4), times, 1, output_size=8)
    assert found == "unknown: repeat_interleave with numbers from a tensor"


# Taken apart.


@pytest.mark.parametrize(
    ("target", "more", "results", "why"),
    [
        (aten.select.int, (0,), None, "takes one place along the rows"),
        (aten.unbind.int, (), 3, "unbind along the rows"),
    ],
)
def test_places_along_a_dim(target: Any, more: Any, results: int | None, why: str) -> None:
    def each(claim: Any) -> Any:
        return claim if results is None else [claim] * results

    sketch = Sketch()
    by = order(sketch)
    x = sketch.rows(3, 3, dim=1)
    assert sketch.claim(target, x, 0, *more) == each(Rows(0))
    assert sketch.claim(target, x, 2, *more) == each(Rows(1))
    assert sketch.claim(target, x, -3, *more) == each(Rows(0))
    for dim in (1, -2) if results is None else ():
        assert sketch.refusal(target, x, dim, *more) == f"mixes: {why}"
    assert sketch.claim(target, numbers(sketch, 3), 1, *more) == each(Iota(0))
    assert sketch.claim(target, listed(sketch, by, 3), 1, *more) == each(Packed(0, by, by.rows))
    assert sketch.claim(target, uniform(sketch, 3, sketch.batch), 0, *more) == each(Rows(0))
    assert sketch.claim(target, uniform(sketch, 3, 2 * sketch.batch), 0, *more) == each(Uniform())


def test_one_place_of_values_and_lists_along_their_own_dim() -> None:
    sketch = Sketch()
    by = order(sketch)
    assert sketch.refusal(aten.select.int, listed(sketch, by, 3), 0, 1) == "mixes: takes one place along the rows"
    assert sketch.claim(aten.select.int, uniform(sketch, 2 * sketch.batch), 0, 1) == CONST
    found = sketch.refusal(aten.select.int, sketch.rows(9), 1, count(sketch, sketch.batch - 1))
    assert found == "mixes: computes with the number of rows"


def test_rows_taken_apart_are_refused() -> None:
    sketch = Sketch()
    x = sketch.rows(3)
    check(forced(sketch, [sketch.const(3)], aten.unbind.int, x, 0), "mixes: unbind along the rows")


SOME = "mixes: takes some of the rows"
ALONG = "mixes: takes some of the entries along the rows"
PLACE = "mixes: cuts at a place that depends on the number of rows"


@pytest.mark.parametrize(
    ("make", "arguments", "expected"),
    [
        (lambda s: s.rows(8), lambda b: (1, 0, 3), Rows(0)),
        (lambda s: s.rows(8), lambda b: (-1, -3, END, 2), Rows(0)),
        (lambda s: s.rows(8), lambda b: (0, 0, END), Rows(0)),
        (lambda s: s.rows(8), lambda b: (0, None, None), Rows(0)),
        (lambda s: s.rows(8), lambda b: (0, 0, b), Rows(0)),
        (lambda s: s.rows(8), lambda b: (0, 0, 1), SOME),
        (lambda s: s.rows(8), lambda b: (0, 1, END), SOME),
        (lambda s: s.rows(8), lambda b: (0, 0, -1), SOME),
        (lambda s: s.rows(8), lambda b: (0, 0, END, 2), ALONG),
        (lambda s: folded(s, 4, 1), lambda b: (0, 0, b), Rows(0)),
        (lambda s: folded(s, 4, 1), lambda b: (0, b, 3 * b), Rows(0, 2)),
        (lambda s: folded(s, 4, 1), lambda b: (0, -2 * b, END), Rows(0, 2)),
        (lambda s: folded(s, 4, 1), lambda b: (0, 1, b + 1), SOME),
        (lambda s: folded(s, 4, 1), lambda b: (0, 0, 4 * b, 2), ALONG),
        (lambda s: folded(s, 1, 4), lambda b: (0, 0, b), SOME),
        (lambda s: folded(s, 2, 4), lambda b: (0, 4 * b, END), Rows(0, 1, 4)),
        (lambda s: same(s, 3), lambda b: (0, b, END), Same(0, 2)),
        (lambda s: s.claimed(Iota(0, 2), 2 * s.batch), lambda b: (0, 0, b), ALONG),
        (lambda s: numbers(s), lambda b: (0, 0, END), Iota(0)),
        (lambda s: numbers(s, 4), lambda b: (1, 0, 2), Iota(0)),
        (lambda s: listed(s, order(s)), lambda b: (0, 0, 2), ALONG),
        (lambda s: s.rows(8), lambda b: (1, b, b + 3), PLACE),
        (lambda s: s.rows(8), lambda b: (1, 0, b), PLACE),
        (lambda s: s.const(8), lambda b: (0, 0, b), PLACE),
        (lambda s: s.const(8), lambda b: (0, b - 5, b - 3), PLACE),
        (lambda s: s.const(8), lambda b: (0, 0, 8, b), PLACE),
        (lambda s: uniform(s, 3, 2 * s.batch), lambda b: (0, 0, 2), Uniform()),
        (lambda s: uniform(s, 3, 2 * s.batch), lambda b: (1, 0, b), Rows(1)),
        (lambda s: uniform(s, 2 * s.batch), lambda b: (0, 0, 2), CONST),
    ],
)
def test_cut(make: Any, arguments: Any, expected: Any) -> None:
    sketch = Sketch()
    check(sketch.claim(aten.slice.Tensor, make(sketch), *sized(sketch, arguments(sketch.batch))), expected)


def test_cut_at_a_free_length() -> None:
    sketch = Sketch()
    length = sketch.length(5)
    many = sketch.claimed(Rows(0, length.node.expr), length * sketch.batch)
    assert sketch.claim(aten.narrow.default, many, 0, count(sketch), count(sketch)) == Rows(0)
    assert sketch.claim(aten.narrow.default, many, 0, 0, count(sketch, 2 * sketch.batch)) == Rows(0, 2)
    square = count(sketch, sketch.batch * sketch.batch)
    check(forced(sketch, folded(sketch, 1, 1), aten.narrow.default, many, 0, square, 0), SOME)
    check(forced(sketch, uniform(sketch, sketch.batch * sketch.batch), aten.narrow.default, many, 0, 0, 0), SOME)


def test_narrowed() -> None:
    sketch = Sketch()
    by = order(sketch)
    assert sketch.claim(aten.narrow.default, sketch.rows(8), 1, 2, 3) == Rows(0)
    assert sketch.claim(aten.narrow.default, sketch.rows(8), 0, 0, count(sketch)) == Rows(0)
    assert sketch.refusal(aten.narrow.default, sketch.rows(8), 0, 1, 2) == SOME
    assert sketch.refusal(aten.narrow.default, sketch.rows(8), 1, 0, count(sketch)) == PLACE
    assert sketch.claim(aten.narrow.default, listed(sketch, by, 8), 1, 0, 2) == Packed(0, by, by.rows)
    start = sketch.const(dtype=torch.int64)
    assert sketch.refusal(aten.narrow.Tensor, sketch.rows(8), 0, start, 2) == ALONG


APART = "mixes: splits at a place that depends on the number of rows"


@pytest.mark.parametrize(
    ("make", "target", "arguments", "expected"),
    [
        (lambda s: s.rows(8), aten.split.Tensor, lambda b: (3, 1), [Rows(0)] * 3),
        (lambda s: s.rows(8), aten.split.Tensor, lambda b: (3, -1), [Rows(0)] * 3),
        (lambda s: s.rows(8), aten.split_with_sizes.default, lambda b: ([3, 5], 1), [Rows(0)] * 2),
        (lambda s: s.rows(8), aten.chunk.default, lambda b: (2, 1), [Rows(0)] * 2),
        (lambda s: s.rows(8), aten.tensor_split.sections, lambda b: (3, 1), [Rows(0)] * 3),
        (lambda s: s.rows(8), aten.tensor_split.indices, lambda b: ([2, 3], 1), [Rows(0)] * 3),
        (lambda s: s.rows(8), aten.unsafe_chunk.default, lambda b: (2, 1), [Rows(0)] * 2),
        (lambda s: s.rows(8), aten.unsafe_split.Tensor, lambda b: (4, 1), [Rows(0)] * 2),
        (lambda s: numbers(s, 4), aten.split.Tensor, lambda b: (2, 1), [Iota(0)] * 2),
        (lambda s: folded(s, 3, 2), aten.split.Tensor, lambda b: (2 * b,), [Rows(0, 1, 2)] * 3),
        (lambda s: folded(s, 3, 1), aten.split_with_sizes.default, lambda b: ([b, 2 * b],), [Rows(0), Rows(0, 2)]),
        (lambda s: same(s, 3), aten.split_with_sizes.default, lambda b: ([b, 2 * b],), [Same(0), Same(0, 2)]),
        (lambda s: folded(s, 4, 1), aten.chunk.default, lambda b: (2,), [Rows(0, 2)] * 2),
        (lambda s: folded(s, 1, 2), aten.chunk.default, lambda b: (2,), "mixes: chunk along the rows"),
        (
            lambda s: s.rows(),
            aten.split_with_sizes.default,
            lambda b: ([1, b - 1],),
            "mixes: split_with_sizes along the rows",
        ),
        (
            lambda s: s.claimed(Iota(0, 2), 2 * s.batch),
            aten.split.Tensor,
            lambda b: (b,),
            "mixes: split along the rows",
        ),
        (lambda s: listed(s, order(s, 2)), aten.split.Tensor, lambda b: (b,), "mixes: split along the rows"),
        (lambda s: s.rows(8), aten.split_with_sizes.default, lambda b: ([b - 4, 3, 9 - b], 1), APART),
        (lambda s: s.const(8), aten.split_with_sizes.default, lambda b: ([b - 4, 3, 9 - b], 0), APART),
        (lambda s: uniform(s, 2 * s.batch), aten.split.Tensor, lambda b: (b,), [Rows(0)] * 2),
        (lambda s: uniform(s, 4, 2 * s.batch), aten.split.Tensor, lambda b: (2,), [Uniform()] * 2),
    ],
)
def test_split(make: Any, target: Any, arguments: Any, expected: Any) -> None:
    sketch = Sketch()
    given = [
        sized(sketch, item) if isinstance(item, list) else sized(sketch, [item])[0] for item in arguments(sketch.batch)
    ]
    check(sketch.claim(target, make(sketch), *given), expected)


def test_split_into_parts_that_the_number_of_rows_multiplies() -> None:
    sketch = Sketch()
    square = uniform(sketch, sketch.batch * sketch.batch)
    found = forced(sketch, [square, sketch.rows()], aten.split.Tensor, folded(sketch, 3, 1), 1)
    check(found, "mixes: split along the rows")
    by = order(sketch)
    assert sketch.claim(aten.split.Tensor, listed(sketch, by, 4), 2, 1) == [Packed(0, by, by.rows)] * 2
