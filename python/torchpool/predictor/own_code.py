"""What the code of a wrapped model can do: which changes of the module may be its own, and whose state it reads."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable
from typing import Any

import torch

from torchpool.capture import COLLECTING_MARK, CaptureError, refuse_hooks
from torchpool.contract import THREAD_STATE, Contract, Fingerprint, Reach
from torchpool.contract.probe import PlainDraws

log = logging.getLogger("torchpool")


class OwnCode:
    """Of one model; looked through when first asked, and again once the model is another one."""

    def __init__(self, target: Callable[..., Any], module: torch.nn.Module | None) -> None:
        self._target, self._module = target, module
        self._reach: Reach | None = None
        self._fingerprint: Fingerprint | None = None
        self._one_by_one: bool | None = None
        self.notes: set[str] = set()
        """For explain()."""

    def reach(self) -> Reach:
        """The functions that a call may run."""
        reach = self._reach
        if reach is None:
            self._reach = reach = Reach(self._target, self._module)
        return reach

    def forget(self) -> None:
        """The model is another one."""
        self._reach = self._fingerprint = self._one_by_one = None

    def fingerprint(self) -> Fingerprint:
        """Of the model, for contracts that may be saved."""
        found = self._fingerprint
        if found is None:
            self._fingerprint = found = Fingerprint.of(self._module, self.reach())
        return found

    def signed(self, contract: Contract) -> Contract:
        """The contract, which says that it was learned from this model."""
        return dataclasses.replace(contract, model=self.fingerprint())

    def first_own(self, saved: Iterable[Contract]) -> Contract | None:
        """The first saved contract that was learned from this model, or one like it; what the others are, goes to the
        log and to the notes."""
        for contract in saved:
            foreign = "it does not say for which model it was saved"
            if contract.model is not None:
                foreign = self.fingerprint().difference(contract.model) or ""
            if not foreign:
                return contract
            self.note(f"a saved contract is not used, and calls are probed anew: {foreign}")
        return None

    def note(self, text: str) -> None:
        """For the log and explain()."""
        log.warning(text)
        self.notes.add(text)

    def may_change(self, name: str, items: bool) -> bool:
        """Whether it can change an attribute of this name, or the entries of a dict in it; of hooks, the name of the
        dict that keeps them."""
        reach = self.reach()
        # Code of libraries is not looked through; what this one sets in a first run is known.
        if name == COLLECTING_MARK:
            return True
        if name in ("_forward_hooks", "_forward_pre_hooks"):
            return self._only_collects() or reach.names("register_forward_hook", "register_forward_pre_hook", "remove")
        if name == "training" and reach.names("train", "eval"):
            return True
        return reach.changes_items(name) if items else reach.writes(name)

    def may_set_or_draw(self) -> bool:
        """Whether it says that it sets attributes of the module, or seeds or draws what calls share: while it is
        learned what comes of that, no call runs beside."""
        found = self._one_by_one
        if found is None:
            reach = self.reach()
            found = reach.writes_attributes() or reach.names("seed", "manual_seed") or PlainDraws(self._target).possible
            self._one_by_one = found
        return found

    def _only_collects(self) -> bool:
        """Whether all hooks of the model are those that collect its outputs."""
        if self._module is None:
            return False
        try:
            refuse_hooks(self._module)
        except CaptureError:
            return False
        return True

    def thread_state(self) -> str | None:
        """Why calls run on the threads that make them, if it reads what belongs to a thread."""
        found = self.reach().thread_state()
        return None if found is None else f"{THREAD_STATE}: {found}"
