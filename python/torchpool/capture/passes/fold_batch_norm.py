"""Folds batch norm in eval mode into the convolution before it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from torchpool.capture.graph_edit import bound_arguments, calls, foldable, only_user, value_of

_aten = torch.ops.aten
_CONVOLUTIONS = frozenset({
    _aten.conv1d.default, _aten.conv1d.padding, _aten.conv2d.default, _aten.conv2d.padding,
    _aten.conv3d.default, _aten.conv3d.padding,
})  # fmt: skip


def run(module: GraphModule) -> int:
    """Where nobody else uses the convolution's result. The new weights are computed once, in the weights' own type."""
    graph = module.graph
    constants = foldable(graph)
    count = 0
    for norm in calls(graph, _aten.batch_norm.default):
        given = bound_arguments(norm)
        convolution = given["input"]
        stats = [given["weight"], given["bias"], given["running_mean"], given["running_var"]]
        if convolution.target not in _CONVOLUTIONS or only_user(convolution) is not norm or given["training"]:
            continue
        layer = bound_arguments(convolution)
        parts = [layer["weight"], layer.get("bias"), *stats]
        if given["running_mean"] is None or any(part is not None and part not in constants for part in parts):
            continue
        dtype, kept = value_of(convolution).dtype, {"weight": layer["weight"], "bias": layer.get("bias")}
        with graph.inserting_before(convolution):
            weight, bias = _folded(graph, kept, stats, given["eps"], dtype)
        for name, new in (("weight", weight), ("bias", bias)):
            _set(convolution, name, new)
        convolution.meta["val"] = value_of(norm)
        norm.replace_all_uses_with(convolution)
        graph.erase_node(norm)
        constants.update((weight, bias))
        count += 1
    return count


def _folded(
    graph: torch.fx.Graph, kept: dict[str, Node | None], stats: list[Node | None], eps: float, dtype: torch.dtype
) -> tuple[Node, Node]:
    def call(op: torch._ops.OpOverload, *args: Any) -> Node:
        return graph.call_function(op, args)

    gain, shift, mean, variance = (None if part is None else _wide(part) for part in stats)
    assert kept["weight"] is not None
    weight = _wide(kept["weight"])
    bias = None if kept["bias"] is None else _wide(kept["bias"])
    scale = call(_aten.rsqrt.default, call(_aten.add.Tensor, variance, eps))
    if gain is not None:
        scale = call(_aten.mul.Tensor, scale, gain)
    sizes = value_of(weight).shape
    new_weight = call(_aten.mul.Tensor, weight, call(_aten.reshape.default, scale, [-1, *[1] * (len(sizes) - 1)]))
    centre = call(_aten.neg.default, mean) if bias is None else call(_aten.sub.Tensor, bias, mean)
    new_bias = call(_aten.mul.Tensor, centre, scale)
    if shift is not None:
        new_bias = call(_aten.add.Tensor, new_bias, shift)
    result = []
    for node, shape in ((new_weight, sizes), (new_bias, sizes[:1])):
        cast = call(_aten.to.dtype, node, dtype)
        cast.meta["val"] = value_of(weight).new_empty(shape, dtype=dtype)
        result.append(cast)
    return result[0], result[1]


def _wide(node: Node) -> Node:
    """The weight itself rather than its conversion to the type that the graph computes in."""
    source = node.args[0] if node.target is _aten.to.dtype else node
    return source if isinstance(source, Node) and value_of(source).is_floating_point() else node


def _set(node: Node, name: str, value: Node) -> None:
    place = ("input", "weight", "bias").index(name)
    args = list(node.args) + [None] * (place + 1 - len(node.args))
    args[place] = value
    node.args = tuple(args)
    node.kwargs = {key: given for key, given in node.kwargs.items() if key != name}
