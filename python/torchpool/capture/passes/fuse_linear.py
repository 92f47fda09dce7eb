"""Fuses what follows a linear layer of torchpool's own kernel: an activation, a residual, the norm of a row."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from torchpool.capture.graph_edit import Memory, bound_arguments, calls, foldable, is_tensor, only_user, value_of
from torchpool.capture.passes.own_linear import LINEAR

_aten = torch.ops.aten
_ACTIVATIONS = {_aten.relu.default: "relu", _aten.silu.default: "silu", _aten.gelu.default: "gelu"}
_NORMS = {_aten.layer_norm.default: "layer", _aten.rms_norm.default: "rms"}


def run(module: GraphModule) -> int:
    """In this order, and each where nobody else uses the result before it."""
    fusion = _Fusion(module.graph)
    return sum(fusion.fuse(node) for node in calls(module.graph, LINEAR))


class _Fusion:
    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._constants = foldable(graph)
        memory = Memory(graph)
        self._roots = memory.roots
        self._written = frozenset[Node]().union(*(roots for _, roots in memory.writes))

    def fuse(self, linear: Node) -> int:
        """How many nodes behind the layer have become part of it."""
        count = 0
        # The layer moves to the last of them, and must read there what it reads here.
        while self._is_kept(linear.args[0]) and (user := only_user(linear)) is not None:
            more = self._activation(linear, user) or self._residual(linear, user) or self._norm(linear, user)
            if more is None:
                break
            with self._graph.inserting_before(user):
                fused = self._graph.call_function(LINEAR, linear.args, {**linear.kwargs, **more})
            fused.meta["val"] = value_of(user)
            self._roots[fused] = frozenset({fused})
            user.replace_all_uses_with(fused)
            self._graph.erase_node(user)
            self._graph.erase_node(linear)
            linear = fused
            count += 1
        return count

    def _is_kept(self, node: Any) -> bool:
        """Whether nobody writes to the memory of a node's result."""
        return isinstance(node, Node) and not self._roots[node] & self._written

    def _activation(self, linear: Node, user: Node) -> dict[str, Any] | None:
        if user.target not in _ACTIVATIONS or linear.kwargs:
            return None
        name = _ACTIVATIONS[user.target]
        if name == "gelu" and bound_arguments(user)["approximate"] == "tanh":
            name = "gelu_tanh"
        return {"activation": name}

    def _residual(self, linear: Node, user: Node) -> dict[str, Any] | None:
        if user.target is not _aten.add.Tensor or not linear.kwargs.keys() <= {"activation"}:
            return None
        given = bound_arguments(user)
        other = given["other"] if given["self"] is linear else given["self"]
        if given["alpha"] != 1 or not self._is_kept(other) or not is_tensor(other, torch.float32):
            return None
        return {"residual": other} if _sizes(other) == _sizes(linear) else None

    def _norm(self, linear: Node, user: Node) -> dict[str, Any] | None:
        if user.target not in _NORMS or "norm" in linear.kwargs:
            return None
        given = bound_arguments(user)
        outputs = linear.args[2]
        if given["input"] is not linear or list(given["normalized_shape"]) != [outputs]:
            return None
        gain, shift, eps = given["weight"], given.get("bias"), given["eps"]
        for vector in (gain, shift):
            if vector is not None and (vector not in self._constants or not is_tensor(vector, torch.float32)):
                return None
        eps = torch.finfo(torch.float32).eps if eps is None else eps
        return {"norm": _NORMS[user.target], "gain": gain, "shift": shift, "eps": eps}


def _sizes(node: Node) -> list[str]:
    # As text: to compare symbols may fix them.
    return [str(size) for size in value_of(node).shape]
