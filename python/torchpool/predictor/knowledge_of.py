"""What a predictor knows by now, for another one."""

from __future__ import annotations

from collections.abc import Sequence

from torchpool.contract import Contract
from torchpool.predictor.graphs import Graphs
from torchpool.predictor.kinds import Kind
from torchpool.predictor.knowledge import Knowledge, KnownKind, Outcome, Proven


def knowledge_of(
    learned: Sequence[tuple[int, Kind, Contract | None]],
    saved: Sequence[Contract],
    graphs: Graphs | None,
    batch: tuple[int, int],
) -> Knowledge:
    """`learned`: kinds by id, with what is to be kept of each. `saved`: contracts that were given, and may be of use to
    the next. `batch`: rows of a batch, at first and at most."""
    found = [KnownKind(one, _outcome(graphs, kind_id, kind, one)) for kind_id, kind, one in learned if one is not None]
    known = {one.contract for one in found}
    left = [KnownKind(one, _outcome(graphs, None, None, one)) for one in saved if one not in known]
    return Knowledge((*found, *left), batch)


def _outcome(graphs: Graphs | None, kind_id: int | None, kind: Kind | None, contract: Contract) -> Outcome | None:
    if graphs is None:
        return None
    captured = None if kind_id is None else graphs.captured.get(kind_id)
    found = graphs.known.get(contract) if captured is None else captured.outcome
    if kind is None or not isinstance(found, Proven):
        return found
    return found if kind.refuted is None and kind.as_served(found.contract) is found.contract else None
