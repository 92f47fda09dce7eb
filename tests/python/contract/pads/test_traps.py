"""Functions that are written to fool the proof of padding: none of them is proven, and numbers show that labels are
right."""

from __future__ import annotations

import functools
from typing import Any

import pads_traps_places  # noqa: F401  # enters its cases
import pytest
import torch
from pads_capture import KINDS as ROWS
from pads_capture import Audit, PaddedLength, cut, padded_of, tables_of
from pads_traps import CASES, PADS, Case, Model
from rows_audit import close
from rows_capture import Exported, export
from support import build, draw
from torch import Tensor

from torchpool.contract.pads import registry
from torchpool.contract.pads.domain import Kept
from torchpool.contract.pads.op import Op
from torchpool.contract.pads.verdict import PaddedOutput, prove_padding
from torchpool.contract.probe.perturb import Layout

SHORT, LONG = 6, 10
KINDS = tuple(dict.fromkeys(case.kind for case in CASES))


def cases_of(kind: str) -> list[Case]:
    return [case for case in CASES if case.kind == kind]


def call(length: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """x, mask and ids, without padding; the mask leaves the first place."""
    x = draw(2, length, 8, seed=seed)
    mask = (draw(2, length, seed=seed + 9) > -0.5).float()
    mask[:, 0] = 1.0
    return x, mask, (draw(2, length, seed=seed + 5).abs() * 9).long() + 1


@functools.cache
def exported(kind: str) -> tuple[Exported, PaddedLength]:
    found = export(build(lambda: Model(cases_of(kind))), [call(SHORT), call(LONG)], Layout((0, 0, 0)))
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
def test_none_is_proven_that_leaks(kind: str) -> None:
    graph, length = exported(kind)
    model = build(lambda: Model(cases_of(kind)))
    said, wrong = [], []
    for index, (case, node) in enumerate(zip(cases_of(kind), graph.outputs, strict=True)):
        cuts = cut(node, length.proof.sizes)
        verdict, _ = prove_padding(graph.graph, length.inputs, [(node, cuts)], None, tables_of(graph))
        if verdict.kind != case.expect:
            said.append(f"{case.name}: {verdict.kind}, {verdict.reason}")
        if differs(model, index, cuts) is not (case.expect == "lost"):
            wrong.append(case.name)
        assert verdict.kind != "lost" or (verdict.reason and verdict.source), case.name
    assert said == []
    assert wrong == [], "labelled wrong"


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
