"""Functions that are written to fool the proof of padding: numbers show that their labels are right, and so is all that
is claimed on the way."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from exported_traps import KINDS, LONG, SHORT, call, cases_of
from exported_traps import exported as graph_of
from pads_capture import KINDS as ROWS
from pads_capture import Audit, PaddedLength, cut, padded_of
from pads_traps import PADS, Model
from rows_audit import close
from rows_capture import Exported
from support import build
from torch import Tensor

from torchpool.contract.pads import registry
from torchpool.contract.pads.domain import Kept
from torchpool.contract.pads.op import Op
from torchpool.contract.pads.verdict import PaddedOutput


@functools.cache
def exported(kind: str) -> tuple[Exported, PaddedLength]:
    found = graph_of(kind)
    [padded] = padded_of(found, PADS)
    return found, padded


def padded(leaves: tuple[Tensor, ...], length: int = LONG) -> tuple[Tensor, ...]:
    found = []
    for leaf, value in zip(leaves, PADS, strict=True):
        more = leaf.new_full((leaf.shape[0], length - leaf.shape[1], *leaf.shape[2:]), value)
        found.append(torch.cat([leaf, more], 1))
    return tuple(found)


def differs(model: Model, index: int, cuts: PaddedOutput) -> bool:
    """Whether a result of the call is another once it is padded, of any of these calls."""
    for seed in range(3):
        for length in (SHORT, 3):
            with torch.no_grad():
                short = model.functions[index](model, *call(length, seed))
                long = model.functions[index](model, *padded(call(length, seed)))
            for dim, (scale, offset) in cuts.trims.items():
                long = long.narrow(dim, 0, scale * length + offset)
            if not close(short, long):
                return True
    return False


@pytest.mark.parametrize("kind", KINDS)
def test_labels_are_right(kind: str) -> None:
    graph, length = exported(kind)
    model = build(lambda: Model(cases_of(kind)))
    wrong = []
    for index, (case, node) in enumerate(zip(cases_of(kind), graph.outputs, strict=True)):
        if differs(model, index, cut(node, length.proof.sizes)) is not (case.expect == "lost"):
            wrong.append(case.name)
    assert wrong == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_claim_holds_of_numbers(kind: str) -> None:
    _, length = exported(kind)
    audit = Audit(length)
    for rows in ROWS:
        if rows != "masked" or not length.proof.conditions:
            audit.run(rows)
    assert audit.wrong == []
    assert ("random", SHORT) in audit.ran


# --- wrong rules ------------------------------------------------------------------------------------------------------


def keeps(op: Op) -> Any:
    """As if the result were as the first operand is."""
    return op.each(op.tensors()[0].kept)


def leaves_out(op: Op) -> Any:
    """As if what is padded did not count."""
    return op.each(Kept())


WRONG = [
    ("softmax", "softmax", keeps),
    ("reductions", "mean", leaves_out),
    ("reductions", "amax", leaves_out),
    ("places", "flip", keeps),
    ("places", "roll", keeps),
    ("places", "sort", keeps),
    ("places", "select", leaves_out),
    ("layers", "avg_pool1d", keeps),
    ("layers", "group_norm", keeps),
    ("memory", "add", lambda op: op.tensors()[0].kept),
]


@pytest.mark.parametrize(("kind", "name", "claim"), WRONG, ids=[f"{kind}: {name}" for kind, name, _ in WRONG])
def test_a_wrong_rule_is_caught(kind: str, name: str, claim: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    graph, _ = exported(kind)
    monkeypatch.setitem(registry._RULES, name, registry.Entry(claim, sizes=True, donors=(), facts=False))
    [wrong] = padded_of(graph, PADS)
    audit = Audit(wrong)
    audit.run("random")
    assert audit.wrong
