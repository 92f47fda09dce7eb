"""Programs: the result of a capture as plain data, which can travel between processes and which the extension runs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from torchpool.capture import module_copy
from torchpool.capture.linear_choice import LinearChoice
from torchpool.contract import PaddingVerdict, RowsVerdict, ShapeCheck, ShapeEqual

BODY = "for each batch:"  # the title, in a listing, of the instructions that each batch runs


class CaptureError(Exception):
    """The module cannot be served by the graph backend; says why."""

    def __init__(self, why: str, rows: RowsVerdict | None = None, proven: ProvenRows | None = None) -> None:
        super().__init__(why)
        self.rows = rows
        """What was found out about its rows; None where the capture did not come that far."""
        self.proven = proven
        """Where the rows of all calls that fit the contract are proven, and the module itself may serve them."""


@dataclass(frozen=True)
class OutputRows:
    """How rows lie in an output of a graph, as the proof found it: see `OutputSpec`."""

    batch_dim: int
    outer: int | None
    inner: int | None
    stacked: bool = False


@dataclass(frozen=True)
class ProvenRows:
    """The verdict over a graph's rows."""

    verdict: RowsVerdict
    outputs: tuple[OutputRows | None, ...]
    """Per output; None for a constant. Empty where nothing is proven."""
    call_rows: int | None = None
    """The graph takes calls of this many rows, and has an entry a call where others have one a row."""
    padding: tuple[PaddingVerdict, ...] = ()
    """Of the lengths that the contract pads."""


@dataclass(frozen=True)
class Slot:
    """An argument that is another instruction's result, a weight or an input."""

    index: int


@dataclass(frozen=True)
class Instruction:
    """One step of a program."""

    op: str
    """An operator's name as in its schema ("aten::linear"), or "py::..." for arithmetic on sizes."""
    overload: str | None
    """The operator's overload name, "" for the default; None for arithmetic."""
    args: tuple[Any, ...]
    """Slots, Python values and torch constants; also nested in tuples and lists."""
    kwargs: dict[str, Any]
    outputs: tuple[int, ...]
    """A slot per result, -1 where nobody uses it."""
    spread: bool = False
    """The one result is a list of tensors, and `outputs` are its elements."""
    by_row: tuple[int, ...] = ()
    """Where it runs for each row on its own: the dim of rows of each output. Empty: for all at once."""
    row_dims: dict[int, int] = field(default_factory=dict)
    """By slot, the dim of rows of what it reads, if it runs by row."""


@dataclass(frozen=True)
class Lowered:
    """A program: `prologue` once per state of the weights, `body` for each batch."""

    weights: list[torch.Tensor | None]
    """None for a tensor of the module, until `bound` has looked it up."""
    weight_names: list[str]
    num_slots: int
    weight_slots: list[int]
    input_slots: list[int]
    output_slots: list[int]
    prologue: list[Instruction]
    body: list[Instruction]
    checks: list[ShapeCheck | ShapeEqual]
    input_names: list[str]
    listing: str
    """The instructions, readable."""
    invariant: bool = False
    """A row's bits do not depend on its batch; changed weights, too, are packed before they are computed with."""

    @property
    def text(self) -> str:
        """The whole program, readable."""
        return "\n".join([self.listing, *(f"check: {check.text(self.input_names)}" for check in self.checks)])

    def bound(self, module: nn.Module) -> Lowered:
        """The program with the module's own tensors. Raises CaptureError where one of them is gone."""
        weights = [
            module_copy.find(module, name) if weight is None else weight
            for name, weight in zip(self.weight_names, self.weights, strict=True)
        ]
        if gone := [name for name, weight in zip(self.weight_names, weights, strict=True) if weight is None]:
            raise CaptureError(f"weight {gone[0]!r} went away while the module was captured")
        return dataclasses.replace(self, weights=weights)


@dataclass(frozen=True)
class Programs:
    """A captured kind of call in two forms."""

    packed: Lowered
    """Optimised, computing with copies of the weights that its prologue prepares."""
    plain: Lowered
    """As captured, reading the weights as they are."""
    specialised: tuple[str, ...]
    """Which lengths the graph is frozen to, in words."""
    starts_at_two: bool
    """Whether `shape_checks.from_one` may widen the checks once the programs were right at length 1."""
    rows: ProvenRows
    linears: tuple[LinearChoice, ...] = ()
    """The kernels that were chosen for linear layers of the packed form, for all weights of a shape."""
    notes: tuple[str, ...] = ()
    """What is told of the packed form, in words."""
    weights: str | None = None
    """In what the packed form stores weights of linear layers, to compute in fp32; None: as they are."""
    stored: tuple[int, int] = (0, 0)
    """How many linear layers have such weights, and how many there are."""

    def with_checks(self, checks: list[ShapeCheck | ShapeEqual]) -> Programs:
        """For sizes that satisfy `checks`."""
        packed, plain = (dataclasses.replace(one, checks=checks) for one in (self.packed, self.plain))
        return dataclasses.replace(self, packed=packed, plain=plain)

    def bound(self, module: nn.Module) -> Programs:
        """With the module's own tensors. Raises CaptureError where one of them is gone."""
        return dataclasses.replace(self, packed=self.packed.bound(module), plain=self.plain.bound(module))
