"""What explain() is told of a kind of calls."""

from __future__ import annotations

from torchpool.insight import KindRecord
from torchpool.predictor.captured import Captured
from torchpool.predictor.kinds import Kind, context_in_words


def record(kind: Kind, captured: Captured | None, order: str) -> KindRecord:
    """`order`: in which its calls run where they are not probed."""
    found = captured or Captured()
    return KindRecord(
        inputs=tuple(kind.names),
        contract=kind.as_served(kind.contract),
        reason=kind.reason,
        not_widened=kind.not_widened,
        by_graph=found.backend is not None,
        no_graph=found.reason,
        graph_notes=found.notes,
        rows=found.rows,
        merged=kind.as_served(found.contract),
        merging=kind.merging,
        unshown=kind.unshown,
        context=context_in_words(kind.context) if kind.by_module else None,
        order=order,
        refuted=kind.refuted,
        seconds=found.seconds,
        probes=kind.probes,
        probed_seconds=kind.probed_seconds,
    )
