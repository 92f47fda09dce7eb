"""Linear layers by torchpool's own kernel, where that is the faster one."""

from __future__ import annotations

from collections import Counter

import torch
from torch.fx import Graph, GraphModule, Node

from torchpool.capture import linear_choice
from torchpool.capture.graph_edit import bound_arguments, calls, foldable, value_of
from torchpool.capture.invariant import WANTED
from torchpool.capture.passes.pack_linear import TARGETS, Linear, read
from torchpool.capture.storage import FP32

LINEAR = torch.ops.torchpool.linear.default
_PACK = torch.ops.torchpool.pack_linear.default
CHOICES = "torchpool.linear_choices"
"""Of a graph module's meta: how many layers each kernel computes, by LinearChoice."""
STORAGE = "torchpool.storage"
"""Of a graph module's meta: in what weights are to be stored, if not in fp32."""


def run(module: GraphModule) -> int:
    """Linear, addmm, mm and matmul of fp32 with a constant weight. Others are left to the library."""
    graph = module.graph
    constants = foldable(graph)
    layers: list[tuple[Node, Linear]] = []
    for node in calls(graph, *TARGETS):
        found = read(node, constants)
        if found is not None and value_of(found.weight).dtype == torch.float32:
            layers.append((node, found))
    shapes = Counter(_shape(layer) for _, layer in layers)
    choose = linear_choice.always_own if module.meta.get(WANTED) else linear_choice.choose
    choices = choose(shapes, module.meta.get(STORAGE, FP32))
    module.meta[CHOICES] = {choices[shape]: count for shape, count in shapes.items()}
    own = [(node, layer) for node, layer in layers if choices[_shape(layer)].kernel == linear_choice.OWN]
    for node, layer in own:
        _replace(graph, node, layer, choices[_shape(layer)].storage)
    return len(own)


def _shape(layer: Linear) -> linear_choice.Shape:
    rows, columns = map(int, value_of(layer.weight).shape)
    return (columns, rows) if layer.transposed else (rows, columns)


def _replace(graph: Graph, node: Node, layer: Linear, storage: str) -> None:
    outputs, k = _shape(layer)
    given = bound_arguments(node)  # as they are now: the layer before may have been replaced
    x = next(given[name] for name in ("input", "mat1", "self") if name in given)  # addmm's self is the bias
    with graph.inserting_before(node):
        stored = () if storage == FP32 else (storage,)
        packed = graph.call_function(_PACK, (layer.weight, layer.bias, layer.transposed, *stored))
        linear = graph.call_function(LINEAR, (x, packed, outputs))
    packed.meta["val"] = value_of(layer.weight).new_empty(outputs * k)
    linear.meta["val"] = value_of(node)
    node.replace_all_uses_with(linear)
    graph.erase_node(node)
