"""What probing found of a kind of calls, with what it cannot see of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import torch

from torchpool.contract import Reason, tolerance
from torchpool.contract.probe import Found
from torchpool.predictor.kinds import Kind


def complete(
    found: Found, kind: Kind, module: torch.nn.Module | None, dtype: torch.dtype | None, drawn: str | None
) -> Found:
    """`drawn`: the model draws from generators that all calls share, in words: one call at a time, in order."""
    if not (found.contract.padded or (found.candidate and found.candidate.padded)):
        kind.padded_with = None  # which would keep weights in memory that are replaced
    more: dict[str, Any] = {"values": kind.values, "tolerance": tolerance(module, dtype)}
    contract, candidate = dataclasses.replace(found.contract, **more), found.candidate
    if drawn is not None and not contract.serial:
        alone = dataclasses.replace(contract, mode="alone", reason=drawn, code=Reason.CHECK, serial=True)
        return Found(alone, None, found.spec)
    return Found(contract, None if candidate is None else dataclasses.replace(candidate, **more), found.spec)
