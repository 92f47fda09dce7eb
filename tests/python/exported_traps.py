"""The functions that are written to fool the proof of padding, as graphs. Exporting them takes seconds, and no rule of
the proof: it is done once a process, also where scripts/mutate_rules.py imports the proof and its tests anew."""

from __future__ import annotations

import functools

import pads_traps_places  # noqa: F401  # enters its cases
from pads_traps import CASES, Case, Model
from rows_capture import Exported, export
from support import build, draw
from torch import Tensor

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
def exported(kind: str) -> Exported:
    """The graph of all functions of a kind."""
    return export(build(lambda: Model(cases_of(kind))), [call(SHORT), call(LONG)], Layout((0, 0, 0)))
