"""Functions that are written to fool the proof of padding: of each it says what it should."""

from __future__ import annotations

import pytest
from exported_traps import KINDS, cases_of, exported
from pads_capture import cut, padded_of, tables_of
from pads_traps import PADS

from torchpool.contract.pads.verdict import prove_padding


@pytest.mark.parametrize("kind", KINDS)
def test_none_is_proven_that_leaks(kind: str) -> None:
    graph = exported(kind)
    [length] = padded_of(graph, PADS)
    said = []
    for case, node in zip(cases_of(kind), graph.outputs, strict=True):
        cuts = cut(node, length.proof.sizes)
        verdict, _ = prove_padding(graph.graph, length.inputs, [(node, cuts)], None, tables_of(graph))
        if verdict.kind != case.expect:
            said.append(f"{case.name}: {verdict.kind}, {verdict.reason}")
        assert verdict.kind != "lost" or (verdict.reason and verdict.source), case.name
    assert said == []
