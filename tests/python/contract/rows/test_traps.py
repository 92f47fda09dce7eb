"""Models written to fool the proof: none is proven, each has a reason, and numbers show that the labels are right."""

from __future__ import annotations

import collections
import inspect
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import rows_traps_odd  # noqa: F401  # enters its traps
import rows_traps_places  # noqa: F401  # enters its traps
import rows_traps_values  # noqa: F401  # enters its traps
import torch
from rows_audit import Audit, Wrong, close
from rows_capture import Exported, NoGraph, export
from rows_traps import CLASSES, TRAPS, Trap
from torch import Tensor

from torchpool.call import tree
from torchpool.contract.probe.perturb import Layout
from torchpool.contract.rows.proof import Proof

LEAKS = [trap for trap in TRAPS if trap.leak]
SAFE = [trap for trap in TRAPS if not trap.leak]


def label(trap: Trap) -> str:
    return f"{trap.kind}: {trap.name}"


def first_of_each(traps: list[Trap]) -> list[Any]:
    """As parameters: the first of each class, and the others where all tests are run; each is exported."""
    firsts = {trap.kind: trap for trap in reversed(traps)}
    marks = {True: (), False: (pytest.mark.exhaustive,)}
    return [pytest.param(trap, id=label(trap), marks=marks[trap is firsts[trap.kind]]) for trap in traps]


@pytest.fixture(autouse=True)
def _no_words() -> Iterator[None]:
    """What export logs before it raises is about these models."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


def outputs(model: torch.nn.Module, leaves: tuple[Tensor, ...]) -> list[Tensor] | None:
    """None where the model does not take the call."""
    try:
        with torch.no_grad():
            return tree.flatten(model(*[leaf.clone() for leaf in leaves]))[0]
    except (RuntimeError, IndexError, ValueError):
        return None


def differs(trap: Trap, calls: list[tuple[Tensor, ...]]) -> bool:
    """Whether a call gets another result in a batch than alone, or only one of both is taken."""
    alone = [outputs(trap.build(), call) for call in calls]
    together = outputs(trap.build(), tuple(torch.cat(parts) for parts in zip(*calls, strict=True)))
    taken = [found for found in alone if found is not None]
    if together is None or len(taken) < len(calls):
        return (together is None) is (len(taken) == len(calls))
    return not all(_joined(whole, parts) for whole, *parts in zip(together, *taken, strict=True))


def _joined(whole: Tensor, parts: list[Tensor]) -> bool:
    """Whether a result is those of the calls, side by side."""
    if len({part.shape for part in parts}) > 1:
        return False
    joined = [torch.cat(parts, dim) for dim in range(whole.dim()) if whole.shape[dim] % len(parts) == 0]
    return any(close(whole, one) for one in joined)


def _wrong(exported: Exported, proof: Proof) -> list[Wrong]:
    audit = Audit(exported, proof)
    for kind in ("random", "scales", "not a number"):
        audit.run(kind)
    return audit.wrong


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("trap", first_of_each(LEAKS))
def test_a_leak_is_not_proven(trap: Trap) -> None:
    try:
        exported = export(trap.build(), [trap.calls(0)], Layout((0,)))
    except NoGraph as reason:
        assert not trap.graph, reason
        assert f"{Path(inspect.getfile(trap.function)).name}:" in str(reason)
        return
    verdict, proof = exported.prove()
    assert verdict.kind in ("mixes", "unknown", "random", "state"), verdict.text
    assert verdict.reason
    assert verdict.source is not None
    assert verdict.source.startswith("rows_traps"), verdict.text
    assert proof is None or _wrong(exported, proof) == []


@pytest.mark.parametrize("trap", first_of_each(SAFE))
def test_what_is_safe_is_proven(trap: Trap) -> None:
    exported = export(trap.build(), [trap.calls(0)], Layout((0,)))
    verdict, proof = exported.prove()
    assert verdict.proven, verdict.text
    assert proof is not None
    assert _wrong(exported, proof) == []


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("trap", TRAPS, ids=label)
def test_numbers_agree_with_the_label(trap: Trap) -> None:
    seen = any(differs(trap, batch) for batch in trap.batches())
    assert seen is (trap.leak and trap.unseen is None)


def test_each_class_of_rules_has_its_traps() -> None:
    assert len({label(trap) for trap in TRAPS}) == len(TRAPS)
    leaks, safe = (collections.Counter(trap.kind for trap in traps) for traps in (LEAKS, SAFE))
    assert set(leaks) == set(safe) == set(CLASSES)
    assert min(leaks.values()) >= 4
    assert min(safe.values()) >= 2
