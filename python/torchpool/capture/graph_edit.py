"""Helpers for exported graphs that export, passes and lowering share."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from torchpool.capture.program import CaptureError

# Operators with kernels in C++. Operators that Python registers would need the interpreter.
_NAMESPACES = frozenset({"aten", "mkldnn", "quantized", "torchvision"})
_KERNELS = frozenset({"torchpool::rnn", "torchpool::pack_rnn"})
_set_grad = torch.ops.higher_order.wrap_with_set_grad_enabled
_autocast = torch.ops.higher_order.wrap_with_autocast
# Export writes down the dtype and device of what `.to()` is called on; both follow from the call's own.
_TOLD_BY_INPUTS = frozenset({torch.ops.aten._assert_tensor_metadata.default})
# Made of other operators, but never return what they were given.
_NEW = frozenset(
    getattr(torch.ops.aten, name)
    for name in (
        "linear", "matmul", "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d",
        "batch_norm", "instance_norm", "group_norm", "layer_norm", "rms_norm", "softmax", "log_softmax",
        "scaled_dot_product_attention", "max_pool1d", "max_pool2d", "max_pool3d", "lstm", "gru", "rnn_tanh", "rnn_relu",
    )
)  # fmt: skip
# Nothing is recorded for gradients when a graph runs.
_DETACH = frozenset({torch.ops.aten.detach.default, torch.ops.aten.detach_.default, torch.ops.aten.alias.default})


def value_of(node: Any) -> Any:
    """Export's value for a node's result: a fake tensor, a symbolic int, or a list of such values; None if unknown."""
    return node.meta.get("val") if isinstance(node, Node) else None


def is_tensor(node: Any, *dtypes: torch.dtype) -> bool:
    """Whether a node's result is a tensor, of one of the dtypes if any are given."""
    value = value_of(node)
    return isinstance(value, torch.Tensor) and (not dtypes or value.dtype in dtypes)


def schema_of(node: Node) -> torch.FunctionSchema | None:
    """The schema of the operator that a node calls; None for arithmetic on sizes."""
    return node.target._schema if isinstance(node.target, torch._ops.OpOverload) else None


def bound_arguments(node: Node) -> dict[str, Any]:
    """A node's arguments by name, with the schema's defaults."""
    schema = schema_of(node)
    assert schema is not None
    bound = dict(zip((argument.name for argument in schema.arguments), node.args, strict=False))
    bound.update(node.kwargs)
    for argument in schema.arguments:
        if argument.name not in bound and argument.has_default_value():
            bound[argument.name] = argument.default_value
    return bound


def only_user(node: Node) -> Node | None:
    """The one node that uses a node's result, and uses it once."""
    users = list(node.users)
    if len(users) != 1 or sum(used is node for used in users[0].all_input_nodes) != 1:
        return None
    places = [0]

    def count(used: Node) -> Node:
        places[0] += used is node
        return used

    torch.fx.map_arg((users[0].args, users[0].kwargs), count)
    return users[0] if places[0] == 1 else None


def inputs_of(module: GraphModule) -> tuple[list[Node], list[Node]]:
    """The placeholders: weights (marked so by capture), and the call's tensors."""
    found = [node for node in module.graph.nodes if node.op == "placeholder"]
    return [n for n in found if "weight" in n.meta], [n for n in found if "weight" not in n.meta]


# Nested graphs.


def has_enabled_autocast(module: GraphModule) -> bool:
    """Whether a part of the graph runs under torch.autocast, which changes what its operators do."""
    for part in module.modules():
        if isinstance(part, GraphModule):
            for node in part.graph.nodes:
                if node.target is _autocast and node.args[2]:
                    return True
    return False


def inline(module: GraphModule) -> Graph:
    """The graph with regions of another grad mode, and of autocast turned off, written in place."""
    flat = Graph()
    results = _copy_into(flat, module, [None] * len([n for n in module.graph.nodes if n.op == "placeholder"]))
    flat.output(tuple(results))
    return flat


def _copy_into(flat: Graph, module: GraphModule, arguments: Sequence[Any]) -> Sequence[Any]:
    known: dict[Node, Any] = {}
    left = list(arguments)

    def put(value: Any) -> Any:
        return torch.fx.map_arg(value, lambda node: known[node])

    for node in module.graph.nodes:
        if node.op == "placeholder":
            given = left.pop(0)
            known[node] = flat.node_copy(node) if given is None else given
        elif node.op == "get_attr":
            known[node] = getattr(module, str(node.target), None)
            if not isinstance(known[node], GraphModule):
                raise CaptureError(f"node {node.name} reads attribute {node.target!r}, which export left in the graph")
        elif node.op == "output":
            found = put(node.args[0])
            return found if isinstance(found, tuple | list) else (found,)
        elif node.target in (_set_grad, _autocast):
            skipped = 1 if node.target is _set_grad else 4
            region = known[node.args[skipped]]
            known[node] = _copy_into(flat, region, [put(value) for value in node.args[skipped + 1 :]])
        elif node.target is operator.getitem and isinstance(known.get(node.args[0]), tuple | list):
            known[node] = known[node.args[0]][node.args[1]]
        elif isinstance(node.target, torch._ops.HigherOrderOperator):
            raise CaptureError(f"node {node.name}: {node.target} (control flow on values) is not supported")
        else:
            known[node] = flat.node_copy(node, put)
    raise CaptureError("the exported graph has no output")


def simplify(graph: Graph) -> None:
    """Removes nodes that do nothing when a graph is only run."""
    for node in list(graph.nodes):
        if node.target in _TOLD_BY_INPUTS:
            graph.erase_node(node)
        elif node.target in _DETACH:
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
    graph.eliminate_dead_code()


def refuse_unsupported(graph: Graph) -> None:
    """Raises CaptureError for an operator that only runs with the interpreter."""
    for node in graph.nodes:
        if node.op == "call_function" and isinstance(node.target, torch._ops.OpOverload):
            if node.target.namespace not in _NAMESPACES and node.target._schema.name not in _KERNELS:
                raise CaptureError(f"node {node.name}: operator {node.target} may need Python and is not supported")
        elif node.op not in ("placeholder", "output", "call_function"):
            raise CaptureError(f"node {node.name}: {node.op} {node.target} is not supported")


# Memory that several nodes share.


class Memory:
    """Which nodes' results may be views of the same memory, and who writes to it."""

    def __init__(self, graph: Graph) -> None:
        self.order = {node: place for place, node in enumerate(graph.nodes)}
        self.roots: dict[Node, frozenset[Node]] = {}
        """Per node, the nodes that made the memory of its result."""
        self.writes: list[tuple[Node, frozenset[Node]]] = []
        """The nodes that write in place, with whose memory they write to."""
        for node in graph.nodes:
            schema = schema_of(node) if node.op == "call_function" else None
            shared: set[Node] = set()
            if schema is not None:
                written = self._roots_of(_arguments(node, schema, write=True))
                if written:
                    self.writes.append((node, written))
                shared.update(self._roots_of(_arguments(node, schema, write=None)))
                if not shared and _may_return_its_input(node):
                    shared = {node, *self._roots_of(node.all_input_nodes)}
            elif node.target is operator.getitem:
                shared.update(self._roots_of(node.all_input_nodes))
            self.roots[node] = frozenset(shared or {node})

    def _roots_of(self, nodes: Sequence[Node]) -> frozenset[Node]:
        return frozenset().union(*(self.roots[node] for node in nodes))

    def sharing(self, root: Node) -> list[Node]:
        """The nodes whose results may lie in the memory that `root` made."""
        return [node for node, roots in self.roots.items() if root in roots]


def _arguments(node: Node, schema: torch.FunctionSchema, write: bool | None) -> list[Node]:
    """The nodes given for arguments that are written to, or (None) that the result may be a view of."""
    bound = bound_arguments(node)
    found: list[Node] = []
    for argument in schema.arguments:
        alias = argument.alias_info
        if alias is not None and (write is None or alias.is_write == write):
            torch.fx.map_arg(bound.get(argument.name), found.append)
    return found


def _may_return_its_input(node: Node) -> bool:
    # Of the operators that are made of others some return what they were given, and their schemas do not say so.
    key = torch._C.DispatchKey.CompositeImplicitAutograd
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.overloadpacket in _NEW:
        return False
    return torch._C._dispatch_has_kernel_for_dispatch_key(node.target._name, key)


def foldable(graph: Graph) -> set[Node]:
    """The nodes that may be computed once per state of the weights: no batch's own values reach them, by arguments or
    by what is written in place."""
    found = _constants(graph)
    memory = Memory(graph)
    settled = False
    while not settled:
        settled = True
        for root in {root for _, roots in memory.writes for root in roots}:
            last = max(memory.order[node] for node, roots in memory.writes if root in roots)
            sharing = memory.sharing(root)
            touching = set(sharing).union(*(node.users for node in sharing))
            early = [node for node in touching if memory.order[node] <= last and node.op == "call_function"]
            if found.issuperset(early):
                continue
            # Someone in the batch's part reads this memory between writes, or writes it: all of it moves there.
            if found.intersection(touching):
                found.difference_update(touching)
                settled = False
        for node in graph.nodes:
            if node in found and node.op != "placeholder" and not found.issuperset(node.all_input_nodes):
                found.remove(node)
                settled = False
    return found


def _constants(graph: Graph) -> set[Node]:
    """The nodes whose results depend on weights and constants only."""
    found: set[Node] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            if "weight" in node.meta:
                found.add(node)
        elif node.op == "call_function" and not _draws(node) and all(used in found for used in node.all_input_nodes):
            found.add(node)
    return found


def _draws(node: Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and (
        torch.Tag.nondeterministic_seeded in node.target.tags or torch.Tag.data_dependent_output in node.target.tags
    )


def protect_inputs(module: GraphModule) -> None:
    """Lets the graph write to copies, made in each run, of those inputs and weights that it writes to."""
    graph = module.graph
    for root in sorted({root for _, roots in Memory(graph).writes for root in roots}, key=list(graph.nodes).index):
        if root.op != "placeholder":
            continue
        with graph.inserting_before(first_after_placeholders(graph)):
            copy = graph.call_function(torch.ops.aten.clone.default, (root,))
        copy.meta["val"] = root.meta.get("val")
        insert_behind(root, copy)


def insert_behind(node: Node, new: Node) -> None:
    """Lets all users of a node but `new`, which is computed from it, use `new`."""
    node.replace_all_uses_with(new, delete_user_cb=lambda user: user is not new)


def first_after_placeholders(graph: Graph) -> Node:
    """Where computation begins."""
    found: Node = next(node for node in graph.nodes if node.op != "placeholder")
    return found


def calls(graph: Graph, *targets: Any) -> Iterator[Node]:
    """The nodes that call one of the operators, in order; the graph may be changed meanwhile."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in targets and not node._erased:
            yield node


def copy_of(module: GraphModule) -> GraphModule:
    """A copy whose graph can be changed; what is known of its nodes is shared."""
    graph = Graph()
    known: dict[Node, Node] = {}
    graph.output(graph.graph_copy(module.graph, known))
    return GraphModule(torch.nn.Module(), graph)
