"""Small graphs for tests of rules: an operator is applied to symbolic values, and the proof says what it claims.

sketch = Sketch()
x = sketch.rows(8, 4)                       # a call's input of shape [B, 8, 4]
assert sketch.claim(aten.softmax.int, x, 1) == Rows(0)
"""

from __future__ import annotations

from typing import Any

import torch
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.node import map_arg

from torchpool.contract.rows.domain import All, Claim, Rows
from torchpool.contract.rows.proof import Proof

aten = torch.ops.aten
_ROWS = 7  # the hint: equal to no other size of a test


class Sketch:
    """A graph that grows by an operator at a time, and its proof."""

    def __init__(self) -> None:
        self._shapes = ShapeEnv()
        self._mode = FakeTensorMode(shape_env=self._shapes, allow_non_fake_inputs=True)
        seed = self._symbolic(torch.empty(_ROWS), [0])
        self.batch: torch.SymInt = seed.shape[0]
        """B as a size, for operators that are given one."""
        self.graph = Graph()
        self.proof = Proof(self.graph, {}, self.batch.node.expr)

    def _symbolic(self, like: torch.Tensor, free: list[int]) -> torch.Tensor:
        sizes = [DimDynamic.DYNAMIC if dim in free else DimDynamic.STATIC for dim in range(like.dim())]
        context: Any = StatelessSymbolicContext(dynamic_sizes=sizes)
        return self._mode.from_tensor(like, symbolic_context=context)

    def length(self, hint: int) -> torch.SymInt:
        """A free size that is not B."""
        size: Any = self._symbolic(torch.empty(hint), [0]).shape[0]
        return size

    def rows(self, *rest: int | torch.SymInt, dim: int = 0, dtype: torch.dtype = torch.float32) -> Node:
        """An input with B at `dim` between the other sizes."""
        shape = [*rest[:dim], self.batch, *rest[dim:]]
        return self._input(shape, dtype, Rows(dim))

    def const(self, *shape: int | torch.SymInt, dtype: torch.dtype = torch.float32) -> Node:
        """An input that all rows share."""
        return self._input(shape, dtype, None)

    def claimed(self, claim: Claim, *shape: int | torch.SymInt, dtype: torch.dtype = torch.float32) -> Node:
        """An input of which `claim` is known."""
        return self._input(shape, dtype, claim)

    def _input(self, shape: Any, dtype: torch.dtype, claim: Any) -> Node:
        node = self.graph.placeholder(f"input_{len(self.graph.nodes)}")
        with self._mode:
            node.meta["val"] = torch.empty(tuple(shape), dtype=dtype)
        if claim is not None:
            self.proof.given[node] = claim
        self.proof.claims[node] = self.proof.claim_of(node)
        return node

    def add(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """The node that applies `target`; arguments may be nodes."""
        node = self.graph.call_function(target, args, kwargs)
        given, named = map_arg((args, kwargs), lambda used: used.meta["val"])
        with self._mode, enable_python_dispatcher():  # as export traces: composite operators take free sizes
            node.meta["val"] = target(*given, **named)
        if isinstance(node.meta["val"], tuple):
            node.meta["val"] = list(node.meta["val"])
        self.proof.claims[node] = self.proof.claim_of(node)
        return node

    def claim(self, target: Any, *args: Any, **kwargs: Any) -> Any:
        """What the proof claims of the result: one claim, or a list of them."""
        return self.proof.claims[self.add(target, *args, **kwargs)]

    def of(self, node: Node) -> Any:
        """The present claim of a node, which later writes may have changed."""
        return self.proof.claims[node]

    def refusal(self, target: Any, *args: Any, **kwargs: Any) -> str:
        """Why the result is not proven, as "mixes: why"; it must not be."""
        found = self.claim(target, *args, **kwargs)
        assert isinstance(found, All), found
        return f"{found.kind}: {found.why}"

    def refusal_like(self, target: Any, like: Node, *more: Any) -> str:
        """As `refusal`, of a result shaped as the first argument: where torch itself would fix the number of rows."""
        node = self.graph.call_function(target, (like, *more))
        node.meta["val"] = like.meta["val"]
        found = self.proof.claim_of(node)
        assert isinstance(found, All), found
        return f"{found.kind}: {found.why}"
