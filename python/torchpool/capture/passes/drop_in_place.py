"""Replaces operators that write in place by operators that give a new tensor, where no other node sees the memory.

Later passes move and fuse computations. They cannot do so where memory is written to.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from torchpool.capture.graph_edit import Memory, calls, only_user, value_of


def run(module: GraphModule) -> int:
    """`relu_(conv(x))` and `add_(conv(x), y)`, among others."""
    graph = module.graph
    memory = Memory(graph)
    targets = {node.target for node, _ in memory.writes}
    count = 0
    for node in calls(graph, *targets):
        written = node.args[0] if node.args else None
        functional = functional_of(node)
        if functional is None or not isinstance(written, Node) or only_user(written) is not node:
            continue
        if written.op != "call_function" or memory.roots[written] != {written} or not _same_type(node):
            continue
        node.target = functional
        memory.roots[node] = frozenset({node})
        count += 1
    return count


def functional_of(node: Node) -> Any:
    """The operator that gives a new tensor; None if there is none with the same arguments."""
    assert isinstance(node.target, torch._ops.OpOverload)
    schema = node.target._schema
    namespace, _, name = schema.name.partition("::")
    writes = [argument.name for argument in schema.arguments if argument.is_write]
    if not name.endswith("_") or writes != [schema.arguments[0].name] or len(schema.returns) != 1:
        return None
    packet = getattr(getattr(torch.ops, namespace), name[:-1], None)
    found = getattr(packet, schema.overload_name or "default", None)
    if found is None or [a.name for a in found._schema.arguments] != [a.name for a in schema.arguments]:
        return None
    return found


def _same_type(node: Node) -> bool:
    """Whether nothing that goes in would make a new tensor's type or sizes other than those written to."""
    own = value_of(node)
    for used in node.all_input_nodes:
        value = value_of(used)
        if isinstance(value, torch.Tensor) and value.dim() and value.dtype not in (own.dtype, torch.bool):
            return False
    # What a Python number, or a tensor of one element, is multiplied with keeps its type unless it is of integers.
    return bool(own.dtype.is_floating_point)
