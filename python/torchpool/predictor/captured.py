"""What a predictor and its graphs tell each other."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from torchpool import _core
from torchpool.call import tree
from torchpool.contract import Contract, RowsVerdict
from torchpool.predictor.knowledge import Outcome


class Runner(Protocol):
    """Runs a predictor's calls: by the module, until it is told to run a kind of them by a graph."""

    @property
    def volatile_attributes(self) -> list[str]:
        """Attributes that the module writes when it runs."""

    @property
    def module_changed(self) -> bool:
        """Whether the module is not as it was at the last call."""

    @property
    def gate(self) -> _core.UpdateGate:
        """Keeps runs of the module and changes of its weights apart."""

    def learn_again(self, kind_id: int, number: int, seconds: float, /) -> None:
        """Has the kind learned anew by its first call after so many seconds, unless it was meanwhile."""

    def serve(
        self,
        kind_id: int,
        number: int,
        contract: Contract,
        spec: tree.TreeSpec,
        graph: _core.GraphBackend | None,
        first_batch: int,
        max_batch: int,
        by_module: bool = False,
        /,
    ) -> bool:
        """Merges calls of this kind from now on, by the graph, or by the module as far as the graph takes their sizes;
        False where they were learned anew meanwhile."""


@dataclass(frozen=True)
class Served:
    """Of a predictor, what its graphs need. Held for a moment only: a dropped predictor is to be freed at once."""

    target: Callable[..., Any]
    """What a call runs."""
    dtype: torch.dtype | None
    """What graphs compute in; None: what the module does."""
    weights: str | None
    """In what they store the weights of linear layers; beside a dtype: the faster of the two."""
    max_batch: int | None
    """Rows, where the user has bounded them."""
    proof_needed: bool
    """A graph in which rows may meet is of no use."""
    invariant: bool
    """A graph in which a row's bits may depend on its batch is of no use; nor may the module run batches."""
    by_module: bool
    """The user wants the module to be called: graphs are made for the proof only."""
    closed: bool
    runner: Runner
    grow_batch: Callable[[int, int], None]
    """Is told of how many rows the graph's batches are, at first and at most."""
    keep: Callable[[], None]
    """Keeps what is known for other processes, where the user wants that."""
    pause_of: Callable[[int], float | None]
    """In how many seconds a kind of calls, by id, that met weights that never rest is to be tried again."""
    rounds: Callable[[str], None]
    """Is told how far the results of a graph are from the module's, in words."""
    stays_alone: Callable[[int, str], None]
    """Is told of a kind of calls, by id, that there is no proof for, and why."""


@dataclass
class Captured:
    """What became of the capture of one kind of call."""

    reason: str | None = None
    """Why the module serves these calls itself; None where a graph does."""
    restless: bool = False
    """Its weights never rested: it is worth another try."""
    notes: tuple[str, ...] = ()
    """What holds for the graph, such as lengths that it is frozen to."""
    backend: _core.GraphBackend | None = None
    rows: RowsVerdict | None = None
    """What is known of its rows."""
    contract: Contract | None = None
    """By which its calls are merged."""
    outcome: Outcome | None = None
    """The same for a predictor that is made from this one; None where it is to find out by itself."""
    seconds: float = 0.0
    """From the call that it was learned from to here."""
