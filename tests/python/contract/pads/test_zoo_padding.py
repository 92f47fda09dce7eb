"""Every claim about padding, over each graph of the zoo that pads, held against numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any

import pytest
import zoo_python
import zoo_text
import zoo_torch
from pads_capture import KINDS, Audit, padded_of
from rows_capture import export
from zoo import Entry

MODELS = [entry for entry in [*zoo_text.MODELS, *zoo_torch.MODELS, *zoo_python.MODELS] if entry.pad]
NO_GRAPH = {"longformer", "switch transformers"}
# Masked with the least number, not with -inf.
CONDITIONAL = {"mpnet", "deberta-v2", "roformer", "t5 encoder", "gemma2", "bloom"}
# Mixtures of experts sort the tokens of all places.
BY_NUMBERS = {"mixtral", "qwen2-moe"}
# Of two lengths one is proven under a condition. The decoder attends to the other's padded places, which are not known
# to be finite.
ONE_BY_NUMBERS = {"t5"}
SOME = [
    pytest.param(entry, id=entry.name, marks=[pytest.mark.exhaustive] if i % 8 else [])
    for i, entry in enumerate(entry for entry in MODELS if entry.name not in NO_GRAPH)
]


@pytest.fixture(autouse=True)
def _no_words() -> Iterator[None]:
    """What export logs before it raises is about these models."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def pads_of(entry: Entry) -> list[float]:
    """The value of each tensor of a call."""
    call: Any = entry.calls()[0]
    assert entry.pad is not None
    if isinstance(call, dict):
        return [entry.pad.get(name, 0) for name in sorted(call)]
    return list(entry.pad.values())


@pytest.mark.parametrize("entry", SOME)
def test_the_claims_of_the_zoo(entry: Entry) -> None:
    lengths = padded_of(export(entry.build(), entry.calls()[:2]), pads_of(entry))
    assert lengths
    expected = "lost" if entry.name in BY_NUMBERS else "conditional" if entry.name in CONDITIONAL else "proven"
    if entry.name in ONE_BY_NUMBERS:
        assert {padded.verdict.kind for padded in lengths} == {"conditional", "lost"}
        expected = "conditional"
        lengths = [padded for padded in lengths if padded.verdict.kind == expected]
    for padded in lengths:
        assert padded.verdict.kind == expected, padded.verdict
        audit = Audit(padded)
        rows = 1 if padded.proof.conditions else 4  # of one that is masked all over nothing is claimed
        for kind in KINDS:
            audit.run(kind, rows=rows)
        assert audit.wrong == []
        assert ("random", 6) in audit.ran
        assert audit.checked > 10


def test_what_is_not_proven_is_in_the_zoo() -> None:
    assert {entry.name for entry in MODELS} >= CONDITIONAL | BY_NUMBERS | ONE_BY_NUMBERS | NO_GRAPH
