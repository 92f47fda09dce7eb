"""Which operators of a graph give a row the same bits in every batch, and which run row by row for that.

A row is computed beside others in three ways: moved or rounded once for each element, which no neighbour can change;
by kernels whose order of operations does not depend on the batch (torchpool's own, and those of ATen that
tests/python/invariant/test_invariant_ops.py has compared at all sizes); or by an operator that sees one row at a time.
What is none of these is named, and its graph is not made.
"""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

from torchpool.capture.graph_edit import bound_arguments, foldable, insert_behind, is_tensor, schema_of, value_of
from torchpool.capture.program import CaptureError
from torchpool.contract import Contract, RowsVerdict
from torchpool.contract.rows.sizes import size_of

_aten = torch.ops.aten
WANTED = "torchpool.invariant"
"""Of a graph module's meta: passes leave out what may round otherwise in another batch."""
TOLD = "torchpool.invariant_told"
"""Of a graph module's meta: what `mark` has found, in words."""
BY_ROW = "torchpool.by_row"
"""Of a node's meta: the dims of rows, per node that it reads, and per result."""

MOVES = frozenset({
    "__and__", "__or__", "_assert_scalar", "_assert_tensor_metadata", "_to_copy", "_unsafe_view", "alias", "arange",
    "bitwise_and", "bitwise_not", "bitwise_or", "broadcast_to", "cat", "chunk", "clone", "constant_pad_nd",
    "contiguous", "copy", "detach", "diagonal", "dropout", "embedding", "empty", "empty_like", "expand", "expand_as",
    "eye", "flatten", "flip", "full", "full_like", "gather", "index", "index_select", "lift_fresh_copy",
    "logical_and", "logical_not", "logical_or", "masked_fill", "movedim", "narrow", "new_empty", "new_full",
    "new_ones", "new_zeros", "ones", "ones_like", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape",
    "roll", "scalar_tensor", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "sym_size", "t",
    "tile", "to", "transpose", "tril", "triu", "type_as", "unbind", "unflatten", "unfold", "unsqueeze", "view",
    "view_as", "where", "zeros", "zeros_like",
})  # fmt: skip
"""Of ATen: no number is computed."""
ONCE_ROUNDED = frozenset({
    "abs", "add", "all", "any", "ceil", "clamp", "clamp_max", "clamp_min", "div", "eq", "floor", "ge", "gt", "hardtanh",
    "isfinite", "isinf", "isnan", "le", "leaky_relu", "lt", "max_pool1d", "max_pool2d", "maximum", "minimum", "mul",
    "ne", "neg", "reciprocal", "relu", "relu6", "round", "rsub", "sign", "sqrt", "square", "sub", "trunc",
})  # fmt: skip
"""Each element by operations that IEEE 754 defines, whether by a vector or alone; in float32, float64 and integers."""
SAME_LANES = frozenset({"cos", "erf", "exp", "expm1", "log", "log1p", "log2", "rsqrt", "sin", "tanh"})
"""Of float32: single elements go through the vectors' own function."""
SAME_ROWS = frozenset({"layer_norm", "log_softmax", "softmax"})
"""Of float32: along the last dims, each row from its own beginning."""
OWN = frozenset({"torchpool::linear", "torchpool::rnn"})
_ATTENTION = "torchpool::varlen_attention"
_EXACT_DTYPES = frozenset({
    torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
})  # fmt: skip
_FREE = "the number of its rows is fixed in the graph"


class _Refused(Exception):
    """Why an operator cannot be part of an invariant graph."""


def mark(module: GraphModule, contract: Contract, verdict: RowsVerdict) -> str:
    """Marks the operators that are to run row by row; in words, what was found. Raises CaptureError, which names the
    first operator of which a row's bits may depend on its batch."""
    graph = module.graph
    rows = _rows_of(graph, contract, verdict)
    for node in [node for node in graph.nodes if node.op == "placeholder" and "weight" not in node.meta]:
        _lay_out(graph, node)
    constants = foldable(graph)
    names: Counter[str] = Counter()
    for node in graph.nodes:
        if node.op != "call_function" or node in constants or node.target is operator.getitem:
            continue
        schema = schema_of(node)
        if schema is None or _is_same_in_all(node, schema, rows):
            continue
        name = schema.name.removeprefix("aten::")
        try:
            node.meta[BY_ROW] = _by_row(node, schema, rows)
        except _Refused as error:
            text = (
                f"invariant=True: of {name} a row's bits may depend on its batch, and it cannot run row by row: {error}"
            )
            raise CaptureError(text, verdict) from error
        names[name] += 1
    told = ", ".join(f"{count} {name}" for name, count in names.items())
    return f"invariant: a row's bits do not depend on its batch; row by row: {told or 'nothing'}"


def _rows_of(graph: Graph, contract: Contract, verdict: RowsVerdict) -> Any:
    """The size of a batch's rows."""
    given = [node for node in graph.nodes if node.op == "placeholder" and "weight" not in node.meta]
    dims = zip(given, (spec.batch_dim for spec in contract.inputs), strict=True)
    found = {size_of(value_of(node).shape[dim]) for node, dim in dims if dim is not None}
    rows = next(iter(found), None)
    if len(found) != 1 or rows is None or not rows.is_Symbol:
        raise CaptureError(f"invariant=True: {_FREE}", verdict)
    return rows


def _lay_out(graph: Graph, node: Node) -> None:
    """A call's own tensor may lie in memory in another way than a merged one."""
    if not is_tensor(node) or not node.users:
        return
    with graph.inserting_after(node):
        own = graph.call_function(_aten.contiguous.default, (node,))
    own.meta["val"] = value_of(node)
    insert_behind(node, own)


def _is_same_in_all(node: Node, schema: torch.FunctionSchema, rows: Any) -> bool:
    """Whether the operator may see all rows at once."""
    if schema.name in OWN:
        return True
    if schema.name == _ATTENTION:
        return _is_plain_attention(node, rows)
    space, _, name = schema.name.partition("::")
    if space != "aten":
        return False
    name = name.removesuffix("_") if name not in MOVES else name
    if name in MOVES:
        return name != "dropout" or bound_arguments(node)["train"] is False
    dtypes = {value.dtype for value in map(value_of, node.all_input_nodes) if isinstance(value, torch.Tensor)}
    if name in ONCE_ROUNDED:
        return dtypes.issubset(_EXACT_DTYPES) and not _rounds_twice(node, name)
    if dtypes != {torch.float32}:
        return False
    if name in ("softmax", "log_softmax"):
        given = bound_arguments(node)
        last = given["dim"] in (-1, value_of(node).dim() - 1)
        return bool(last and given["dtype"] in (None, torch.float32))
    return name in SAME_LANES or name in SAME_ROWS


def _rounds_twice(node: Node, name: str) -> bool:
    if name in ("add", "sub", "rsub"):
        return bool(bound_arguments(node).get("alpha", 1) != 1)
    return name == "div" and bound_arguments(node).get("rounding_mode") is not None


def _is_plain_attention(node: Node, rows: Any) -> bool:
    """Whether our own kernel computes all rows of it, whatever they hold: a mask may say what it does not know."""
    given = bound_arguments(node)
    if given["mask"] is not None or given["is_causal"]:
        return False
    return all(size_of(value_of(given[part]).shape[0]) == rows for part in ("query", "key", "value"))


def _by_row(node: Node, schema: torch.FunctionSchema, rows: Any) -> tuple[dict[Node, int], tuple[int, ...]]:
    """The dims of rows of what a node reads, and of its results."""
    if any(argument.alias_info is not None for argument in (*schema.arguments, *schema.returns)):
        raise _Refused("it writes to memory, or shares it, that others read")
    assert isinstance(node.target, torch._ops.OpOverload)
    if torch.Tag.nondeterministic_seeded in node.target.tags:
        raise _Refused("it draws numbers")
    read: dict[Node, int] = {}
    for argument, value in zip(schema.arguments, bound_arguments(node).values(), strict=False):
        of_optionals = "Optional[Tensor]" in str(argument.type) and isinstance(value, list | tuple)
        for one in _nodes_in(value):
            dim = _row_dim(value_of(one), rows)
            if dim is None:
                continue
            if of_optionals:
                raise _Refused("it takes rows by their numbers")
            read[one] = dim
    found = node.meta["val"]
    results = found if isinstance(found, list | tuple) else [found]
    if not all(isinstance(result, torch.Tensor) for result in results):
        raise _Refused("its result is no tensor")
    dims = [_row_dim(result, rows) for result in results]
    if not read and not any(dim is not None for dim in dims):
        return {}, (0,) * len(dims)  # the same for all batches; as it is on one thread
    if not read or any(dim is None for dim in dims):
        raise _Refused("it does not give each row a result")
    return read, tuple(dim for dim in dims if dim is not None)


def _nodes_in(value: Any) -> list[Node]:
    found: list[Node] = []
    torch.fx.map_arg(value, found.append)
    return found


def _row_dim(value: Any, rows: Any) -> int | None:
    """Where a value has rows; None where it has none. Raises _Refused where that is not a dim of its own."""
    if isinstance(value, torch.Tensor):
        sizes = [size_of(size) for size in value.shape]
        dims = [dim for dim, size in enumerate(sizes) if rows in size.free_symbols]
        if not dims:
            return None
        if len(dims) > 1 or sizes[dims[0]] != rows:
            raise _Refused("its rows are folded together with other dims")
        return dims[0]
    if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool) and rows in size_of(value).free_symbols:
        raise _Refused("it is told how many rows there are")
    if isinstance(value, list | tuple) and any(_row_dim(one, rows) is not None for one in value):
        raise _Refused("it takes a list of values with rows")
    return None
