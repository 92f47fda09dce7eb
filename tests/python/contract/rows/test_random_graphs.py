"""Random graphs: no claim of theirs is contradicted by numbers."""

from __future__ import annotations

from typing import Any

import pytest
from rows_random import RandomGraph
from rows_random_makers import MAKERS
from rows_random_places import PLACES
from rows_sketch import aten

from torchpool.contract.rows import registry
from torchpool.contract.rows.domain import Rows

_SEEDS = 6


def _wrong(seed: int, *kinds: str) -> list[Any]:
    graph = RandomGraph(seed)
    graph.grow([*MAKERS, *PLACES], 15)
    found = graph.audit(*kinds)
    return found.wrong


@pytest.mark.parametrize("seed", range(_SEEDS))
def test_claims_of_random_graphs_are_true(seed: int) -> None:
    assert _wrong(seed, "random", "not a number") == []


@pytest.mark.exhaustive
@pytest.mark.parametrize("first", range(_SEEDS, 1000, 10))
def test_claims_of_many_random_graphs_are_true(first: int) -> None:
    wrong = {seed: _wrong(seed, "random", "scales", "not a number") for seed in range(first, first + 10)}
    assert {seed: found for seed, found in wrong.items() if found} == {}


def test_a_false_claim_in_a_random_graph_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._RULES, "cumsum", registry.Entry(lambda op: op.operand("self").claim, (), False))
    graph = RandomGraph(0)
    graph.add(aten.cumsum.default, graph.given[0], 0)
    graph.add(aten.cumsum.default, graph.given[0], 1)
    found = graph.audit("random")
    assert [wrong.op for wrong in found.wrong] == ["aten.cumsum.default"]
    assert found.wrong[0].what == "row 1 differs"
    assert graph.sketch.of(graph.given[0]) == Rows(0)
