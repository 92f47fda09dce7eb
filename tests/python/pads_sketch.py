"""Small graphs for tests of the rules of padding: an operator is applied to symbolic values, and the proof says what it
claims.

sketch = PadSketch()
x = sketch.places(2, "L", 4, fill=0)                       # a value of shape [2, L, 4] that is 0 at padded places
assert sketch.claim(aten.sum.dim_IntList, x, [1]) == Kept()
"""

from __future__ import annotations

from typing import Any

import torch
from rows_sketch import Sketch
from torch.fx import Node

from torchpool.contract.pads.domain import Fill, Kept, Lost, Pad
from torchpool.contract.pads.op import Sizes
from torchpool.contract.pads.proof import PadProof


class PadSketch(Sketch):
    """A graph that grows by an operator at a time, and its proof of padding: B is the length."""

    def __init__(self) -> None:
        super().__init__()
        self.proof: Any = PadProof(self.graph, {}, Sizes(self.batch.node.expr))

    def places(
        self, *shape: int | str, fill: float | Fill | None = None, dtype: torch.dtype = torch.float32, **facts: Any
    ) -> Node:
        """An input with the length at each "L", and what it holds there; `facts` are of its claim."""
        held = fill if isinstance(fill, Fill) or fill is None else Fill(fill)
        pads = tuple(Pad(dim, fill=held) for dim, size in enumerate(shape) if size == "L")
        sizes = [self.batch if size == "L" else size for size in shape]
        return self._input(sizes, dtype, Kept(pads, **facts))

    def lost(self, target: Any, *args: Any, **kwargs: Any) -> str:
        """Why nothing is claimed of the result; it must not be."""
        found = self.claim(target, *args, **kwargs)
        if isinstance(found, list):
            found = found[0]
        assert isinstance(found, Lost), found
        return found.why


def along(*dims: int, fill: float | None = None, **facts: Any) -> Kept:
    """The claim of a value with these dims along the length, which hold the same."""
    held = None if fill is None else Fill(fill)
    return Kept(tuple(Pad(dim, fill=held) for dim in dims), **facts)
