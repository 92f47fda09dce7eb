"""What a predictor has learned of its model, as it travels to another process or into a copy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torchpool.call import tree
from torchpool.capture import Programs
from torchpool.contract import Contract, RowsVerdict

# What the code alone decides: another capture of it would find the same. Anything else may have been chance.
_SETTLED = frozenset({"mixes", "unknown", "random", "state", "values"})


@dataclass(frozen=True)
class Proven:
    """That calls of a kind may be merged, and the programs that run them. Holds none of the module's own tensors."""

    programs: Programs | None
    """Of all sizes with which they were compared with the module; None: the module serves what is proven."""
    contract: Contract
    """With the outputs' rows as they were proven."""
    spec: tree.TreeSpec
    """Of the results."""
    notes: tuple[str, ...]
    """For explain()."""
    batch: tuple[int, int]
    """Rows of a batch, at first and at most."""
    from_file: bool = False
    """The module is another object, and perhaps another module, than the one that it was compared with."""


@dataclass(frozen=True)
class Unproven:
    """That there is no graph for calls of a kind, for a reason that will not go away."""

    reason: str
    rows: RowsVerdict

    @staticmethod
    def of(reason: str | None, rows: RowsVerdict | None) -> Unproven | None:
        """None where it is worth another try."""
        settled = reason is not None and rows is not None and rows.kind in _SETTLED
        return Unproven(reason, rows) if settled and reason and rows else None


Outcome = Proven | Unproven
Outcomes = Mapping[Contract, Outcome]


@dataclass(frozen=True)
class KnownKind:
    """One kind of calls."""

    contract: Contract
    """What was learned of it, with the fingerprint of the model."""
    outcome: Outcome | None
    """Of its capture; None where it has not ended."""


@dataclass(frozen=True)
class Knowledge:
    """All that a predictor need not find out again."""

    kinds: tuple[KnownKind, ...]
    batch: tuple[int, int]
    """Rows of a batch that the module runs, at first and at most."""

    @property
    def contracts(self) -> tuple[Contract, ...]:
        """Of all kinds."""
        return tuple(kind.contract for kind in self.kinds)

    @property
    def outcomes(self) -> Outcomes:
        """By contract, whose fingerprint tells for which model they hold."""
        found = [(kind.contract, kind.outcome) for kind in self.kinds if kind.outcome is not None]
        # Calls that are made under autocast have the same contract as others, and may lack a graph for that.
        return dict(sorted(found, key=lambda pair: isinstance(pair[1], Proven)))
