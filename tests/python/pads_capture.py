"""A module as the graph on which padding is proven, and each claim of the proof held against numbers.

padded = padded_of(export(model, calls), [0, 0])    # a value for each tensor of a call, None where it is not padded
for length in padded: length.verdict, length.proof
Audit(length).run("random"); audit.wrong == []
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import sympy  # type: ignore[import-untyped]  # has no types
import torch
from rows_audit import Values, close, merge, odd_rows
from rows_capture import Exported
from torch import Tensor
from torch.fx import Node

from torchpool.contract.pads.domain import Fill, Kept, Pad
from torchpool.contract.pads.op import Sizes
from torchpool.contract.pads.proof import PadProof
from torchpool.contract.pads.verdict import PaddedInput, PaddedOutput, PadVerdict, prove_padding
from torchpool.contract.rows.sizes import size_of

KINDS = ("random", "scales", "zeros", "masked", "extreme ids")
_MORE = 3
"""Places that calls are padded by."""


@dataclass
class PaddedLength:
    """A length of a graph, and what is proven of it."""

    exported: Exported
    inputs: dict[Node, PaddedInput]
    verdict: PadVerdict
    proof: PadProof


def padded_of(exported: Exported, values: Sequence[float | None]) -> list[PaddedLength]:
    """Each free length of a graph, padded with these values; outputs are cut as their sizes say.

    Dims whose sizes are equal in each sample are of one length.
    """
    places: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for index, node in enumerate(exported.given):
        for dim, size in enumerate(node.meta["val"].shape):
            if dim != exported.layout.dims[index] and not isinstance(size, int):
                seen = tuple(sample[index].shape[dim] for sample in exported.samples)
                places.setdefault(seen, []).append((index, dim))
    found = []
    for where in places.values():
        inputs = {}
        for index, node in enumerate(exported.given):
            dims = tuple(dim for other, dim in where if other == index)
            inputs[node] = PaddedInput(dims, values[index] if dims else None)
        first, *others = dict.fromkeys(size_of(exported.given[index].meta["val"].shape[dim]) for index, dim in where)
        sizes = Sizes(first, dict.fromkeys(others, first))
        outputs = [(node, cut(node, sizes)) for node in exported.outputs]
        constants = {node: tensor for node, tensor in exported.held.items() if "lifted_tensor" in node.name}
        verdict, proof = prove_padding(exported.graph, inputs, outputs, constants, tables_of(exported))
        assert proof is not None, verdict
        found.append(PaddedLength(exported, inputs, verdict, proof))
    return found


def tables_of(exported: Exported) -> dict[Node, Tensor]:
    """Buffers and constants, by what export names them."""
    return {node: tensor for node, tensor in exported.held.items() if not node.name.startswith("p_")}


def cut(node: Node, sizes: Sizes) -> PaddedOutput:
    """What is kept of a result, as its sizes say."""
    trims = {}
    for dim in sizes.dims(node.meta["val"]):
        expression = sizes.of(node.meta["val"].shape[dim])
        scale = expression.coeff(sizes.length)
        offset = expression - scale * sizes.length
        if scale.is_Integer and offset.is_Integer:
            trims[dim] = (int(scale), int(offset))
    return PaddedOutput(trims)


@dataclass
class Audit:
    """The claims about one length, held against calls that are padded and calls that are not."""

    padded: PaddedLength
    wrong: list[str] = field(default_factory=list)
    checked: int = 0
    ran: list[tuple[str, int]] = field(default_factory=list)
    """Kinds of rows and lengths that the graph takes."""

    def run(self, kind: str, lengths: Sequence[int] = (6, 2, 1), rows: int = 4) -> None:
        """Checks all claims on calls of these lengths and so many rows, of which nothing is masked in the first. What
        the graph does not take is no call for it."""
        exported, inputs = self.padded.exported, self.padded.inputs
        whole = merge(exported, odd_rows(exported, kind, rows))
        for length in lengths:
            short = [_narrowed(leaf, inputs[node], length) for leaf, node in zip(whole, exported.given, strict=True)]
            long = [_grown(leaf, inputs[node]) for leaf, node in zip(short, exported.given, strict=True)]
            try:
                one, other = Values(exported, short), Values(exported, long)
            except (RuntimeError, IndexError):
                continue
            self.ran.append((kind, length))
            check = _Check(one, other, self.padded.proof.sizes.length)
            for node, found in self.padded.proof.claims.items():
                for index, claim in enumerate(found) if isinstance(found, list) else [(None, found)]:
                    if isinstance(claim, Kept) and node.op == "call_function" and "empty" not in str(node.target):
                        self.checked += 1
                        problems = check.problems(node, index, claim)
                        self.wrong += [f"{kind} at {length}: {node.name}: {text}" for text in problems]


def _narrowed(leaf: Tensor, given: PaddedInput, length: int) -> Tensor:
    for dim in given.dims:
        leaf = leaf.narrow(dim, 0, min(length, leaf.shape[dim]))
    return leaf.clone()


def _grown(leaf: Tensor, given: PaddedInput) -> Tensor:
    for dim in given.dims:
        more = list(leaf.shape)
        more[dim] = _MORE
        leaf = torch.cat([leaf, torch.full(more, given.value or 0, dtype=leaf.dtype)], dim)
    return leaf.clone()


class _Check:
    def __init__(self, short: Values, long: Values, symbol: Any) -> None:
        self.short, self.long, self.symbol = short, long, symbol

    def problems(self, node: Node, index: int | None, claim: Kept) -> Iterator[str]:
        short, long = self.short.of(node, index, late=True), self.long.of(node, index, late=True)
        if not isinstance(short, Tensor):
            if short != long:
                yield f"{short} and {long}"
            return
        if short.is_complex() or (not short.isfinite().all() and claim.odd == "finite"):
            return  # the call itself is not finite
        kept = long
        for pad in claim.pads:
            kept = self._part(kept, pad, padded=False)
        if kept.shape != short.shape:
            yield f"{list(kept.shape)} kept entries of {list(short.shape)}"
        elif not close(kept, short):
            yield "kept entries differ"
        yield from self._facts(claim, short, long)
        for pad in claim.pads:
            if pad.fill is not None:
                held = self._part(long, pad, padded=True)
                for other in claim.pads:
                    if other is not pad:
                        held = self._part(held, other, padded=False)
                yield from _held(held, pad.fill, pad.dim)

    def _part(self, value: Tensor, pad: Pad, *, padded: bool) -> Tensor:
        outer, inner = (int(sympy.sympify(size).subs(self.long.sizes)) for size in (pad.outer, pad.inner))
        entries = value.unflatten(pad.dim, (outer, value.shape[pad.dim] // (outer * inner), inner))
        count = self.short.sizes[self.symbol] + pad.extra
        dim = pad.dim + 1
        part = entries.narrow(dim, count, entries.shape[dim] - count) if padded else entries.narrow(dim, 0, count)
        return part.flatten(pad.dim, pad.dim + 2)

    def _facts(self, claim: Kept, short: Tensor, long: Tensor) -> Iterator[str]:
        if claim.value is not None and not bool((long == claim.value).all()):
            yield f"is not all {claim.value}"
        if claim.least is not None and bool((long < claim.least - 1e-6).any()):
            yield f"has entries below {claim.least}"
        if claim.odd == "finite" and not bool(long.isfinite().all()):
            yield "is not finite"
        if claim.place is not None:
            most = self.short.sizes[self.symbol] + claim.place
            if bool(((short < 0) | (short >= most)).any()):
                yield "is no place that is kept"
        if claim.ramp is not None:
            found = torch.full(long.shape, claim.ramp.start)
            for dim, factor in claim.ramp.factors:
                shape = [1] * long.dim()
                shape[dim] = -1
                found = found + factor * torch.arange(long.shape[dim]).view(shape)
            if not torch.equal(found, long.long()):
                yield "is no ramp"


def _held(held: Tensor, fill: Fill, dim: int) -> Iterator[str]:
    if fill.about:
        if not math.isfinite(fill.value) or not bool((held <= fill.value / 2).all()):
            yield f"padded along {dim}: not about {fill.value}"
        return
    equal = held == fill.value
    if fill.unless_nan:
        equal |= held.isnan()
    if not bool(equal.all()):
        yield f"padded along {dim}: not {fill.value}"
