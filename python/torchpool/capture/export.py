"""From a module and a proven contract to a graph of ATen operators that needs no Python.

torch.export runs on a copy of the module that shares the module's tensors. The graph's weights are the user's own
tensors again, found by name. Export changes settings of the whole process while it runs, and leaves fake tensors
wherever the module keeps computed values: a process that serves calls therefore captures in a child (process.py).
"""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx.experimental.symbolic_shapes import ConstraintViolationError, GuardOnDataDependentSymNode

from torchpool.call import Call, replace_tensors, tree
from torchpool.capture import graph_edit, grouped_op, module_copy, packed_sequences, rnn_op
from torchpool.capture import shapes as capture_shapes
from torchpool.capture.pad_proof import PADDED, prove_pads
from torchpool.capture.program import CaptureError, ProvenRows
from torchpool.capture.row_proof import prove_rows
from torchpool.capture.shapes import NotExpressible
from torchpool.capture.source import Source
from torchpool.contract import (
    Contract,
    Leaves,
    RowsVerdict,
    ShapeCheck,
    ShapeEqual,
    allows,
    brief,
    from_one,
    lengths_of,
    with_rows,
)

_NOT_OWN = ("/torch/", "/torchpool/")
_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


@dataclass
class Graph:
    """A module's computation for one kind of call, on merged inputs."""

    module: torch.fx.GraphModule
    """Placeholders: the weights (meta "weight": name), then the call's tensors; the output is a tuple of tensors."""
    weights: list[tuple[str, torch.Tensor]]
    """Name and the module's own tensor, in the order of the placeholders."""
    checks: list[ShapeCheck | ShapeEqual]
    """What a call's sizes must satisfy beyond the contract."""
    specialised: tuple[str, ...]
    """Which lengths the graph is frozen to, in words."""
    starts_at_two: bool
    """Whether `shape_checks.from_one` may widen the checks once the graph was right at length 1."""
    rows: ProvenRows
    program: ExportedProgram
    """What it was made of."""
    free: bool
    """Whether lengths were to be left free."""


class _Wrapper(nn.Module):
    """The call as a function from tensors to tensors."""

    def __init__(self, module: nn.Module, method: str | None, call: Call, pick: Callable[[Any], tuple[Any, ...]]):
        super().__init__()
        self.module = module
        self._method, self._call, self._pick = method, call, pick

    def forward(self, *leaves: torch.Tensor) -> tuple[Any, ...]:
        args, kwargs = replace_tensors(self._call, leaves)
        function = self.module if self._method is None else getattr(self.module, self._method)
        return self._pick(function(*args, **kwargs))


class _Traced(_Wrapper):
    """As _Wrapper, for the export that runs the module as it is."""

    def forward(self, *leaves: torch.Tensor) -> tuple[Any, ...]:
        try:
            return super().forward(*leaves)
        except GuardOnDataDependentSymNode as error:
            # Left to export, this would print the whole graph.
            line = _own_line(error)
            text = f"a branch or a size depends on values{line and f', {line}'}"
            raise CaptureError(text, RowsVerdict("values", text, source=line or None)) from error


def _own_line(error: BaseException) -> str:
    """The innermost line of an exception's traceback that is neither torch's nor ours; "" where there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not any(part in frame.filename for part in _NOT_OWN):
            return f"{frame.filename.rsplit('/', 1)[-1]}:{frame.lineno} `{(frame.line or '')[:70]}`"
    return ""


def capture(source: Source, *, free: bool = True) -> Graph:
    """The graph of the source.

    free: False does not try to leave the lengths free; the graph is then for those of the first sample.

    Raises CaptureError, which says why, when this cannot be done.
    """
    contract, samples = source.contract, source.samples
    symbols = contract.mode == "merge" and lengths_of(samples[0], contract)
    first: Exception | None = None
    with torch.inference_mode(False), torch.no_grad():
        for leave_free in (True, False) if free and symbols else (False,):
            try:
                graph = _capture(source, free=leave_free)
            except (_Closed, NotExpressible) as error:
                first = first or error
                continue
            if first is not None:
                graph.specialised = (f"lengths cannot be left free: {first}", *graph.specialised)
            elif leave_free and not graph.specialised:
                graph.specialised = _left_out(graph, samples, contract)
            return graph
    raise CaptureError(f"torch.export cannot capture the module: {first}") from first


def _left_out(graph: Graph, samples: Sequence[Leaves], contract: Contract) -> tuple[str, ...]:
    """In words: the samples' lengths that a graph with free lengths does not take."""
    checks = from_one(graph.checks) if graph.starts_at_two else graph.checks
    left_out = [one for one in samples if not allows(checks, with_rows(one, contract, 1))]
    return tuple(f"lengths {lengths_of(one, contract)} are beyond what it takes" for one in left_out)


class _Closed(Exception):
    """Export with these lengths left free, or fixed, does not work."""


def _capture(source: Source, *, free: bool) -> Graph:
    leaves = capture_shapes.example(source.samples, source.contract, free=free)
    first: Exception | None = None
    # Strict export gives the tensors only: it does not show where the values beside them come from.
    beside = any(value is not None for _, value in source.spec.constants())
    for strict in (False,) if beside else (False, True):
        for all_buffers in (False,) if source.dtype is None else (False, True):
            # In a context of its own: an export that ends early may leave values there that would break the next one.
            attempt = functools.partial(_attempt, source, leaves, free=free, strict=strict, all_buffers=all_buffers)
            try:
                return contextvars.copy_context().run(attempt)
            except (CaptureError, NotExpressible, _Closed):
                raise
            except Exception as error:
                # Whatever export or the module raises only means that this way is closed.
                first = first or error
                if isinstance(error.__cause__ or error.__context__, ConstraintViolationError):
                    raise _Closed(brief(first, 2)) from first  # a size that must be free is not: in no way of tracing
    assert first is not None  # each way returned or raised
    raise _Closed(brief(first, 2)) from first


def _attempt(source: Source, leaves: Leaves, *, free: bool, strict: bool, all_buffers: bool) -> Graph:
    program = _export(source, leaves, free=free, strict=strict, all_buffers=all_buffers)
    return graph_of(source, program, free=free)


def _export(source: Source, leaves: Leaves, *, free: bool, strict: bool, all_buffers: bool) -> ExportedProgram:
    module = source.copy(all_buffers=all_buffers)
    module_copy.ignore_conversions(module)
    rnn_op.swap(module)

    def pick(result: Any) -> tuple[Any, ...]:
        found, structure = tree.flatten(result)
        if structure != source.spec:
            text = "the result holds more than tensors in a fixed structure (a value that depends on others, an object)"
            if free and any(isinstance(value, _SYMBOLS) for _, value in structure.constants()):
                raise _Closed(text)  # at one length it may be the same for all calls
            raise CaptureError(text)
        return tuple(found)

    # In the module's own mode: what is true in eval mode need not be in train mode, for values nobody has seen yet.
    wrapper = (_Wrapper if strict else _Traced)(
        module, source.method, source.call, _picker(source.spec) if strict else pick
    )
    with packed_sequences.kept_padded():
        return torch.export.export(
            wrapper,
            tuple(cast(leaf, source.dtype) for leaf in leaves),
            dynamic_shapes=capture_shapes.dynamic_shapes(source.contract, free=free),
            strict=strict,
        )


def _picker(spec: tree.TreeSpec) -> Callable[[Any], tuple[Any, ...]]:
    """Takes the tensors out of a result of known structure, in a way that strict export can follow."""
    steps = _paths(spec.root)

    def pick(result: Any) -> tuple[Any, ...]:
        found = []
        for path in steps:
            value = result
            for by_name, key in path:
                value = getattr(value, key) if by_name else value[key]
            found.append(value)
        return tuple(found)

    return pick


def _paths(item: Any) -> list[list[tuple[bool, Any]]]:
    """Per tensor of a result the way to it: (whether the step is an attribute, its name or key)."""
    if not isinstance(item, tree._Node):
        return [[]] if item is tree._LEAF else []
    found = []
    items = len(item.children) - item.extra
    for place, (label, child) in enumerate(zip(item.labels, item.children, strict=True)):
        by_name = item.kind == "dataclass" or place >= items
        key = place if item.kind in ("tuple", "list", "structseq") and not by_name else label
        found += [[(by_name, key), *rest] for rest in _paths(child)]
    return found


def cast(leaf: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """A tensor of a call as the module takes it that is exported."""
    return leaf if dtype is None or not leaf.is_floating_point() else leaf.to(dtype)


def flattened(program: ExportedProgram, contract: Contract) -> tuple[torch.fx.Graph, list[torch.fx.Node]]:
    """An exported graph without regions and with ATen's own operators, as it is proven; and the call's placeholders."""
    flat = graph_edit.inline(program.graph_module)
    rnn_op.restore(flat)
    grouped_op.replace(flat)
    placeholders = {node.name: node for node in flat.nodes if node.op == "placeholder"}
    specs = program.graph_signature.input_specs
    given = [placeholders[spec.arg.name] for spec in specs if spec.kind == InputKind.USER_INPUT]
    if len(given) != len(contract.inputs):
        raise CaptureError(f"the graph takes {len(given)} tensors, the call has {len(contract.inputs)}")
    for node, spec in zip(given, contract.inputs, strict=True):
        node.meta["input"] = spec.name
    return flat, given


def graph_of(source: Source, program: ExportedProgram, *, free: bool) -> Graph:
    """The graph of an exported program."""
    if graph_edit.has_enabled_autocast(program.graph_module):
        program = program.run_decompositions({})  # turns the region's casts into nodes
    signature = program.graph_signature
    flat, given = flattened(program, source.contract)
    inputs = [node.meta["val"] for node in given]
    rows = prove_rows(flat, given, source.contract, signature.output_specs)
    checks, frozen = capture_shapes.read_checks(inputs, source.contract, free=free)
    starts_at_two = capture_shapes.starts_at_two(inputs, checks)
    if rows.verdict.kind == "proven" and source.contract.call_rows is None:
        shortest = from_one(checks) if starts_at_two else checks
        results = user_outputs(flat, signature.output_specs)
        padding = prove_pads(flat, given, results, source.contract, shortest, *_held(source, program, flat))
        rows = dataclasses.replace(rows, padding=padding)
        _mark_padded(given, source.contract, {one.symbol for one in padding if one.kind != "numbers"})
    _keep_user_outputs(flat, signature.output_specs)
    graph_edit.simplify(flat)
    weights = _bind_weights(source, program, flat)
    try:
        graph_edit.refuse_unsupported(flat)
    except CaptureError as error:
        # An operator in Python is the module's to run. Its calls may be merged where the proof holds for all sizes.
        proven = rows if rows.verdict.kind == "proven" and not (checks or frozen) else None
        raise CaptureError(str(error), rows.verdict if proven is None else proven.verdict, proven) from error
    _restore_dtypes(flat, weights, given, source)
    module = torch.fx.GraphModule(nn.Module(), flat)
    graph_edit.protect_inputs(module)
    module.recompile()
    return Graph(module, list(weights.values()), checks, tuple(frozen), starts_at_two, rows, program, free)


def _mark_padded(given: Sequence[torch.fx.Node], contract: Contract, proven: set[str]) -> None:
    """For passes: the dims of the call's tensors whose padding reaches nothing that is kept. Symbols are numbered as
    the extension numbers them."""
    symbols = [size for spec in contract.inputs for size in spec.sizes if isinstance(size, str) and size != "batch"]
    numbers = {symbol: number for number, symbol in enumerate(dict.fromkeys(symbols))}
    for node, spec in zip(given, contract.inputs, strict=True):
        for dim, size in enumerate(capture_shapes.sizes_of(spec)):
            if size in proven:
                node.meta[PADDED] = (spec.batch_dim, dim, numbers[str(size)])


def user_outputs(flat: torch.fx.Graph, specs: Sequence[Any]) -> list[Any]:
    """What the graph gives to the user."""
    values = flat.output_node().args[0]
    assert isinstance(values, tuple | list)
    return [value for value, spec in zip(values, specs, strict=True) if spec.kind == OutputKind.USER_OUTPUT]


def _held(
    source: Source, program: ExportedProgram, flat: torch.fx.Graph
) -> tuple[dict[torch.fx.Node, torch.Tensor], dict[torch.fx.Node, torch.Tensor]]:
    """Tensors that were made while the module ran, so that nobody can change them; and those with buffers."""
    placeholders = {node.name: node for node in flat.nodes if node.op == "placeholder"}
    constants, tables = {}, {}
    for spec in program.graph_signature.input_specs:
        if spec.kind not in (InputKind.CONSTANT_TENSOR, InputKind.BUFFER):
            continue
        node, path = placeholders[spec.arg.name], str(spec.target).removeprefix("module.")
        own = module_copy.find(source.module, path)
        tensor = program.constants.get(str(spec.target)) if own is None else own
        if isinstance(tensor, torch.Tensor):
            tables[node] = tensor
            if own is None and spec.kind == InputKind.CONSTANT_TENSOR:
                constants[node] = tensor
    return constants, tables


def _keep_user_outputs(flat: torch.fx.Graph, specs: Sequence[Any]) -> None:
    """Drops outputs that would be written back to buffers, which the contract has proven unchanged."""
    output = flat.output_node()
    kept = user_outputs(flat, specs)
    if not all(isinstance(value, torch.fx.Node) for value in kept):
        raise CaptureError("an output is a constant, no tensor")
    output.args = (tuple(kept),)


def _bind_weights(
    source: Source, program: ExportedProgram, flat: torch.fx.Graph
) -> dict[torch.fx.Node, tuple[str, torch.Tensor]]:
    """Marks the placeholders of weights, each with the module's own tensor; unused ones and repetitions go."""
    names = {spec.arg.name: spec for spec in program.graph_signature.input_specs if spec.kind != InputKind.USER_INPUT}
    found: dict[torch.fx.Node, tuple[str, torch.Tensor]] = {}
    known: dict[int, torch.fx.Node] = {}
    for node in [node for node in flat.nodes if node.op == "placeholder" and node.name in names]:
        if not node.users:
            flat.erase_node(node)
            continue
        spec = names[node.name]
        path = str(spec.target).removeprefix("module.")
        tensor = module_copy.find(source.module, path)
        if tensor is None:
            constant = program.constants.get(str(spec.target))
            if spec.kind != InputKind.CONSTANT_TENSOR or not isinstance(constant, torch.Tensor):
                raise CaptureError(f"weight {path!r} of the exported graph is no tensor of the module")
            path, tensor = f"<constant {len(found)}>", constant.detach()
        if tensor.shape != node.meta["val"].shape:
            raise CaptureError(f"weight {path!r} has another shape in the module than in the exported graph")
        if id(tensor) in known:
            node.replace_all_uses_with(known[id(tensor)])
            flat.erase_node(node)
            continue
        known[id(tensor)] = node
        node.meta["weight"] = path
        found[node] = (path, tensor)
    return found


def _restore_dtypes(
    flat: torch.fx.Graph,
    weights: dict[torch.fx.Node, tuple[str, torch.Tensor]],
    given: Sequence[torch.fx.Node],
    source: Source,
) -> None:
    """Casts between the user's tensors and those of a module that was exported in another dtype."""
    live = {node: tensor.dtype for node, (_, tensor) in weights.items()}
    live |= {node: spec.dtype for node, spec in zip(given, source.contract.inputs, strict=True)}
    first = graph_edit.first_after_placeholders(flat)
    for node, dtype in live.items():
        value = node.meta["val"]
        if value.dtype == dtype:
            continue
        if source.dtype is None:
            raise CaptureError(f"{node.meta.get('weight', node.name)!r} has dtype {dtype}, in the graph {value.dtype}")
        with flat.inserting_before(first):
            cast = flat.call_function(torch.ops.aten.to.dtype, (node, value.dtype))
        graph_edit.insert_behind(node, cast)
        cast.meta["val"], node.meta["val"] = value, value.to(dtype)
    output = flat.output_node()
    results = list(output.args[0])  # type: ignore[arg-type]  # a tuple of nodes
    for index, (node, dtype) in enumerate(zip(results, source.result_dtypes, strict=True)):
        if node.meta["val"].dtype != dtype:
            with flat.inserting_before(output):
                cast = flat.call_function(torch.ops.aten.to.dtype, (node, dtype))
            cast.meta["val"] = node.meta["val"].to(dtype)
            results[index] = cast
    output.args = (tuple(results),)
