"""What the rules of operators that make tensors say of padded places, and what they refuse."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from pads_sketch import PadSketch
from rows_sketch import aten

from torchpool.contract.pads.domain import Fill, Kept, Pad


def size_of(sketch: PadSketch) -> Any:
    """The length as a number in the graph."""
    return sketch.add(aten.sym_size.int, sketch.places(2, "L"), 1)


def test_a_constant_is_known_unless_it_is_complex_or_the_length() -> None:
    sketch = PadSketch()
    size = size_of(sketch)
    assert sketch.claim(aten.full.default, [size], 3) == Kept((Pad(0, fill=Fill(3)),), 3)
    assert sketch.claim(aten.full.default, [size], 3, dtype=torch.complex64) == Kept((Pad(0),))
    assert sketch.claim(aten.full.default, [size], 3j) == Kept((Pad(0),))
    assert "filled with the length" in sketch.lost(aten.scalar_tensor.default, size)


def test_a_tensor_of_other_sizes_along_the_length() -> None:
    sketch = PadSketch()
    folded = sketch.claimed(Kept((Pad(0, inner=2),)), 2 * sketch.batch)
    assert "entries along the length" in sketch.lost(aten.zeros_like.default, folded)


def test_numbers_that_count_from_the_length() -> None:
    sketch = PadSketch()
    size = size_of(sketch)
    after = sketch.graph.call_function(_more, (size,))
    after.meta["val"] = size.meta["val"] + 3
    sketch.proof.claims[after] = sketch.proof.claim_of(after)
    assert "count from a place that depends on the length" in sketch.lost(aten.arange.start, size, after)
    doubled = sketch.graph.call_function(_twice, (size,))
    doubled.meta["val"] = size.meta["val"] * 2
    sketch.proof.claims[doubled] = sketch.proof.claim_of(doubled)
    assert "count from a place, or in steps" in sketch.lost(aten.arange.start, size, doubled)


def _more(size: int) -> int:
    return size + 3


def _twice(size: int) -> int:
    return size * 2


def test_a_triangle_of_folded_places() -> None:
    sketch = PadSketch()
    folded = sketch.claimed(Kept((Pad(1, outer=2),)), 3, 2 * sketch.batch)
    assert "folded with others" in sketch.lost(aten.tril.default, folded)
    assert sketch.claim(aten.tril.default, sketch.places(3, "L")).pads == (Pad(1),)


@pytest.mark.parametrize(
    ("target", "shift", "lines", "columns"),
    [  # padded columns lie one above the diagonal at least, padded lines one below
        ("tril", 0, 1.0, 0),
        ("tril", 1, 1.0, None),
        ("tril", -1, 1.0, 0),
        ("tril", -2, None, 0),
        ("triu", 0, 0, 1.0),
        ("triu", 1, 0, 1.0),
        ("triu", 2, 0, None),
        ("triu", -1, None, 1.0),
        ("triu", -2, None, 1.0),
    ],
)
def test_a_triangle_cuts_off_what_is_padded_or_leaves_it(
    target: str, shift: int, lines: float | None, columns: float | None
) -> None:
    sketch = PadSketch()
    ones = sketch.claimed(Kept((Pad(0, fill=Fill(1.0)), Pad(1, fill=Fill(1.0)))), sketch.batch, sketch.batch)
    found = sketch.claim(getattr(aten, target).default, ones, shift)
    assert [pad.fill for pad in found.pads] == [None if one is None else Fill(one) for one in (lines, columns)]


def test_what_depends_on_how_many_there_are() -> None:
    sketch = PadSketch()
    assert "how long it is" in sketch.lost(aten.eye.default, size_of(sketch))
