"""A module as the graph on which its rows are proven independent: training IR with a named batch dim.

exported = export(model, [call, other])     # raises what export raises where there is no graph
verdict, proof = exported.prove()
"""

from __future__ import annotations

import contextvars
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, Node

from torchpool.call import arguments, tree
from torchpool.call.arguments import Call
from torchpool.capture import export as capture_export
from torchpool.capture import graph_edit, grouped_op, module_copy, rnn_op
from torchpool.capture import shapes as capture_shapes
from torchpool.capture.source import Source
from torchpool.contract import Leaves, brief, lengths_of
from torchpool.contract.contract import Contract, InputSpec
from torchpool.contract.probe import probe
from torchpool.contract.probe.layout import layouts
from torchpool.contract.probe.perturb import Layout
from torchpool.contract.rows.proof import Proof
from torchpool.contract.rows.verdict import Verdict, prove


@dataclass
class Exported:
    """A graph and what the proof must know of it."""

    graph: Graph
    given: list[Node]
    """The placeholders of the call's tensors."""
    layout: Layout
    """Where the rows are in a call's tensors."""
    outputs: list[Node]
    written: list[tuple[str, Node]]
    """What is written back to the module, in words."""
    held: dict[Node, Tensor]
    """The weights, buffers and constants of the other placeholders."""
    samples: list[Leaves]
    """Tensors of calls."""

    def prove(self) -> tuple[Verdict, Proof | None]:
        dims = dict(zip(self.given, self.layout.dims, strict=True))
        return prove(self.graph, dims, self.outputs, self.written)


class NoGraph(Exception):
    """The module cannot be exported with a free number of rows; says why."""


def export(model: nn.Module, calls: Sequence[Any], layout: Layout | None = None) -> Exported:
    """The graph of a model and calls as `wrap(example=)` takes them; `layout` is found out unless it is given.

    Raises NoGraph.
    """
    taken = [arguments.as_call(call) for call in calls]
    samples = [arguments.tensors(call) for call in taken]
    if layout is None:
        layout = _likeliest(model, taken[0], samples)
    contract = stated(samples, layout)
    with torch.no_grad():  # of several rows: some take no single one
        args, kwargs = arguments.replace_tensors(taken[0], capture_shapes.example(samples, contract, free=False))
        results, spec = tree.flatten(module_copy.share(model)(*args, **kwargs))
    source = Source(
        module=model,
        method=None,
        call=taken[0],
        samples=samples,
        contract=contract,
        spec=spec,
        result_dtypes=tuple(leaf.dtype for leaf in results),
    )
    program = _export(source)
    return _read(program, layout, samples)


def _likeliest(model: nn.Module, call: Call, samples: list[Leaves]) -> Layout:
    """As probing finds it; where it finds none, the first that fits the shapes."""
    names = sorted(call[1])
    if len(names) != len(samples[0]):
        names = [f"x{i}" for i in range(len(samples[0]))]

    def run(leaves: Leaves) -> Any:
        args, kwargs = arguments.replace_tensors(call, leaves)
        with torch.no_grad():
            return model(*args, **kwargs)

    found = contextvars.copy_context().run(probe, run, samples, names, module=model)
    if found.mode == "merge":
        return Layout(tuple(spec.batch_dim for spec in found.inputs), any(spec.stacked for spec in found.inputs))
    return next(layouts(samples, names, {}))[0]


def stated(samples: list[Leaves], layout: Layout) -> Contract:
    """The contract of a layout, stated instead of proven: sizes that differ between calls are symbols."""
    symbols: dict[tuple[int, ...], str] = {}
    inputs = []
    for index, (leaf, batch_dim) in enumerate(zip(samples[0], layout.dims, strict=True)):
        stacked = layout.stacked and batch_dim is not None
        sizes: list[int | str] = []
        for dim in range(leaf.dim()):
            seen = tuple(sample[index].shape[dim] for sample in samples)
            if dim == batch_dim and not stacked:
                sizes.append("batch")
            else:
                sizes.append(seen[0] if len(set(seen)) == 1 else symbols.setdefault(seen, f"s{len(symbols)}"))
        inputs.append(InputSpec(f"x{index}", leaf.dtype, "cpu", batch_dim, stacked, tuple(sizes), None))
    return Contract("merge", None, False, tuple(inputs), (), frozenset(), False, None, ())


def _export(source: Source) -> ExportedProgram:
    first: Exception | None = None
    for free in (True, False) if lengths_of(source.samples[0], source.contract) else (False,):
        leaves = capture_shapes.example(source.samples, source.contract, free=free)
        for strict in (False, True):
            attempt = contextvars.copy_context().run
            try:
                with torch.inference_mode(False), torch.no_grad():
                    return attempt(capture_export._export, source, leaves, free=free, strict=strict, all_buffers=False)
            except Exception as error:  # whatever export or the module raises: this way is closed
                first = first or error
    raise NoGraph(brief(first, 2)) from first


def _read(program: ExportedProgram, layout: Layout, samples: list[Leaves]) -> Exported:
    if graph_edit.has_enabled_autocast(program.graph_module):
        program = program.run_decompositions({})
    flat = graph_edit.inline(program.graph_module)
    rnn_op.restore(flat)
    grouped_op.replace(flat)
    signature = program.graph_signature
    placeholders = {node.name: node for node in flat.nodes if node.op == "placeholder"}
    given, held = [], {}
    for spec in signature.input_specs:
        node = placeholders[spec.arg.name]
        if spec.kind == InputKind.USER_INPUT:
            given.append(node)
            continue
        target = str(spec.target)
        held[node] = (program.constants if target in program.constants else program.state_dict)[target].detach()
    values = flat.output_node().args[0]
    assert isinstance(values, tuple | list)
    outputs, written = [], []
    for value, result in zip(values, signature.output_specs, strict=True):
        if result.kind == OutputKind.USER_OUTPUT:
            outputs.append(value)
        else:
            written.append((f"{result.kind.name.lower()} {result.target}", value))
    return Exported(flat, given, layout, outputs, written, held, samples)
