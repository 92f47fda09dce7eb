"""Writes through views."""

from __future__ import annotations

from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import All


def test_a_write_through_a_view_that_mixes_spoils_what_shares_its_memory() -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(4))
    first = sketch.add(aten.as_strided.default, x, [1, 4], [4, 1])
    assert isinstance(sketch.of(first), All)
    sketch.add(aten.fill_.Scalar, first, 0.0)
    assert isinstance(sketch.of(x), All)
