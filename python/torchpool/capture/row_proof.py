"""The proof over an exported graph, from the contract's words to its own and back."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch.export.graph_signature import OutputKind
from torch.fx import Graph, Node

from torchpool.capture.program import OutputRows, ProvenRows
from torchpool.contract import Contract, RowsVerdict
from torchpool.contract.rows.domain import Rows
from torchpool.contract.rows.verdict import Verdict, prove


def prove_rows(flat: Graph, given: Sequence[Node], contract: Contract, outputs: Sequence[Any]) -> ProvenRows:
    """What is proven of the rows of a graph, with the graph as export left it.

    given: the placeholders of the call's tensors. outputs: export's list of what the graph gives, with what it is.
    """
    start = time.perf_counter()
    inputs = {node: spec.batch_dim for node, spec in zip(given, contract.inputs, strict=True)}
    values: Any = flat.output_node().args[0]
    pairs = list(zip(values, outputs, strict=True))
    results = [value for value, spec in pairs if spec.kind == OutputKind.USER_OUTPUT and isinstance(value, Node)]
    written = [
        (f"{'an input' if spec.kind == OutputKind.USER_INPUT_MUTATION else 'buffer'} {spec.target!r}", value)
        for value, spec in pairs
        if spec.kind != OutputKind.USER_OUTPUT
    ]
    verdict, _ = prove(flat, inputs, results, written)
    return _of(verdict, time.perf_counter() - start)


def _of(verdict: Verdict, seconds: float) -> ProvenRows:
    layouts = [None if layout is None else _output(layout) for layout in verdict.outputs]
    kind, text = verdict.kind, verdict.text
    if any(layout is not None and layout.outer is None and layout.inner is None for layout in layouts):
        kind, text = "unknown", "an output folds rows between two lengths, both of which vary"
    found = RowsVerdict(kind, text, verdict.op, verdict.source, verdict.ops, seconds=seconds)
    return ProvenRows(found, tuple(layouts) if kind == "proven" else ())


def _output(layout: Rows) -> OutputRows:
    """Sizes that vary become None: they follow from the others."""
    outer, inner = (int(size) if _is_number(size) else None for size in (layout.outer, layout.inner))
    return OutputRows(layout.dim, outer, inner)


def _is_number(size: Any) -> bool:
    return isinstance(size, int) or bool(getattr(size, "is_Integer", False))
