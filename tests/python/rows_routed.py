"""A list of all rows' entries, sorted by the expert that each has chosen."""

from __future__ import annotations

import operator
from typing import Any

import torch
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import All, Packed, Rows

LIST = "mixes: computes with places in a list of all rows"
EXPERTS = 4


def item(sketch: Sketch, node: Any, place: int) -> Any:
    found = sketch.graph.call_function(operator.getitem, (node, place))
    found.meta["val"] = node.meta["val"][place]
    sketch.proof.claims[found] = sketch.proof.claim_of(found)
    return found


class Routed:
    """Entries of rows, of which each has chosen two of four experts, and the list sorted by them."""

    def __init__(self, **sorting: Any) -> None:
        sketch = self.sketch = Sketch()
        ranked = sketch.add(aten.sort.default, sketch.rows(EXPERTS), -1)
        chosen = item(sketch, ranked, 1)
        # The views' own rules are others' business: what they claim is said here.
        self.chosen = chosen
        self.ids = self._view(aten.reshape.default, chosen, [-1], Rows(0, inner=EXPERTS))
        node = sketch.add(aten.sort.default, self.ids, **sorting)
        self.keys, self.places = item(sketch, node, 0), item(sketch, node, 1)
        self.order = sketch.proof.orders[-1]

    def _view(self, target: Any, node: Any, args: Any, claim: Any) -> Any:
        found = self.sketch.add(target, node, args)
        self.sketch.proof.claims[found] = claim
        return found

    def counts(self, keys: Any, bins: int = EXPERTS, low: int = 0, high: int = EXPERTS - 1) -> Any:
        floats = self.sketch.add(aten.to.dtype, keys, torch.float32)
        return self.sketch.add(aten.histc.default, floats, bins, low, high)

    def refusal(self, node: Any) -> str:
        found = self.sketch.of(node)
        assert isinstance(found, All), found
        return f"{found.kind}: {found.why}"

    def of(self, node: Any) -> Any:
        return self.sketch.of(node)

    def values(self, role: Any = "value", *more: int, claim: Any = None) -> Any:
        held = claim or Packed(0, self.order, self.order.rows, role)
        dtype = torch.float32 if role == "value" else torch.int64
        return self.sketch.claimed(held, self.sketch.batch * EXPERTS, *more, dtype=dtype)
