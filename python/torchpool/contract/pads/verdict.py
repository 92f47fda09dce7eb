"""The verdict over a length of a graph: does padding it reach anything that is kept?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.fx import Graph, Node

from torchpool.contract.pads.domain import Fill, Kept, Lost, Number, Odd, Pad
from torchpool.contract.pads.op import Sizes
from torchpool.contract.pads.proof import PadProof
from torchpool.contract.rows.sizes import size_of
from torchpool.contract.rows.verdict import source_of


@dataclass(frozen=True)
class PaddedInput:
    """A tensor of the call."""

    dims: tuple[int, ...]
    """That run along the length; none: not padded."""
    value: Number | None
    """That padded places hold."""


@dataclass(frozen=True)
class PaddedOutput:
    """A result."""

    trims: Mapping[int, tuple[int, int]]
    """Per dim that is cut: scale and offset of the entries that are kept."""
    fold: tuple[int, Literal["outer", "inner"]] | None = None
    """A dim in which rows are folded with what is cut, and whether that lies before the rows or behind them."""


@dataclass(frozen=True)
class PadVerdict:
    """What was found out about a length."""

    kind: Literal["proven", "conditional", "lost"]
    reason: str | None
    """Why padded places may be seen, or what must hold for a call that they be not; None if proven."""
    op: str | None = None
    """The operator where that is so."""
    source: str | None = None
    """The line of the user's code that it comes from, as "model.py:29 `n.max()`"."""


def prove_padding(
    graph: Graph,
    inputs: Mapping[Node, PaddedInput],
    outputs: Sequence[tuple[Node, PaddedOutput]],
    constants: Mapping[Node, torch.Tensor] | None = None,
    tables: Mapping[Node, torch.Tensor] | None = None,
) -> tuple[PadVerdict, PadProof | None]:
    """The verdict over one length of an exported graph whose rows are proven independent, and the claims of all nodes.

    `outputs`: what the user gets. `constants`: of placeholders that nobody can change. `tables`: of buffers and
    constants; those that hold -inf, or what is no number, are masks.
    """
    symbols = {size_of(node.meta["val"].shape[dim]): node for node, given in inputs.items() for dim in given.dims}
    if not symbols:
        return PadVerdict("lost", "no input runs along it"), None
    for size in symbols:
        if not size.is_Symbol:
            return PadVerdict("lost", f"the graph is for the length {size} only"), None
    first, *others = symbols
    sizes = Sizes(first, dict.fromkeys(others, first))
    claims = {node: _given(node, given) for node, given in inputs.items()}
    for node, tensor in (constants or {}).items():
        if tensor.numel() == 1 and not tensor.is_complex():
            claims[node] = Kept(value=tensor.item())
    for node, tensor in (tables or {}).items():
        claims.setdefault(node, Kept(odd=_odd_of(tensor)))
    proof = PadProof(graph, claims, sizes).run()
    for node, kept in outputs:
        lost = _problem(proof.claims[node], kept)
        if lost is not None:
            at = lost.node or node
            op = str(at.target) if at.op == "call_function" else None
            return PadVerdict("lost", lost.why, op, source_of(at)), proof
    needed = [(text, node) for text, node in proof.conditions if _reaches(node, [result for result, _ in outputs])]
    if needed:
        _, first = needed[0]
        texts = "; ".join(dict.fromkeys(text for text, _ in needed))
        return PadVerdict("conditional", texts, str(first.target), source_of(first)), proof
    return PadVerdict("proven", None), proof


def _odd_of(tensor: torch.Tensor) -> Odd:
    if not tensor.is_floating_point() or bool(tensor.isfinite().all()):
        return "finite"
    return "low" if bool((tensor.isfinite() | tensor.isneginf()).all()) else "any"


def _given(node: Node, given: PaddedInput) -> Kept:
    fill = None if given.value is None else Fill(given.value)
    odd = given.value is not None and not abs(given.value) < float("inf")
    pads = tuple(Pad(dim, fill=fill) for dim in sorted(given.dims))
    least = 0 if _are_indices(node) and (given.value is None or given.value >= 0) else None
    return Kept(pads, least=least, odd="any" if odd else "finite", holes=frozenset(given.dims) if odd else frozenset())


def _are_indices(node: Node) -> bool:
    """Whether a call with entries below 0 would fail: they are looked up in a table."""
    for user in node.users:
        if user.target is torch.ops.aten.embedding.default and user.args[1:2] == (node,):
            return True
        if user.target in (torch.ops.aten.view.default, torch.ops.aten.reshape.default) and _are_indices(user):
            return True
    return False


def _problem(claim: Any, kept: PaddedOutput) -> Lost | None:
    if isinstance(claim, Lost):
        return claim
    if not isinstance(claim, Kept):
        return Lost("the length, padding included, is given out")
    for pad in claim.pads:
        scale, offset = kept.trims.get(pad.dim, (None, None))
        if scale is None:
            return Lost(f"dim {pad.dim} of an output runs along the length, and is not cut to what each call has")
        # Of a fold the other side's size follows from the dim's, which is known to be outer * places * inner.
        dim, side = kept.fold or (None, None)
        outermost = pad.outer == 1 or (dim == pad.dim and side == "inner")
        innermost = pad.inner == scale or (dim == pad.dim and side == "outer")
        if not outermost or not innermost or scale * pad.extra != offset:
            return Lost(f"dim {pad.dim} of an output is cut otherwise than its places lie")
    if set(kept.trims) - {pad.dim for pad in claim.pads}:
        return Lost("an output is cut in a dim that does not run along the length")
    return None


def _reaches(node: Node, outputs: Sequence[Node]) -> bool:
    """Whether an output depends on a node."""
    seen, left = set[Node](), [node]
    while left:
        one = left.pop()
        if one in seen:
            continue
        seen.add(one)
        left += one.users
    return any(output in seen for output in outputs)
