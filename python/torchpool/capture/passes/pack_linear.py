"""Packs the weights of linear layers for oneDNN's matrix kernels."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch.fx import GraphModule, Node

from torchpool.capture.graph_edit import bound_arguments, calls, foldable, is_tensor, value_of
from torchpool.capture.linear_choice import WORTHWHILE
from torchpool.capture.passes.onednn import supported

_aten = torch.ops.aten
TARGETS = (_aten.linear.default, _aten.addmm.default, _aten.mm.default, _aten.matmul.default)


class Linear(NamedTuple):
    """x @ weight.T + bias, or x @ weight + bias where `transposed`."""

    x: Node
    weight: Node
    bias: Node | None
    transposed: bool


def run(module: GraphModule) -> int:
    """Linear, addmm, mm and matmul with a constant weight."""
    graph = module.graph
    constants = foldable(graph)
    count = 0
    for node in calls(graph, *TARGETS):
        found = read(node, constants)
        if found is None or not supported((weight := value_of(found.weight)).dtype):
            continue
        if weight.numel() < WORTHWHILE[weight.dtype]:
            continue
        with graph.inserting_before(node):
            weight = found.weight
            if found.transposed:
                weight = graph.call_function(_aten.t.default, (weight,))
                weight = graph.call_function(_aten.contiguous.default, (weight,))
            packed = graph.call_function(torch.ops.mkldnn._reorder_linear_weight.default, (weight,))
            linear = graph.call_function(
                torch.ops.mkldnn._linear_pointwise.default, (found.x, packed, found.bias, "none", [], "")
            )
        linear.meta["val"] = value_of(node)
        node.replace_all_uses_with(linear)
        graph.erase_node(node)
        count += 1
    return count


def read(node: Node, constants: set[Node]) -> Linear | None:
    """The linear layer that a node computes, if it has a constant weight of a type that kernels are there for."""
    arguments = bound_arguments(node)
    if node.target is _aten.linear.default:
        found = Linear(arguments["input"], arguments["weight"], arguments.get("bias"), False)
    elif node.target is _aten.addmm.default:
        if arguments["beta"] != 1 or arguments["alpha"] != 1:
            return None
        found = Linear(arguments["mat1"], arguments["mat2"], arguments["self"], True)
    else:
        names = ("self", "mat2") if node.target is _aten.mm.default else ("self", "other")
        found = Linear(arguments[names[0]], arguments[names[1]], None, True)
    x, weight = value_of(found.x), value_of(found.weight)
    if not isinstance(x, torch.Tensor) or not isinstance(weight, torch.Tensor):
        return None
    if found.weight not in constants or found.x in constants or weight.dim() != 2 or x.dim() < 2:
        return None
    if weight.dtype not in WORTHWHILE or x.dtype != weight.dtype or 0 in weight.shape:
        return None
    if found.bias is not None:
        bias = value_of(found.bias)
        width = weight.shape[1 if found.transposed else 0]
        if found.bias not in constants or not is_tensor(found.bias, x.dtype) or tuple(bias.shape) != (width,):
            return None
    return found
