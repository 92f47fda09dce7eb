"""Claims of values that hold nothing but constants."""

from __future__ import annotations

from typing import Any

import pytest
from rows_sketch import Sketch, aten
from rows_values import count

from torchpool.contract.rows.constants import one_entry
from torchpool.contract.rows.domain import CONST, Rows, Same, Uniform
from torchpool.contract.rows.sizes import size_of


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        (lambda b: [3, 4], CONST),
        (lambda b: [3, b], Rows(1)),
        (lambda b: [2 * b, 3], Uniform()),
        (lambda b: [b + 1], Uniform()),
        (lambda b: [b, b], Uniform()),
    ],
)
def test_one_constant_everywhere(shape: Any, expected: Any) -> None:
    sketch = Sketch()
    sizes = [size if isinstance(size, int) else count(sketch, size) for size in shape(sketch.batch)]
    assert sketch.claim(aten.zeros.default, sizes) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (lambda b: b, Rows(0)),
        (lambda b: 3 * b, Same(0, 3)),
        (lambda b: b + 1, "mixes: a constant is repeated s26 + 1 times, which is no multiple of the number of rows"),
        (lambda b: b * b, "mixes: a constant is repeated s26**2 times, which is no multiple of the number of rows"),
    ],
)
def test_entries_that_are_equal_along_a_dim(size: Any, expected: Any) -> None:
    sketch = Sketch()
    arguments = aten.expand.default, sketch.const(1, 4), [count(sketch, size(sketch.batch)), 4]
    assert (sketch.refusal if isinstance(expected, str) else sketch.claim)(*arguments) == expected


def test_a_shape_with_one_entry() -> None:
    assert one_entry([size_of(1), size_of(1)])
    assert one_entry([])
    assert not one_entry([size_of(1), size_of(2)])
    assert not one_entry([size_of(Sketch().batch)])
