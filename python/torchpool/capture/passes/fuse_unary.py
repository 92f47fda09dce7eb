"""Fuses activations into the packed linear layer or convolution before them."""

from __future__ import annotations

import torch
from torch.fx import GraphModule, Node

from torchpool.capture.graph_edit import bound_arguments, calls, only_user, value_of

_aten = torch.ops.aten
_NAMES = {
    _aten.relu.default: "relu", _aten.relu_.default: "relu",
    _aten.gelu.default: "gelu", _aten.gelu_.default: "gelu",
    _aten.silu.default: "swish", _aten.silu_.default: "swish",
    _aten.tanh.default: "tanh", _aten.tanh_.default: "tanh",
    _aten.sigmoid.default: "sigmoid", _aten.sigmoid_.default: "sigmoid",
}  # fmt: skip


def run(module: GraphModule) -> int:
    """Where nobody else uses the result before the activation."""
    count = 0
    for node in calls(
        module.graph, torch.ops.mkldnn._linear_pointwise.default, torch.ops.mkldnn._convolution_pointwise.default
    ):
        user = only_user(node)
        if user is None or user.target not in _NAMES or "none" not in node.args:
            continue
        node.args = (*node.args[:-3], _NAMES[user.target], [], _algorithm(user))
        node.meta["val"] = value_of(user)
        user.replace_all_uses_with(node)
        module.graph.erase_node(user)
        count += 1
    return count


def _algorithm(node: Node) -> str:
    return str(bound_arguments(node).get("approximate", ""))
