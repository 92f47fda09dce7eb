"""Kinds of calls, as the learner knows them, and what it tells of them."""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from torchpool import _core
from torchpool.call import Call, readable_names, tree, values
from torchpool.contract import Contract, Leaves, Reason, RowsVerdict

# What the extension is told: route, contract of a merge route, spec of the results, whether results must be copied, a
# number (of two threads that learn the same, the higher one counts), and whether calls may be merged before a proof.
Learned = tuple[str, Contract | None, tree.TreeSpec | None, bool, int, str]

# What each prove= allows before rows are proven independent.
MERGING_UNPROVEN = {"auto": "no", "required": "no", "verify": "verify", "trust": "trust"}


_OTHER_WEIGHTS = (
    "padding was found to do nothing with other weights than the present ones: calls merge only with calls of equal "
    "lengths until refresh()"
)


def context_in_words(variables: tuple[contextvars.ContextVar[Any], ...] | None) -> str:
    """With which context variables calls share a batch, where these are what the model may read (None: any)."""
    if variables is None:
        return "only with equal values of all context variables, since the model may read any"
    if not variables:
        return "whatever their context variables hold, since the model reads none; it runs under those of one of them"
    names = ", ".join(sorted(variable.name for variable in variables))
    return f"only with equal values of the context variables that the model may read: {names}"


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
    candidate: Contract | None = None
    """What a graph may be made for, also where `contract` says that rows meet."""
    rows: int = 1
    """Of the first call, whose sample may have been cut."""
    merging: str = "no"
    """Before a proof: "no", "trust" or "verify"."""
    unshown: str | None = None
    """Why results may hold values that belong to one call, so that only a graph may merge: in words."""
    context: tuple[contextvars.ContextVar[Any], ...] | None = None
    """Of calls that the module may run in a batch: what it may read; None: any."""
    by_module: bool = False
    """The module may run its calls in a batch."""
    state: str | None = None
    """What a run of calls that are not probed has shown, in words; empty: nothing; None: not looked yet."""
    padded_with: _core.WeightWatch | None = None
    """The weights as they were when padding was tried."""
    restless: bool = False
    """Weights changed while it was probed, however often."""
    refuted: str | None = None
    """Rows of calls that were merged differed from the same calls alone: in words."""
    probes: int = 0
    """How often it was learned: from its first call, and from calls of new sizes."""
    probed_seconds: float = 0.0

    @classmethod
    def of(
        cls, paths: Sequence[str], call: Call, leaves: Leaves, parameters: Sequence[str], reason: str | None = None
    ) -> Kind:
        """That of a call with these tensors, before anything is learned of it."""
        others = values(call)
        texts = readable_names([path for path, _ in others], parameters)
        return cls(
            names=readable_names(paths, parameters),
            dtypes=[leaf.dtype for leaf in leaves],
            ranks=[leaf.dim() for leaf in leaves],
            devices=[leaf.device for leaf in leaves],
            route="direct",
            contract=None,
            reason=reason,
            values=tuple(zip(texts, (text for _, text in others), strict=True)),
        )

    @property
    def unsettled(self) -> bool:
        """Whether what is known of the calls says nothing for good."""
        return self.contract is not None and unsettled(self.contract)

    @property
    def key(self) -> object:
        """Tells kinds apart that other ids may stand for later."""
        return tuple(self.names), tuple(self.dtypes), tuple(self.ranks), tuple(map(str, self.devices)), self.values

    def is_of(self, contract: Contract) -> bool:
        """Whether a saved contract is for such calls, and still says something: what was not proven may be now."""
        inputs = contract.inputs
        unproven = contract.code is Reason.ROWS and not (contract.rows and contract.rows.kind == "refuted")
        return not (unproven or unsettled(contract)) and (
            [spec.name for spec in inputs] == self.names
            and [spec.dtype for spec in inputs] == self.dtypes
            and [len(spec.sizes) for spec in inputs] == self.ranks
            and [torch.device(spec.device) for spec in inputs] == self.devices
            and contract.values == self.values
        )

    def as_served(self, contract: Contract | None) -> Contract | None:
        """A contract without padding that was tried on other weights."""
        watch = self.padded_with
        if contract is None or not contract.padded_by_numbers or watch is None or watch.look() == "same":
            return contract
        return unpadded(contract, _OTHER_WEIGHTS)

    def to_save(self) -> Contract | None:
        """What a predictor that begins anew may start from."""
        if self.unsettled:
            return None
        if self.refuted is not None and self.contract is not None:
            verdict = RowsVerdict("refuted", self.refuted)
            return replace(self.contract, mode="alone", reason=self.refuted, code=Reason.ROWS, rows=verdict)
        return self.as_served(self.candidate if self.candidate is not None and self.merging == "no" else self.contract)


def unpadded(contract: Contract, why: str) -> Contract:
    """A contract by which calls merge only with calls of equal lengths; `why`: in words, for explain()."""
    inputs = tuple(replace(spec, pad=None) for spec in contract.inputs)
    outputs = tuple(replace(spec, trims=()) for spec in contract.outputs)
    found = replace(contract, padded=frozenset(), padding=(), inputs=inputs, outputs=outputs)
    return replace(found, reason=why, code=Reason.LENGTHS)


def unsettled(contract: Contract) -> bool:
    """Whether probing did not end within its time, or weights changed in all of it."""
    return any(check.name in ("time", "weights") and not check.passed for check in contract.checks)
