"""Drops dropout that does nothing: in eval mode, or at a rate of 0."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from torchpool.capture.graph_edit import bound_arguments, calls

_aten = torch.ops.aten
_DROPOUT = (
    _aten.dropout.default, _aten.dropout_.default,
    _aten.feature_dropout.default, _aten.feature_dropout_.default,
    _aten.alpha_dropout.default, _aten.alpha_dropout_.default,
    _aten.feature_alpha_dropout.default, _aten.feature_alpha_dropout_.default,
)  # fmt: skip


def run(module: GraphModule) -> int:
    """Then the operator returns the very tensor that it is given."""
    count = 0
    for node in calls(module.graph, *_DROPOUT):
        arguments = bound_arguments(node)
        if arguments["train"] is False or arguments["p"] == 0:
            node.replace_all_uses_with(arguments["input"] if "input" in arguments else arguments["self"])
            module.graph.erase_node(node)
            count += 1
    return count
