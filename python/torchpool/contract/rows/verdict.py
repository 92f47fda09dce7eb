"""The verdict over a graph: are its rows proven independent, and how do they lie in each output?"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch.fx import Graph, Node

from torchpool.contract.rows.domain import All, Const, Count, Iota, Rows, show
from torchpool.contract.rows.proof import Proof
from torchpool.contract.rows.sizes import holds, size_of, whole

_RANK = {"state": 0, "random": 1, "mixes": 2, "unknown": 3}


@dataclass(frozen=True)
class Verdict:
    """What was found out about a graph."""

    kind: Literal["proven", "mixes", "unknown", "random", "state"]
    reason: str | None
    """Why rows meet, in words that a user can act on; None if proven."""
    op: str | None
    """The operator where they do."""
    source: str | None
    """The line of the user's code that it comes from, as "model.py:29 `n.max()`"."""
    outputs: tuple[Rows | None, ...]
    """How rows lie in each output, None for a constant; empty unless proven."""
    ops: int
    """Operators in the graph."""

    @property
    def proven(self) -> bool:
        return self.kind == "proven"

    @property
    def text(self) -> str:
        """The verdict in words."""
        if self.proven:
            return f"rows proven independent (graph of {self.ops} ops)"
        where = f", {self.source}" if self.source else f" ({self.op})" if self.op else ""
        what = {
            "mixes": "rows meet",
            "unknown": "rows may meet",
            "random": "draws random numbers",
            "state": "has state",
        }
        return f"{what[self.kind]}: {self.reason}{where}"


def prove(
    graph: Graph,
    inputs: Mapping[Node, int | None],
    outputs: Sequence[Node],
    written: Sequence[tuple[str, Node]] = (),
) -> tuple[Verdict, Proof | None]:
    """The verdict over an exported graph, and the proof with the claims of all nodes.

    `inputs`: per placeholder of the call the dim of its rows, None for what all rows share; a dim of c * B entries
    holds c of each row, one behind the other. `outputs`: what the user gets. `written`: what is written back beside, in
    words.
    """
    ops = sum(node.op == "call_function" for node in graph.nodes)

    def end(kind: Any, reason: str, node: Node | None = None) -> Verdict:
        op = str(node.target) if node is not None and node.op == "call_function" else None
        return Verdict(kind, reason, op, None if node is None else source_of(node), (), ops)

    batch, problem = _batch_of(inputs)
    if problem is not None:
        return end(*problem), None
    rows = {}
    for node, dim in inputs.items():
        shape = node.meta["val"].shape
        others = [d for d, size in enumerate(shape) if d != dim and holds(size, batch)]
        if others:
            return end("mixes", f"dim {others[0]} of an input must be as long as there are rows"), None
        if dim is not None:
            inner = whole(size_of(shape[dim]) / batch)
            rows[node] = Rows(dim, 1, inner)
    proof = Proof(graph, rows, batch).run()
    problems = [_problem(proof.claims[node], node) for node in outputs]
    found = [one for one in problems if one is not None]
    found += proof.writes + [All(f"changes {what}", "state", node) for what, node in written]
    if found:
        worst = min(found, key=lambda one: _RANK[one.kind])
        return end(worst.kind, worst.why, worst.node), proof
    layouts = tuple(None if isinstance(c := proof.claims[node], Const) else c for node in outputs)
    return Verdict("proven", None, None, None, layouts, ops), proof


def _batch_of(inputs: Mapping[Node, int | None]) -> tuple[Any, tuple[Any, str] | None]:
    """The symbol B, or what is wrong."""
    batch = None
    for node, dim in inputs.items():
        if dim is None:
            continue
        size = size_of(node.meta["val"].shape[dim])
        free = size.free_symbols
        if len(free) != 1 or whole(size / next(iter(free))) is None:
            return None, ("mixes", f"the number of rows became {size}")
        symbol = next(iter(free))
        if batch is not None and symbol != batch:
            return None, ("unknown", "the inputs have different numbers of rows")
        batch = symbol
    return (None, ("unknown", "no input has rows")) if batch is None else (batch, None)


def _problem(claim: Any, node: Node) -> All | None:
    if isinstance(claim, All):
        return claim
    if isinstance(claim, Iota):
        return All("the number of the row is given out", "mixes", node)
    if isinstance(claim, Count):
        return All("the number of rows is given out", "mixes", node)
    if isinstance(claim, Const | Rows):
        return None
    return All(f"an output is {show(claim)}, in an order that all rows decide or in no one layout", "mixes", node)


def source_of(node: Node) -> str | None:
    """The line of code that a node comes from, the innermost that is neither torch's nor of the export itself."""
    trace = node.meta.get("stack_trace") or ""
    lines = re.findall(r'File "([^"]+)", line (\d+), in \S+\n\s*(.*)', trace)
    if not lines:
        return None
    own = [line for line in lines if not any(part in line[0] for part in ("/torch/", "/torchpool/capture/"))]
    file, number, code = (own or lines)[-1]
    return f"{file.rsplit('/', 1)[-1]}:{number} `{code.strip()[:70]}`"
