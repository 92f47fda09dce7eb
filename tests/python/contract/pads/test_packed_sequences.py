"""What padding does to layers over packed sequences: nothing, since a row ends at its own length."""

from __future__ import annotations

from typing import Any

import torch
from pads_sketch import PadSketch, along
from torch.fx import Node

from torchpool.capture import rnn_op  # noqa: F401  # tells the operator's shapes
from torchpool.contract.pads.domain import Kept, Lost


def _kernel(sketch: PadSketch, x: Node, lengths: Node | None, *, state: Node | None = None, both: bool = False) -> Any:
    flags = ("gru", 6, 1, both, True, True)
    packed = sketch.const(100)
    return sketch.claim(torch.ops.torchpool.rnn.default, x, state, None, packed, lengths, *flags)


def _lost(found: Any) -> str:
    assert isinstance(found, Lost), found
    return found.why


def test_states_are_kept_and_outputs_are_0_behind_the_end() -> None:
    for both in (False, True):
        sketch = PadSketch()
        lengths = sketch.const(3, dtype=torch.int64)
        found = _kernel(sketch, sketch.places(3, "L", 5), lengths, both=both)
        assert found == [along(1, fill=0), Kept(), Kept()]
        assert [text for text, _ in sketch.proof.conditions] == [
            "the lengths of packed sequences say how long a call's rows are: none is longer"
        ]


def test_what_does_not_run_along_the_length_is_the_same() -> None:
    sketch = PadSketch()
    assert _kernel(sketch, sketch.const(3, 4, 5), sketch.const(3, dtype=torch.int64)) == [Kept()] * 3


def test_what_padding_may_reach_is_refused() -> None:
    sketch = PadSketch()
    lengths = sketch.const(3, dtype=torch.int64)
    x = sketch.places(3, "L", 5)
    assert "folded" in _lost(_kernel(sketch, x, None))
    assert "run along the length" in _lost(_kernel(sketch, x, sketch.places("L", dtype=torch.int64)))
    assert "run along the length" in _lost(_kernel(sketch, x, lengths, state=sketch.places(1, "L", 6)))
    assert "no steps" in _lost(_kernel(sketch, sketch.places("L", 4, 5), lengths))
    assert "infinite or NaN" in _lost(_kernel(sketch, sketch.places(3, "L", 5, odd="any"), lengths))
