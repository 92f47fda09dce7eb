"""Attention by torchpool's own kernel, which computes each row over the keys that its mask leaves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch.fx import Graph, GraphModule, Node

from torchpool import _core
from torchpool.capture.graph_edit import bound_arguments, calls, only_user, value_of
from torchpool.capture.invariant import WANTED
from torchpool.capture.passes.layout import may_change_strides, use_reshape

_aten = torch.ops.aten
ATTENTION = torch.ops.torchpool.varlen_attention.default
KEYS = torch.ops.torchpool.attention_keys.default
_FOUND, _LEFT = "torchpool.attention", "torchpool.attention_left"
# Of a graph module's meta: how many the kernel computes, and per other one, in words, why ATen does.

_FASTER = ("avx2", "avx512")  # instruction sets for which it was measured
_SDPA = _aten.scaled_dot_product_attention.default
_VIEWS = frozenset({
    _aten.view.default, _aten.reshape.default, _aten._unsafe_view.default, _aten.expand.default,
    _aten.unsqueeze.default, _aten.squeeze.dim, _aten.transpose.int, _aten.permute.default, _aten.unflatten.int,
    _aten.contiguous.default, _aten.select.int, _aten.slice.Tensor, _aten.alias.default,
})  # fmt: skip


class Attention(NamedTuple):
    """softmax(scale * query @ key.T + mask) @ value; the scale is that of the size where it is None."""

    query: Node
    key: Node
    value: Node
    mask: Node | None
    is_causal: bool
    scale: float | None
    eager: bool
    """As matmul and softmax compute it."""


def run(module: GraphModule) -> int:
    """scaled_dot_product_attention, and the same written as products around a softmax; of fp32, with any mask."""
    graph = module.graph
    left: list[str] = []
    module.meta[_LEFT] = left
    found: list[tuple[Node, Attention]] = []
    for node in calls(graph, _SDPA, _aten.matmul.default):
        attention = _fused(node) if node.target is _SDPA else _written_out(node)
        if attention is None:
            continue
        why = _unfit(node, attention)
        if why is None:
            found.append((node, attention))
        else:
            left.append(why)
    if not found or not may_change_strides(graph):
        left += ["the graph takes memory as it lies"] * len(found)
        return 0
    keys: dict[Any, Node] = {}
    for node, attention in found:
        _replace(graph, node, attention, None if module.meta.get(WANTED) else keys)
    use_reshape(graph)
    graph.eliminate_dead_code()
    module.meta[_FOUND] = len(found)
    return len(found)


def describe(module: GraphModule) -> list[str]:
    """What computes the attention of a graph after the pass, in words."""
    count, left = module.meta.get(_FOUND, 0), Counter(module.meta.get(_LEFT, []))
    told = [f"attention: {count} by torchpool ({_core.linear_isa()}), without its masked keys"] if count else []
    return told + [f"attention: {number} by ATen, since {why}" for why, number in left.items()]


def _fused(node: Node) -> Attention | None:
    given = bound_arguments(node)
    if given["dropout_p"]:
        return None
    names = ("query", "key", "value", "attn_mask", "is_causal", "scale")
    query, key, value, mask, is_causal, scale = (given[name] for name in names)
    return Attention(query, key, value, mask, is_causal, scale, eager=False)


def _written_out(node: Node) -> Attention | None:
    """softmax(query @ key.T * scale + mask) @ value, none of whose parts anyone else uses."""
    weights, value = node.args
    weights = _past(weights, _is_float_copy)
    if not isinstance(weights, Node) or weights.target is not _aten.softmax.int or only_user(weights) is None:
        return None
    given = bound_arguments(weights)
    if given["dim"] not in (-1, weights.meta["val"].dim() - 1) or given["dtype"] not in (None, torch.float32):
        return None
    scores, mask, scale = given["self"], None, 1.0
    if _is(scores, _aten.add.Tensor) and isinstance(scores.args[1], Node):
        arguments = bound_arguments(scores)
        if arguments["alpha"] != 1:
            return None
        scores, mask = arguments["self"], arguments["other"]
    if _is(scores, _aten.mul.Tensor, _aten.div.Tensor) and isinstance(scores.args[1], int | float):
        by = float(scores.args[1])
        if by == 0:
            return None
        scale = by if scores.target is _aten.mul.Tensor else 1 / by
        scores = scores.args[0]
    if not _is(scores, _aten.matmul.default):
        return None
    query, turned = scores.args
    if not isinstance(turned, Node) or not isinstance(query, Node) or not _is_turned(turned):
        return None
    return Attention(query, turned.args[0], value, mask, False, scale, eager=True)  # type: ignore[arg-type]


def _is(node: Any, *targets: Any) -> bool:
    """Whether a node is such a call, of which nobody else uses the result."""
    return isinstance(node, Node) and node.target in targets and only_user(node) is not None


def _past(node: Any, skipped: Callable[[Node], bool]) -> Any:
    while isinstance(node, Node) and skipped(node) and only_user(node) is not None:
        node = node.args[0]
    return node


def _is_float_copy(node: Node) -> bool:
    return node.target in (_aten.to.dtype, _aten.contiguous.default) and value_of(node).dtype == torch.float32


def _is_turned(node: Node) -> bool:
    rank = value_of(node).dim()
    if node.target is _aten.transpose.int:
        return sorted(int(dim) % rank for dim in node.args[1:]) == [rank - 2, rank - 1]  # type: ignore[arg-type]
    if node.target is _aten.permute.default:
        order = [int(dim) % rank for dim in node.args[1]]  # type: ignore[union-attr, arg-type]
        return order == [*range(rank - 2), rank - 1, rank - 2]
    return False


def _unfit(node: Node, attention: Attention) -> str | None:
    """Why the kernel is not for this one, in words."""
    if _core.linear_isa() not in _FASTER:
        return "this processor has no AVX2"
    values = [value_of(part) for part in attention[:3]]
    if any(not isinstance(value, torch.Tensor) or value.dtype != torch.float32 for value in values):
        return "it is not of float32"
    if any(value.dim() != 4 for value in values):
        return f"it has {values[0].dim()} dims, not batch, heads, places and size"
    size = values[0].shape[3]
    if not isinstance(size, int) or size % 8 or any(value.shape[3] != size for value in values):
        return f"its heads are of size {size}, no multiple of 8"
    heads = [value.shape[1] for value in values]
    if any(not isinstance(count, int) or not count for count in heads) or heads[0] % heads[1] or heads[1] != heads[2]:
        return f"it has {heads[0]} heads for {heads[1]} of keys and {heads[2]} of values"
    if attention.mask is not None:
        mask = value_of(attention.mask)
        if not isinstance(mask, torch.Tensor) or mask.dtype not in (torch.bool, torch.float32):
            return "its mask is neither of bool nor of float32"
        if attention.is_causal or (attention.eager and mask.dtype == torch.bool):
            return "its mask is used in another way"
    if attention.scale is not None and not (isinstance(attention.scale, int | float) and attention.scale > 0):
        return f"its scale is {attention.scale}"
    if value_of(node).dim() != 4:
        return "its result has other dims"
    return None


def _replace(graph: Graph, node: Node, attention: Attention, known: dict[Any, Node] | None) -> None:
    """`known`: the keys of masks that were read for other layers; None: each run of the kernel reads its own."""
    with graph.inserting_before(node):
        keys = None if attention.mask is None or known is None else _keys_of(graph, attention.mask, known)
        own = graph.call_function(
            ATTENTION,
            (*attention[:4], keys, attention.is_causal, attention.scale),
            {"eager": attention.eager, "alike": _alike(attention)},
        )
    own.meta["val"] = value_of(node)
    node.replace_all_uses_with(own)
    graph.erase_node(node)


def _keys_of(graph: Graph, mask: Node, known: dict[Any, Node]) -> Node:
    """The mask's keys, which all layers share that have the same mask. They are read where the mask is there."""
    name = _as_written(mask)
    if name not in known:
        with graph.inserting_after(mask):
            known[name] = graph.call_function(KEYS, (mask,))
        known[name].meta["val"] = value_of(mask).new_empty(0, dtype=torch.int32)
    return known[name]


def _as_written(node: Any) -> Any:
    """The same for views of one value that are written down alike: layers may make them anew."""
    if isinstance(node, list | tuple):
        return tuple(map(_as_written, node))
    if not isinstance(node, Node) or node.target not in _VIEWS:
        return node
    return node.target, _as_written(node.args), tuple(sorted(node.kwargs.items()))


def _alike(attention: Attention) -> bool:
    """Whether what is not finite at a place is so in all heads of it: keys and values are products with a weight."""
    return all(_is_product(node) for node in attention[1:3])


def _is_product(node: Any) -> bool:
    while isinstance(node, Node) and node.target in _VIEWS:
        node = node.args[0]
    return isinstance(node, Node) and node.target in (_aten.linear.default, _aten.addmm.default)
