"""Packs the weights of convolutions for oneDNN; the results of packed convolutions are channels-last."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch.fx import GraphModule, Node

from torchpool.capture.graph_edit import bound_arguments, calls, foldable, is_tensor, value_of
from torchpool.capture.invariant import WANTED
from torchpool.capture.passes.layout import may_change_strides, use_reshape
from torchpool.capture.passes.onednn import supported

_aten = torch.ops.aten
_ROWS = 8  # the batch that weights are laid out for; right for all, and fast


class Convolution(NamedTuple):
    """A convolution that oneDNN can compute."""

    x: Node
    weight: Node
    bias: Node | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int


def run(module: GraphModule) -> int:
    """Two-dimensional convolutions with constant weights."""
    graph = module.graph
    constants = foldable(graph)
    count = 0
    if not may_change_strides(graph):
        return 0
    for node in calls(graph, *TARGETS):
        one = read(node, constants)
        if one is None:
            continue
        sizes = [1 if module.meta.get(WANTED) else _ROWS, *value_of(one.x).shape[1:]]
        known = sizes if all(isinstance(size, int) for size in sizes) else None
        with graph.inserting_before(node):
            packed = graph.call_function(
                torch.ops.mkldnn._reorder_convolution_weight.default,
                (one.weight, one.padding, one.stride, one.dilation, one.groups, known),
            )
            convolution = graph.call_function(
                torch.ops.mkldnn._convolution_pointwise.default,
                (one.x, packed, one.bias, one.padding, one.stride, one.dilation, one.groups, "none", [], ""),
            )
        convolution.meta["val"] = value_of(node)
        node.replace_all_uses_with(convolution)
        graph.erase_node(node)
        count += 1
    if count:
        use_reshape(graph)
    return count


TARGETS = (_aten.conv2d.default, _aten.conv2d.padding)


def read(node: Node, constants: set[Node]) -> Convolution | None:
    """The convolution that a node computes, if oneDNN can."""
    arguments = bound_arguments(node)
    x, weight = value_of(arguments["input"]), value_of(arguments["weight"])
    if arguments["weight"] not in constants or arguments["input"] in constants:
        return None
    if not isinstance(x, torch.Tensor) or x.dim() != 4 or not supported(x.dtype) or weight.dtype != x.dtype:
        return None
    bias = arguments.get("bias")
    if bias is not None and (bias not in constants or not is_tensor(bias, x.dtype)):
        return None
    stride, dilation = _pair(arguments["stride"]), _pair(arguments["dilation"])
    padding = _padding(arguments["padding"], weight.shape[2:], dilation)
    if padding is None:
        return None
    return Convolution(arguments["input"], arguments["weight"], bias, stride, padding, dilation, arguments["groups"])


def _pair(value: Any) -> list[int]:
    values = list(value) if isinstance(value, tuple | list) else [value]
    return values * 2 if len(values) == 1 else values


def _padding(value: Any, kernel: torch.Size, dilation: list[int]) -> list[int] | None:
    if value == "valid":
        return [0, 0]
    if value == "same":
        total = [step * (size - 1) for size, step in zip(kernel, dilation, strict=True)]
        return None if any(one % 2 for one in total) else [one // 2 for one in total]
    return _pair(value)
