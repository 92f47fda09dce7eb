"""Which values of a graph share memory, and what a write to one does to the claims of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch.fx import Node
from torch.fx.node import map_arg

from torchpool.contract.rows.domain import All, Claim, Const, Packed, Rows, Uniform, show

# Gives a view where it can, but its schema does not say so.
_MAYBE_VIEWS = frozenset({
    "reshape", "contiguous", "to", "flatten", "expand_as", "type_as", "dropout", "unflatten", "movedim",
    "resolve_conj", "resolve_neg", "reshape_as", "view_as", "feature_dropout", "alpha_dropout",
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
        if not shared and name in _MAYBE_VIEWS:
            shared.update(*(self._roots[used] for used in node.all_input_nodes))
        self._roots[node] = frozenset(shared) or frozenset([node])
        return written


def after_write(memory: Memory, claims: dict[Node, Any], target: Node, found: Claim) -> Claim:
    """The claim of the result of a write of `found` to `target`; also of all that shares the memory, in `claims`.

    A value that keeps its claim may be written to through any view. Otherwise what shares the memory becomes All: a
    view's entries may be any of the others' (x[0] = 0 spoils x).
    """
    before = claims[target]
    if before == found and not isinstance(found, All):
        return found
    sharing = [other for other in memory.sharing(target) if other in claims]
    if isinstance(before, Uniform) and isinstance(found, Packed | Rows):
        shape = target.meta["val"].shape
        if all(other.meta["val"].shape == shape for other in sharing):
            for other in sharing:
                claims[other] = found
            return found
    if isinstance(found, Const) and type(before) is Rows:
        return before  # each row's entries are the same constants
    spoiled = found if isinstance(found, All) else All(f"writes {show(found)} over {show(before)}", "unknown")
    for other in sharing:
        claims[other] = spoiled
    return spoiled
