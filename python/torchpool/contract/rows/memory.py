"""Which values of a graph share memory, and what a write to one does to the claims of the others."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Node
from torch.fx.node import map_arg

from torchpool.contract.rows.domain import All, Claim, Const, Same, Uniform, show
from torchpool.contract.rows.sizes import equal, product, sizes_of

# Gives a view where it can, but its schema does not say so.
_MAYBE_VIEWS = frozenset({
    "reshape", "contiguous", "to", "flatten", "expand_as", "type_as", "dropout", "unflatten", "movedim",
    "resolve_conj", "resolve_neg", "reshape_as", "view_as", "feature_dropout", "alpha_dropout", "conj_physical",
    "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors", "meshgrid", "unsafe_chunk", "unsafe_split",
    "unsafe_split_with_sizes", "_unsafe_view", "einsum", "feature_alpha_dropout", "channel_shuffle",
    "native_channel_shuffle",
})  # fmt: skip


# Gives a view or a copy as strides and the number of rows have it: of one row more often a view.
_BY_STRIDES = frozenset({"reshape", "reshape_as", "flatten", "contiguous", "ravel", "to"})
_Roots = dict[Node, frozenset[Node]]


class Memory:
    """Follows each value to the nodes whose memory it may be."""

    def __init__(self) -> None:
        self._roots: _Roots = {}
        self._of_several: _Roots = {}
        """As `_roots`, where there are several rows."""
        self._always: _Roots = {}
        """As `_roots`, for any number of rows alike."""

    def own(self, node: Node) -> None:
        """The node's memory is new."""
        for roots in (self._roots, self._of_several, self._always):
            roots[node] = frozenset([node])

    def part_of(self, node: Node, whole: Node) -> None:
        """The node is one of several results of another."""
        for roots in (self._roots, self._of_several, self._always):
            roots[node] = roots[whole]

    def roots(self, node: Node) -> frozenset[Node]:
        """The nodes whose memory this one may be."""
        return self._roots[node]

    def sharing(self, node: Node) -> list[Node]:
        """All nodes so far that may share memory with this one, itself among them."""
        return _sharing(self._roots, node)

    def sharing_of_several(self, node: Node) -> list[Node]:
        """Those that may where there are several rows."""
        return _sharing(self._of_several, node)

    def sharing_always(self, node: Node) -> list[Node]:
        """Those that do so or do not, whatever the number of rows."""
        return _sharing(self._always, node)

    def follow(self, node: Node, name: str, arguments: Mapping[str, Any]) -> list[Node]:
        """Enters a node that applies an operator; gives the nodes that it writes to."""
        shared: list[Node] = []
        written: list[Node] = []
        for argument in node.target._schema.arguments:  # type: ignore[union-attr]  # an OpOverload
            if argument.alias_info is None:
                continue
            nodes: list[Node] = []
            map_arg(arguments.get(argument.name), nodes.append)
            shared += nodes
            if argument.alias_info.is_write:
                written += nodes
        used = node.all_input_nodes
        if not shared and name in _MAYBE_VIEWS and (name != "einsum" or len(used) == 1):  # of several: a product
            shared += used
        by_strides = name in _BY_STRIDES and (name != "to" or arguments.get("memory_format") is not None)
        apart = by_strides and not all(_is_contiguous(one.meta["val"]) for one in shared)
        copied = apart and name in ("contiguous", "ravel")
        for roots, is_new in ((self._roots, False), (self._of_several, copied), (self._always, apart)):
            found = frozenset[Node]() if is_new else frozenset[Node]().union(*(roots[one] for one in shared))
            roots[node] = found or frozenset([node])
        return written


def _sharing(roots: _Roots, node: Node) -> list[Node]:
    return [other for other, of_other in roots.items() if of_other & roots[node]]


def _is_contiguous(value: torch.Tensor) -> bool:
    """Whether it is so for any number of rows."""
    sizes = sizes_of(value)
    return all(
        equal(size, 1) or equal(stride, product(sizes[dim + 1 :]))
        for dim, (size, stride) in enumerate(zip(sizes, value.stride(), strict=True))
    )


def _is_alike(first: Node, second: Node) -> bool:
    """Whether both are one tensor of the same shape."""
    return bool(getattr(first.meta["val"], "shape", None) == getattr(second.meta["val"], "shape", ...))


def after_write(memory: Memory, claims: dict[Node, Any], target: Node, found: Claim) -> Claim:
    """The claim of the result of a write of `found` to `target`; also of all that shares the memory, in `claims`.

    A value that keeps its claim may be written to through any view, unless a claim in that memory is one of equal
    entries: views of such may have been folded in ways that contradict each other, or are one entry of memory for all
    rows (a constant that is expanded). Otherwise what shares the memory becomes All: a view's entries may be any of the
    others' (x[0] = 0 spoils x). What shares the memory for some numbers of rows only becomes All in any case.
    """
    before = claims[target]
    sharing = [other for other in memory.sharing(target) if other in claims]
    always = [other for other in memory.sharing_always(target) if other in claims]
    several = [other for other in memory.sharing_of_several(target) if other in claims]
    alike = all(_is_alike(other, target) for other in several)
    several_folds = (Uniform, Same) if isinstance(before, Const) else (Uniform, Same, Const)
    one_fold = alike or not any(type(claims[other]) in several_folds for other in several)
    if len(always) < len(sharing):
        seen = All("a write to what is a view or a copy, as strides and the number of rows have it", "unknown")
        claims.update({other: seen for other in sharing if other not in always})
    if one_fold and not isinstance(found, All) and before == found:
        return found
    if alike and isinstance(before, Uniform):
        for other in always:
            claims[other] = found
        return found
    what = show(before) if one_fold else f"{show(before)} in memory that stands for several rows"
    spoiled = found if isinstance(found, All) else All(f"writes {show(found)} over {what}", "unknown")
    for other in sharing:
        claims[other] = spoiled
    return spoiled
