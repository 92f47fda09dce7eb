"""Which values of a graph share memory, and what a write to one does to the claims of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from torchpool.contract.rows.domain import All, Claim, Const, Packed, Rows, Same, Uniform, show

# Gives a view where it can, but its schema does not say so.
_MAYBE_VIEWS = frozenset({
    "reshape", "contiguous", "to", "flatten", "expand_as", "type_as", "dropout", "unflatten", "movedim",
    "resolve_conj", "resolve_neg", "reshape_as", "view_as", "feature_dropout", "alpha_dropout", "conj_physical",
    "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "meshgrid", "unsafe_chunk", "unsafe_split",
    "unsafe_split_with_sizes", "_unsafe_view", "einsum", "feature_alpha_dropout", "channel_shuffle",
    "native_channel_shuffle",
})  # fmt: skip


class Memory:
    """Follows each value to the nodes whose memory it may be."""

    def __init__(self) -> None:
        self._roots: dict[Node, frozenset[Node]] = {}

    def own(self, node: Node) -> None:
        """The node's memory is new."""
        self._roots[node] = frozenset([node])

    def part_of(self, node: Node, whole: Node) -> None:
        """The node is one of several results of another."""
        self._roots[node] = self._roots[whole]

    def roots(self, node: Node) -> frozenset[Node]:
        """The nodes whose memory this one may be."""
        return self._roots[node]

    def sharing(self, node: Node) -> list[Node]:
        """All nodes so far that may share memory with this one, itself among them."""
        mine = self._roots[node]
        return [other for other, roots in self._roots.items() if roots & mine]

    def follow(self, node: Node, name: str, arguments: Mapping[str, Any]) -> list[Node]:
        """Enters a node that applies an operator; gives the nodes that it writes to."""
        shared: set[Node] = set()
        written: list[Node] = []
        for argument in node.target._schema.arguments:  # type: ignore[union-attr]  # an OpOverload
            if argument.alias_info is None:
                continue
            nodes: list[Node] = []
            map_arg(arguments.get(argument.name), nodes.append)
            shared.update(*(self._roots[used] for used in nodes))
            if argument.alias_info.is_write:
                written += nodes
        used = node.all_input_nodes
        if not shared and name in _MAYBE_VIEWS and (name != "einsum" or len(used) == 1):  # of several: a product
            shared.update(*(self._roots[one] for one in used))
        self._roots[node] = frozenset(shared) or frozenset([node])
        return written


def _is_alike(first: Node, second: Node) -> bool:
    one, other = first.meta["val"], second.meta["val"]
    return isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor) and one.shape == other.shape


def after_write(memory: Memory, claims: dict[Node, Any], target: Node, found: Claim) -> Claim:
    """The claim of the result of a write of `found` to `target`; also of all that shares the memory, in `claims`.

    A value that keeps its claim may be written to through any view, unless a claim in that memory is one of equal
    entries: views of such may have been folded in ways that contradict each other, or are one entry of memory for all
    rows (a constant that is expanded). Otherwise what shares the memory becomes All: a view's entries may be any of the
    others' (x[0] = 0 spoils x).
    """
    before = claims[target]
    sharing = [other for other in memory.sharing(target) if other in claims]
    alike = all(_is_alike(other, target) for other in sharing)
    several_folds = (Uniform, Same) if isinstance(before, Const) else (Uniform, Same, Const)
    one_fold = alike or not any(type(claims[other]) in several_folds for other in sharing)
    if one_fold and not isinstance(found, All):
        if before == found:
            return found
        if isinstance(found, Const) and type(before) is Rows:
            return before  # each row's entries are the same constants
    if alike and isinstance(before, Uniform) and isinstance(found, Packed | Rows):
        for other in sharing:
            claims[other] = found
        return found
    what = show(before) if one_fold else f"{show(before)} in memory that stands for several rows"
    spoiled = found if isinstance(found, All) else All(f"writes {show(found)} over {what}", "unknown")
    for other in sharing:
        claims[other] = spoiled
    return spoiled
