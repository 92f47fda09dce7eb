"""What is claimed of a value in a graph: how it depends on the rows of the batch.

Sizes are ints or sympy expressions over the sizes that export left free. B stands for the number of rows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NoReturn, TypeVar

import torch

Size = Any
"""An int, or a sympy expression over the free sizes."""


@dataclass(frozen=True)
class Const:
    """Depends on no row, and B is not in its shape."""


@dataclass(frozen=True)
class Rows:
    """Dim `dim` has outer * B * inner entries, of which (o, b, i) depends on row b alone. No other dim has B in it."""

    dim: int
    outer: Size = 1
    inner: Size = 1

    @property
    def plain(self) -> bool:
        """One entry a row."""
        return bool(self.outer == 1 and self.inner == 1)

    def at(self: AnyRows, dim: int) -> AnyRows:
        """The same along another dim."""
        return dataclasses.replace(self, dim=dim)


AnyRows = TypeVar("AnyRows", bound=Rows)


@dataclass(frozen=True)
class Iota(Rows):
    """As Rows; the entry of row b is step * b for inner 1, else b * inner + i: good for nothing but to index rows."""

    step: Size = 1


@dataclass(frozen=True)
class Same(Rows):
    """As Rows, and all entries along the dim are equal: the claim holds for any outer and inner of this product."""


@dataclass(frozen=True)
class Order:
    """An order of all entries of a list of rows, as sorting decides it. Two orders are equal if one node made both."""

    node: torch.fx.Node
    keys: torch.fx.Node
    """What was sorted."""
    rows: Rows
    """Of the list before it was sorted: what the places in it belong to."""


Role = Literal["value", "index", "index_part", "inverse", "sorted"]


@dataclass(frozen=True)
class Packed:
    """Entry j of dim `dim` depends only on the row that holds entry j of `order`; where a row's entries stand, all rows
    decide together.

    role: `value` of a row; `index`, the order itself; `index_part`, the order divided down to places in `rows`;
    `inverse`, the order's inverse; `sorted`, the keys in order.
    """

    dim: int
    order: Order
    rows: Rows
    """Of the dim that an `index` points into."""
    role: Role = "value"

    def at(self, dim: int) -> Packed:
        """The same along another dim."""
        return dataclasses.replace(self, dim=dim)


@dataclass(frozen=True)
class Ends:
    """How many entries of each group a sorted list has, or where its groups end: good for grouped products over it."""

    order: Order
    stage: Literal["counts", "ends"]


@dataclass(frozen=True)
class Uniform:
    """All entries are one constant, and B is in the shape in a way that is no one layout."""


@dataclass(frozen=True)
class Count:
    """A number computed from sizes, B among them."""


Kind = Literal["mixes", "unknown", "random", "state"]


@dataclass(frozen=True)
class All:
    """Depends on more than one row, on B itself, or in a way that is not known."""

    why: str
    kind: Kind = "mixes"
    node: torch.fx.Node | None = None
    """Where it began; filled in by the proof."""


Claim = Const | Rows | Packed | Ends | Uniform | Count | All
Claims = Claim | Sequence[Claim]
"""Of a node: one claim, or one for each of its results."""

CONST = Const()


class Mixes(Exception):
    """Raised by a rule: the result depends on more than its own row."""

    def __init__(self, why: str, kind: Kind = "mixes") -> None:
        super().__init__(why)
        self.why, self.kind = why, kind


def mixes(why: str) -> NoReturn:
    """Of a rule: rows meet here. `why` says it in words that a user can act on."""
    raise Mixes(why)


def unknown(why: str) -> NoReturn:
    """Of a rule: this use of the operator is not known to keep rows apart."""
    raise Mixes(why, "unknown")


def random(why: str) -> NoReturn:
    """Of a rule: random numbers are drawn here."""
    raise Mixes(why, "random")


def agree(first: Claim, second: Claim) -> Claim | None:
    """The layout that both have, one of which may be any for as many entries; None where they differ."""
    if first == second:
        return first
    if not isinstance(first, Rows) or not isinstance(second, Rows) or first.dim != second.dim:
        return None
    from torchpool.contract.rows.sizes import equal  # sympy takes a while, and whoever writes a rule needs none of it

    if equal(first.outer * first.inner, second.outer * second.inner):
        if type(first) is Same:
            return second
        if type(second) is Same:
            return first
    return None


def show(claim: Claim) -> str:
    """A claim, readable."""
    if isinstance(claim, Rows):
        fold = "" if claim.plain else f", {claim.outer} x rows x {claim.inner}"
        return f"{type(claim).__name__.lower()} in dim {claim.dim}{fold}"
    if isinstance(claim, All):
        return claim.why
    return type(claim).__name__.lower()
