"""Runs encoders on the places that calls have: what is padded is left out from the first layer to the last.

Between layers a batch [rows, places, ...] lies as [1, packed places, ...]. What is computed for each place on its own
does not change by that. Attention, where places meet, is told where each row begins.
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch.fx import Graph, GraphModule, Node

from torchpool.capture.graph_edit import (
    bound_arguments,
    first_after_placeholders,
    foldable,
    value_of,
)
from torchpool.capture.pad_proof import PADDED
from torchpool.capture.passes.layout import may_change_strides
from torchpool.capture.passes.own_attention import ATTENTION
from torchpool.contract.rows.sizes import size_of

_aten = torch.ops.aten
_OFFSETS = torch.ops.torchpool.row_offsets.default
PACK = torch.ops.torchpool.pack_rows.default
UNPACK = torch.ops.torchpool.unpack_rows.default
_LAYERS = (_aten.linear.default, _aten.layer_norm.default)
_ALONE = frozenset({
    _aten.gelu.default, _aten.relu.default, _aten.silu.default, _aten.tanh.default, _aten.sigmoid.default,
    _aten.contiguous.default, _aten.clone.default,
})  # fmt: skip
_RESIDUAL = _aten.add.Tensor
_VIEWS = frozenset({_aten.view.default, _aten.reshape.default, _aten._unsafe_view.default})
_MOVES = frozenset({_aten.transpose.int, _aten.permute.default})
_FOUND = "torchpool.packed"  # of a graph module's meta: how many attentions compute with packed places
Dim = Literal["row", "place"] | int


def run(module: GraphModule) -> int:
    """Where the graph has attention between such layers; counts attention."""
    graph = module.graph
    for node in graph.nodes:
        if node.op == "placeholder" and PADDED in node.meta and may_change_strides(graph):
            batch_dim, dim, symbol = node.meta[PADDED]
            if (batch_dim, dim) == (0, 1) and (count := _Packing(graph, node, symbol).run()):
                module.meta[_FOUND] = count
                return count
    return 0


def describe(module: GraphModule) -> list[str]:
    """What the pass has done, in words."""
    count = module.meta.get(_FOUND, 0)
    return [f"padding: not computed in {count} attentions and the layers around them"] if count else []


class _Packing:
    def __init__(self, graph: Graph, given: Node, symbol: int) -> None:
        self._graph, self._given, self._symbol = graph, given, symbol
        self._rows, self._places = (size_of(size) for size in value_of(given).shape[:2])
        self._constants = foldable(graph)
        self._packed: dict[Node, Node] = {}  # of values from outside
        self._inside: dict[Node, None] = {}

    def run(self) -> int:
        if not self._rows.is_Symbol or not self._places.is_Symbol or self._rows == self._places:
            return 0
        for node in self._graph.nodes:
            if node.op == "call_function" and self._joins(node):
                self._inside[node] = None
        attention = [node for node in self._inside if node.target is ATTENTION]
        if not attention or not all(self._may_leave(node) for node in self._inside):
            return 0
        with self._graph.inserting_before(first_after_placeholders(self._graph)):
            offsets = self._graph.call_function(_OFFSETS, (self._given, self._symbol))
        offsets.meta["val"] = value_of(self._given).new_empty(0, dtype=torch.int32)
        for node in list(self._inside):
            self._enter(node, offsets)
        for node in list(self._inside):
            self._leave(node, offsets)
        return len(attention)

    def _dims(self, node: Any) -> list[Dim] | None:
        """What each dim runs along, of a value with a dim of rows and one of places; else None."""
        value = value_of(node)
        if not isinstance(value, torch.Tensor):
            return None
        named: dict[Any, Dim] = {self._rows: "row", self._places: "place"}
        dims: list[Any] = [size if isinstance(size, int) else named.get(size_of(size)) for size in value.shape]
        if None in dims or dims.count("row") != 1 or dims.count("place") != 1:
            return None
        return dims

    def _leads(self, node: Any) -> bool:
        """Whether rows and places come first, and something behind them."""
        dims = self._dims(node)
        return dims is not None and len(dims) > 2 and dims[:2] == ["row", "place"]

    def _joins(self, node: Node) -> bool:
        """Whether each place of the result follows from that place alone, or the node is attention."""
        if self._dims(node) is None:
            return False
        used = node.all_input_nodes
        if node.target in _LAYERS:
            x, *weights = used
            return self._leads(node) and self._is_layer(node, x) and self._constants.issuperset(weights)
        if node.target is _RESIDUAL:
            return (
                len(used) == 2
                and any(one in self._inside for one in used)
                and all(self._dims(one) == self._dims(node) for one in used)
                and all(one in self._inside or (self._leads(one) and self._is_plain(one)) for one in used)
            )
        if node.target is ATTENTION:
            heads = [self._dims(one) for one in node.args[:3]]
            own = [dims is not None and dims[0] == "row" and dims[2] == "place" for dims in heads]
            return all(own) and all(one in self._inside for one in node.args[:3])
        if len([one for one in used if self._dims(one) is not None]) != 1 or used[0] not in self._inside:
            return False
        if node.target in _VIEWS:
            return self._dims(used[0]) == self._dims(node) or (self._leads(used[0]) and self._leads(node))
        return node.target in _MOVES or node.target in _ALONE

    def _is_layer(self, node: Node, x: Node) -> bool:
        """Over features of each place."""
        given = bound_arguments(node)
        if given["input"] is not x or not self._leads(x):
            return False
        over = len(given["normalized_shape"]) if node.target is _aten.layer_norm.default else 1
        return over <= len(self._dims(x) or []) - 2

    def _is_plain(self, node: Node) -> bool:
        """Whether nothing is claimed of padded places but that they are finite: no mask has come in."""
        if node.target in (_aten.embedding.default, *_LAYERS):
            return True
        if node.target is _RESIDUAL:
            return all(map(self._is_plain, node.all_input_nodes))
        return False

    def _may_leave(self, node: Node) -> bool:
        return self._leads(node) or all(user in self._inside for user in node.users)

    def _enter(self, node: Node, offsets: Node) -> None:
        """Lets a node compute with packed places."""
        for one in node.all_input_nodes:
            from_outside = one not in self._inside and one not in self._constants and self._dims(one) is not None
            if from_outside and (node.target is not ATTENTION or one in node.args[:3]):
                if one not in self._packed:
                    with self._graph.inserting_before(node):
                        self._packed[one] = self._graph.call_function(PACK, (one, offsets))
                    self._packed[one].meta["val"] = value_of(one)
                node.replace_input_with(one, self._packed[one])
        if node.target in _VIEWS:
            node.target = _aten.reshape.default
            sizes: dict[Dim, int] = {"row": 1, "place": -1}
            node.args = (node.args[0], [sizes.get(dim, dim) for dim in self._dims(node) or []])
        if node.target is ATTENTION:
            node.kwargs = {**node.kwargs, "offsets": offsets}

    def _leave(self, node: Node, offsets: Node) -> None:
        """Gives users outside the padded batch."""
        outside = [user for user in node.users if user not in self._inside]
        if not outside:
            return
        with self._graph.inserting_after(node):
            padded = self._graph.call_function(UNPACK, (node, offsets, self._given))
        padded.meta["val"] = value_of(node)
        node.replace_all_uses_with(padded, delete_user_cb=lambda user: user in outside)
