"""Tensors made of sizes and numbers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import count, folded, listed, numbers, order, same, uniform

from torchpool.contract.rows.domain import All, Iota, Rows, Uniform


@pytest.mark.parametrize(
    "make",
    [
        lambda s, size: s.claim(aten.zeros.default, size),
        lambda s, size: s.claim(aten.ones.default, size),
        lambda s, size: s.claim(aten.empty.memory_format, size),
        lambda s, size: s.claim(aten.full.default, size, 2.0),
        lambda s, size: s.claim(aten.new_zeros.default, s.const(2), size),
        lambda s, size: s.claim(aten.new_ones.default, s.claimed(All("x"), 2), size),
        lambda s, size: s.claim(aten.new_full.default, s.claimed(All("x"), 2), size, 1.0),
        lambda s, size: s.claim(aten.new_empty.default, s.rows(2), size),
        lambda s, size: s.claim(aten.empty_strided.default, size, [size[1], 1]),
    ],
)
def test_one_constant_everywhere(make: Any) -> None:
    sketch = Sketch()
    assert make(sketch, [count(sketch), 3]) == Rows(0)
    assert make(sketch, [3, count(sketch)]) == Rows(1)
    assert make(sketch, [count(sketch), count(sketch)]) == Uniform()


@pytest.mark.parametrize(
    "make",
    [
        lambda s, *layout: s.refusal(aten.empty_strided.default, *layout),
        lambda s, *layout: s.refusal(aten.new_empty_strided.default, s.const(2), *layout),
    ],
)
def test_rows_in_one_place_of_memory_are_refused(make: Any) -> None:
    sketch = Sketch()
    refused = "unknown: rows may share memory in a tensor of such strides"
    assert make(sketch, [count(sketch), 3], [0, 1]) == refused
    assert make(sketch, [count(sketch), 3], [1, 1]) == refused


@pytest.mark.parametrize(
    "make",
    [
        lambda s: s.refusal(aten.full.default, [count(s), 3], count(s)),
        lambda s: s.refusal(aten.full.default, [3], count(s)),
        lambda s: s.refusal(aten.new_full.default, s.const(2), [3], count(s)),
    ],
)
def test_not_filled_with_the_number_of_rows(make: Any) -> None:
    assert make(Sketch()) == "mixes: a tensor is filled with the number of rows"


@pytest.mark.parametrize(
    "target", [aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default, aten.full_like.default]
)
def test_one_constant_with_the_shape_of_another_value(target: Any) -> None:
    sketch = Sketch()
    arguments = (1.0,) if target is aten.full_like.default else ()
    assert sketch.claim(target, sketch.rows(3), *arguments) == Rows(0)
    assert sketch.claim(target, folded(sketch, 2, 3), *arguments) == Rows(0, 2, 3)
    assert sketch.claim(target, numbers(sketch), *arguments) == Rows(0)
    assert sketch.claim(target, same(sketch, 2), *arguments) == Rows(0, 2)
    assert sketch.claim(target, listed(sketch, order(sketch)), *arguments) == Uniform()
    assert sketch.claim(target, uniform(sketch, sketch.batch, sketch.batch), *arguments) == Uniform()
    assert sketch.claim(target, sketch.claimed(All("x"), 3, sketch.batch), *arguments) == Rows(1)
    if arguments:
        assert sketch.refusal(target, sketch.rows(3), count(sketch)) == "mixes: computes with the number of rows"


@pytest.mark.parametrize(
    ("target", "arguments"),
    [
        (aten.eye.default, ("B",)),
        (aten.eye.m, (3, "B")),
        (aten.linspace.default, (0, 1, "B")),
        (aten.linspace.default, (0, "B", 4)),
        (aten.tril_indices.default, ("B", 3)),
        (aten.hann_window.default, ("B",)),
    ],
)
def test_entries_that_differ_by_place_are_refused(target: Any, arguments: Any) -> None:
    sketch = Sketch()
    found = sketch.refusal(target, *(count(sketch) if item == "B" else item for item in arguments))
    name = target._schema.name.removeprefix("aten::")
    assert found == f"mixes: {name} over the number of rows: each row's entries depend on which row it is"


def test_a_tensor_of_the_number_of_rows_is_refused() -> None:
    sketch = Sketch()
    assert sketch.refusal(aten.scalar_tensor.default, count(sketch)) == "mixes: a tensor is made of the number of rows"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (lambda b: (b,), Iota(0)),
        (lambda b: (0, b), Iota(0)),
        (lambda b: (0, b, 1), Iota(0)),
        (lambda b: (0, 3 * b, 3), Iota(0, step=3)),
        (lambda b: (3 * b,), Iota(0, inner=3)),
        (lambda b: (1, b + 1), "numbers rows from another start than 0"),
        (lambda b: (b, b + 3), "numbers rows from another start than 0"),
        (lambda b: (0, b * b, b), "counts in steps of the number of rows"),
        (lambda b: (0, b + 1), "numbers something else than rows, from the number of rows"),
        (lambda b: (0, 6 * b, 3), "numbers something else than rows, from the number of rows"),
        (lambda b: (b * b,), "numbers something else than rows, from the number of rows"),
    ],
)
def test_numbers(arguments: Any, expected: Any) -> None:
    sketch = Sketch()
    given = [item if isinstance(item, int) else count(sketch, item) for item in arguments(sketch.batch)]
    target = {1: aten.arange.default, 2: aten.arange.start, 3: aten.arange.start_step}[len(given)]
    if isinstance(expected, str):
        assert sketch.refusal(target, *given) == f"mixes: {expected}"
    else:
        assert sketch.claim(target, *given) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int8])
def test_numbers_are_whole_and_wide(dtype: torch.dtype) -> None:
    sketch = Sketch()
    found = sketch.refusal(aten.arange.default, count(sketch), dtype=dtype)
    assert found == f"mixes: numbers rows in {dtype}, which does not hold each number"
    assert sketch.claim(aten.arange.default, count(sketch), dtype=torch.int32) == Iota(0)
