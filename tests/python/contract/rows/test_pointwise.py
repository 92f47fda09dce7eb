"""Entries computed from the entries at their place."""

from __future__ import annotations

import torch
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import CONST, All, Rows


def test_operands_are_aligned_at_the_right() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.add.Tensor, sketch.rows(4, dim=0), sketch.const(4)) == Rows(0)
    assert sketch.claim(aten.add.Tensor, sketch.rows(4), sketch.rows(3, 4, dim=1)) == Rows(1)


def test_a_constant_has_no_entries_along_the_rows() -> None:
    sketch = Sketch()
    expanded = sketch.add(aten.mul.Tensor, sketch.const(3, 4), 2)
    assert sketch.of(expanded) == CONST
    found = sketch.claim(aten.add.Tensor, sketch.rows(1, dim=0), sketch.rows(1, dim=1))
    assert isinstance(found, All)
    assert found.kind == "mixes"


def test_a_write_of_one_constant_keeps_rows_apart() -> None:
    sketch = Sketch()
    x = sketch.add(aten.clone.default, sketch.rows(4))
    assert sketch.claim(aten.fill_.Scalar, x, 0.0) == Rows(0)
    assert sketch.of(x) == Rows(0)
    assert torch.Tag.pointwise in aten.add.Tensor.tags
