"""Holds every claim of a proof against numbers: a batch of odd rows, and each of its rows alone.

audit = Audit(exported, proof)
audit.run("scales")
assert audit.wrong == []
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]  # has no types
import torch
from rows_capture import Exported
from torch import Tensor, nn
from torch.fx import GraphModule, Interpreter, Node

from torchpool.contract import Leaves
from torchpool.contract.rows.domain import Const, Ends, Iota, Order, Packed, Rows, Same, Uniform, show
from torchpool.contract.rows.proof import Proof
from torchpool.contract.rows.sizes import size_of

KINDS = ("random", "scales", "zeros", "not a number", "masked", "extreme ids")
ROWS = 4
_TOLERANCE = 1e-4
"""Of the largest entry: kernels add up in another order for another number of rows."""


@dataclass(frozen=True)
class Wrong:
    """A claim that numbers contradict."""

    kind: str
    """Of rows."""
    node: str
    op: str
    claim: str
    what: str


class Audit:
    """The claims of one graph, held against numbers."""

    def __init__(self, exported: Exported, proof: Proof) -> None:
        self.exported, self.proof = exported, proof
        self.wrong: list[Wrong] = []
        self.checked = 0
        """Claims that were held against numbers, once for each kind of rows."""
        self.ran: list[str] = []
        """The kinds of rows that the graph takes."""

    def run(self, kind: str) -> None:
        """Checks all claims on a batch of such rows. Rows that the graph does not take alone are no rows for it."""
        rows = odd_rows(self.exported, kind)
        try:
            alone = [Values(self.exported, merge(self.exported, [row])) for row in rows]
        except (RuntimeError, IndexError):  # an id out of range, a failed assertion
            return
        self.ran.append(kind)
        together = Values(self.exported, merge(self.exported, rows))
        check = _Check(together, alone)
        for node, index, claim in self._claims():
            what = next((found for found in check.problems(node, index, claim)), None)
            self.checked += 1
            if what is not None:
                self.wrong.append(Wrong(kind, node.name, str(node.target), show(claim), what))

    def _claims(self) -> Iterator[tuple[Node, int | None, Any]]:
        """Each claim that says something, with its node and which of the node's results it is about."""
        for node, found in self.proof.claims.items():
            several = isinstance(found, list)
            for index, claim in enumerate(found if several else [found]):
                if isinstance(claim, Const | Rows | Packed | Ends | Uniform) and node.op == "call_function":
                    yield node, index if several else None, claim


class Values(Interpreter):
    """All values of a graph in one run, as they were when they were computed and as they are at the end."""

    def __init__(self, exported: Exported, leaves: Leaves) -> None:
        super().__init__(GraphModule(nn.Module(), exported.graph), garbage_collect_values=False)
        self.early: dict[Node, Any] = {}
        self.sizes = _sizes(exported, leaves)
        given = {node.name: leaf for node, leaf in zip(exported.given, leaves, strict=True)}
        given |= {node.name: tensor.clone() for node, tensor in exported.held.items()}
        with torch.no_grad():
            self.run(*[given[node.name] for node in exported.graph.nodes if node.op == "placeholder"])
        names = {node.name: node for node in exported.graph.nodes}
        self.early = {names[node.name]: value for node, value in self.early.items()}
        self.late = {names[node.name]: value for node, value in self.env.items()}

    def run_node(self, n: Node) -> Any:
        found = super().run_node(n)
        if "empty" in str(n.target):  # what is in new memory is nobody's claim
            found.zero_()
        self.early[n] = [_copied(one) for one in found] if isinstance(found, list | tuple) else _copied(found)
        return found

    def of(self, node: Node, index: int | None, *, late: bool) -> Any:
        """A node's value, or one of its results."""
        found = (self.late if late else self.early)[node]
        return found if index is None else found[index]


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, Tensor) else value


def _sizes(exported: Exported, leaves: Leaves) -> dict[Any, int]:
    """The free sizes, as numbers."""
    found = {}
    for node, leaf in zip(exported.given, leaves, strict=True):
        for symbolic, size in zip(node.meta["val"].shape, leaf.shape, strict=True):
            if (expression := size_of(symbolic)).is_Symbol:
                found[expression] = size
    return found


# --- claims -----------------------------------------------------------------------------------------------------------


class _Check:
    def __init__(self, together: Values, alone: Sequence[Values]) -> None:
        self.together, self.alone = together, alone

    def problems(self, node: Node, index: int | None, claim: Any) -> Iterator[str]:
        for late in (False, True):
            whole = self.together.of(node, index, late=late)
            if isinstance(claim, Packed) and not torch.equal(whole, self.together.of(node, index, late=True)):
                continue  # claimed of what is written there later
            single = [values.of(node, index, late=late) for values in self.alone]
            if isinstance(whole, Tensor):
                yield from self._tensors(claim, whole, single)
            elif isinstance(claim, Const) and any(one != whole for one in single):
                yield f"{whole} in the batch, {single} alone"

    def _tensors(self, claim: Any, whole: Tensor, single: list[Tensor]) -> Iterator[str]:
        if isinstance(claim, Const):
            yield from (f"differs for row {b}" for b, one in enumerate(single) if not close(whole, one))
        elif isinstance(claim, Uniform):
            first = whole.flatten()[:1]
            for value in (whole, *single):
                if not close(value, first.expand(value.shape)):
                    yield "is no one constant"
        elif isinstance(claim, Rows):
            yield from self._rows(claim, whole, single)
        elif isinstance(claim, Packed):
            yield from self._packed(claim, whole, single)
        elif not close(whole, torch.stack(single).sum(0).to(whole.dtype)):
            yield "the groups of the batch are not those of its rows together"

    def number(self, size: Any) -> int:
        return int(sympy.sympify(size).subs(self.together.sizes))

    def _rows(self, claim: Rows, whole: Tensor, single: list[Tensor]) -> Iterator[str]:
        outer, inner = self.number(claim.outer), self.number(claim.inner)
        if whole.shape[claim.dim] != outer * inner * len(single):
            yield f"dim {claim.dim} has {whole.shape[claim.dim]} entries"
            return
        if isinstance(claim, Same) and not close(whole, whole.narrow(claim.dim, 0, 1).expand(whole.shape)):
            yield "entries along the rows differ"
        if isinstance(claim, Iota):
            yield from self._iota(claim, whole, len(single))
            return
        for b, one in enumerate(single):
            if not close(row_of(whole, claim.dim, outer, inner, b), one):
                yield f"row {b} differs"

    def _iota(self, claim: Iota, whole: Tensor, rows: int) -> Iterator[str]:
        outer, inner = self.number(claim.outer), self.number(claim.inner)
        numbers = torch.arange(rows * inner) if inner != 1 else torch.arange(rows) * self.number(claim.step)
        shape = [1] * whole.dim()
        shape[claim.dim] = -1
        if not torch.equal(whole.long(), numbers.repeat(outer).view(shape).expand(whole.shape)):
            yield "is not the numbers of the rows"

    def _packed(self, claim: Packed, whole: Tensor, single: list[Tensor]) -> Iterator[str]:
        """Entries go back to where they were before the list was sorted; there they are rows."""
        order = claim.order
        own = order.rows
        places = _places(self.together, order)
        if claim.role == "index" and not torch.equal(whole.long().flatten(), places):
            yield "is not the order"
        back = torch.arange(len(places))
        if claim.role == "inverse" and not torch.equal(whole.long().flatten()[places], back):
            yield "is not the order's inverse"
        if claim.role in ("index", "inverse"):
            return
        outer, inner = self.number(own.outer), self.number(own.inner)
        unsorted = _unsorted(whole, claim.dim, places)
        rows = [
            _unsorted(one, claim.dim, _places(values, order)) for one, values in zip(single, self.alone, strict=True)
        ]
        if claim.role == "index_part":
            part = self.number(claim.rows.inner)
            for b, one in enumerate(rows):
                mine = row_of(unsorted.long(), claim.dim, outer, inner, b)
                if not torch.equal(mine // part % len(rows), torch.full_like(mine, b)):
                    yield f"a place of row {b} is another row's"
                elif not torch.equal(mine // (part * len(rows)) * part + mine % part, one.long()):
                    yield f"a place in row {b} differs"
            return
        for b, one in enumerate(rows):
            if not close(row_of(unsorted, claim.dim, outer, inner, b), one):
                yield f"row {b} of the sorted list differs"


def row_of(value: Tensor, dim: int, outer: int, inner: int, row: int) -> Tensor:
    """The entries of one row, laid out as they are where the row is alone."""
    rows = value.shape[dim] // (outer * inner)
    return value.unflatten(dim, (outer, rows, inner)).select(dim + 1, row).flatten(dim, dim + 1)


def _places(values: Values, order: Order) -> Tensor:
    """Which entry of the list came to each place."""
    found = values.early[order.node]
    return (found[-1] if isinstance(found, list) else found).flatten()


def _unsorted(value: Tensor, dim: int, places: Tensor) -> Tensor:
    return torch.empty_like(value).index_copy_(dim, places, value)


def close(one: Tensor, other: Tensor) -> bool:
    """Equal but for rounding; numbers that are not finite are so in both."""
    if one.shape != other.shape:
        return False
    if one.is_complex():
        one, other = torch.view_as_real(one), torch.view_as_real(other)
    if not one.is_floating_point():
        return torch.equal(one, other)
    one, other = one.double(), other.double()
    finite = one.isfinite()
    if not torch.equal(finite, other.isfinite()):
        return False
    if not finite.any():
        return True
    most = other[finite].abs().max().clamp_min(1e-6)
    return bool((one[finite] - other[finite]).abs().max() <= _TOLERANCE * most)


# --- rows -------------------------------------------------------------------------------------------------------------


def merge(exported: Exported, rows: Sequence[Leaves]) -> Leaves:
    """A batch of calls; tensors that all share are the first call's."""
    return [leaf.clone() for leaf in exported.layout.join(rows)]


def odd_rows(exported: Exported, kind: str, count: int = ROWS) -> list[Leaves]:
    """Calls of one row, as long as the first sample and with values far from it and from each other."""
    draw = torch.Generator().manual_seed(KINDS.index(kind) + 11)
    first = exported.layout.row(exported.samples[0], 0)
    rows = []
    for number in range(count):
        row = []
        for place, leaf in enumerate(first):
            if exported.layout.dims[place] is None:
                row.append(leaf.clone())
            else:
                dim = None if exported.layout.stacked else exported.layout.dims[place]
                seen = [sample[place] if dim is None else sample[place].movedim(dim, 0) for sample in exported.samples]
                found = _odd(leaf if dim is None else leaf.movedim(dim, 0), seen, kind, number, draw)
                row.append(found if dim is None else found.movedim(0, dim))
        rows.append(row)
    return rows


def _odd(leaf: Tensor, seen: Sequence[Tensor], kind: str, row: int, draw: torch.Generator) -> Tensor:
    marks = _marks(seen)
    if marks is not None:
        return _mask(leaf, marks, kind, row, draw)
    if leaf.is_floating_point() or leaf.is_complex():
        found = torch.randn(leaf.shape, generator=draw, dtype=leaf.dtype)
        if kind == "scales":
            return found * math.pow(10.0, 2 * row - 3)  # 1e-3 to 1e3
        if kind == "zeros" and row % 2:
            return torch.zeros_like(leaf)
        return found * math.nan if kind == "not a number" and row == 1 else found
    low, high = min(int(one.min()) for one in seen), max(int(one.max()) for one in seen)
    if kind == "extreme ids":
        found = torch.full_like(leaf, (0, high, low, 0)[row % 4])
        if row == 3 and leaf.dim() and leaf.shape[-1] > 1:
            found[..., -1] = high
        return found
    # Whole positions of the samples, in any order: a model may ask for a box's ends to be in order.
    first = min(leaf.dim(), 2)
    parts = [one.flatten(0, first - 1) if first else one.view(1) for one in seen]
    if len({part.shape[1:] for part in parts}) > 1:
        return torch.randint(low, high + 1, leaf.shape, generator=draw, dtype=leaf.dtype)
    positions = torch.cat(parts)
    places = torch.randint(len(positions), (leaf.shape[:first].numel(),), generator=draw)
    return positions[places].view(leaf.shape)


def _marks(seen: Sequence[Tensor]) -> Tensor | None:
    """What marks an ordinary position where a tensor is a mask: bool, or 0 and 1 and mostly 1."""
    values = torch.cat([one.flatten() for one in seen])
    if values.dtype == torch.bool:
        return values.long().median().bool()
    if values.is_complex() or not bool(((values == 0) | (values == 1)).all()) or values.numel() < 2:
        return None
    return values.median()


def _mask(leaf: Tensor, marks: Tensor, kind: str, row: int, draw: torch.Generator) -> Tensor:
    other = ~marks if marks.dtype == torch.bool else 1 - marks
    found = torch.full_like(leaf, marks.item())
    if kind == "masked" and row == 1:
        return torch.full_like(leaf, other.item())
    if kind == "masked" and row == 2:
        return torch.where(torch.rand(leaf.shape, generator=draw) > 0.5, other, found)
    if leaf.dim() and leaf.shape[-1] > 1 and row:
        found[..., -(row % leaf.shape[-1]) or leaf.shape[-1] :] = other  # the end, longer for later rows
    return found
