"""Kinds of calls, as the learner knows them, and what it tells of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch

from torchpool.call import Call, tree
from torchpool.contract import Contract, Leaves

# What the extension is told: route, contract of a merge route, spec of the results, whether results must be copied, a
# number (of two threads that learn the same, the higher one counts), and whether calls may be merged before a proof.
Learned = tuple[str, Contract | None, tree.TreeSpec | None, bool, int, str]

# What each prove= allows before rows are proven independent.
MERGING_UNPROVEN = {"auto": "no", "required": "no", "verify": "verify", "trust": "trust"}


@dataclass
class Kind:
    """One kind of call: a structure of arguments with tensors of certain dtypes and ranks."""

    names: list[str]
    dtypes: list[torch.dtype]
    ranks: list[int]
    devices: list[torch.device]
    route: str
    contract: Contract | None
    reason: str | None
    values: tuple[tuple[str, str], ...]
    samples: list[Leaves] = field(default_factory=list)
    widenings: int = 0
    not_widened: str | None = None
    """Why calls that depart from the contract go on to run alone."""
    aliases: bool = False
    merging: str = "no"
    """Before a proof: "no", "trust" or "verify"."""
    refuted: str | None = None
    """Rows of calls that were merged differed from the same calls alone: in words."""


class GraphMaker(Protocol):
    """Makes graphs of kinds of calls, behind the calls, and proves their rows independent."""

    def learned(
        self,
        kind_id: int,
        number: int,
        call: Call,
        samples: Sequence[Leaves],
        candidate: Contract,
        contradicted: str | None,
    ) -> None:
        """A kind of call was learned, under this number. `contradicted`: why its rows cannot be independent."""

    def prove_now(self, kind_id: int) -> str | None:
        """Waits for the proof of a kind that was learned; why there is none, if so."""

    def failed(self, kind_id: int) -> bool:
        """Whether there is no proof, and will be none."""
