"""The lifted graph of a source: exported and proven like any other, for calls of so many rows."""

from __future__ import annotations

import contextvars
import dataclasses
import time
from collections.abc import Sequence

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram

from torchpool.capture import shapes as capture_shapes
from torchpool.capture.export import Graph, capture, cast, graph_of
from torchpool.capture.lifting import LiftedModule, lift
from torchpool.capture.per_call import FixesLength, Refused
from torchpool.capture.program import CaptureError, OutputRows, ProvenRows
from torchpool.capture.shapes import NotExpressible
from torchpool.capture.source import Source
from torchpool.contract import brief, lengths_of

_COUNTS = (1, 2, 4, 6)  # of calls: none that a graph is traced at, and one call first


def lifted(source: Source, graph: Graph) -> Graph:
    """The graph written anew so that calls do not meet, where rows do. Raises CaptureError, which says why not."""
    verdict = graph.rows.verdict
    if verdict.kind not in ("mixes", "unknown"):
        raise CaptureError(verdict.text, verdict)
    start = time.perf_counter()
    try:
        with torch.inference_mode(False), torch.no_grad():
            found, count = _lifted(source, graph)
    except (Refused, NotExpressible) as refused:
        text = f"{verdict.text}; not lifted: {refused}"
        raise CaptureError(text, dataclasses.replace(verdict, text=text)) from refused
    text = f"{verdict.text}; lifted: {count} of {verdict.ops} ops run per call"
    seconds = verdict.seconds + time.perf_counter() - start
    rows = dataclasses.replace(verdict, kind="lifted", text=text, lifted=count, seconds=seconds)
    return dataclasses.replace(found, rows=dataclasses.replace(found.rows, verdict=rows))


def _lifted(source: Source, graph: Graph) -> tuple[Graph, int]:
    """The graph, and how many operators run per call."""
    source, graph = _in_calls(source, graph)
    try:
        module = lift(graph.program, source.contract)
    except FixesLength as fixed:
        if not graph.free or not lengths_of(source.samples[0], source.contract):
            raise
        graph = capture(source, free=False)
        graph.specialised = (f"lengths cannot be left free: {fixed}", *graph.specialised)
        module = lift(graph.program, source.contract)
    program = contextvars.copy_context().run(_export, source, module, graph.free)
    found = graph_of(source, program, free=graph.free)
    if not found.rows.verdict.allows:
        raise Refused(f"the new graph is not proven: {found.rows.verdict.text}")
    found = dataclasses.replace(
        found, rows=_rows(source, found, module.per_call), specialised=(*graph.specialised, *found.specialised)
    )
    _check_counts(source, found)
    return found, module.lifted


def _in_calls(source: Source, graph: Graph) -> tuple[Source, Graph]:
    """The graph for batches whose unit is the call."""
    contract = source.contract
    if contract.call_rows is None:
        source = dataclasses.replace(source, contract=dataclasses.replace(contract, call_rows=source.rows))
        if source.rows > 1:
            return source, capture(source, free=graph.free)
    return source, graph


def _export(source: Source, module: LiftedModule, free: bool) -> ExportedProgram:
    leaves = capture_shapes.example(source.samples, source.contract, free=free, taken=module.sizes)
    sizes = capture_shapes.dynamic_shapes(source.contract, free=free)["leaves"]
    try:
        return torch.export.export(
            module.module, tuple(cast(leaf, source.dtype) for leaf in leaves), dynamic_shapes=sizes, strict=False
        )
    except Exception as error:
        # Whatever export raises only means that it takes no such graph.
        raise Refused(f"the new graph cannot be exported: {brief(error, 2)}") from error


def _rows(source: Source, graph: Graph, per_call: Sequence[bool]) -> ProvenRows:
    outputs: list[OutputRows | None] = []
    for found, counts in zip(graph.rows.outputs, per_call, strict=True):
        if counts and (found is None or (found.batch_dim, found.outer, found.inner) != (0, 1, 1)):
            raise Refused(f"the new graph gives an output of one call in the layout {found}")
        outputs.append(dataclasses.replace(found, stacked=True) if counts and found is not None else found)
    return ProvenRows(graph.rows.verdict, tuple(outputs), source.contract.call_rows)


def _check_counts(source: Source, graph: Graph) -> None:
    """Tracing may have fixed the number of calls without a word: the graph must give the right sizes at others."""
    mode = FakeTensorMode()
    weights = [mode.from_tensor(tensor.detach()) for _, tensor in graph.weights]
    one: list[tuple[int, ...]] = []
    for calls in _COUNTS:
        leaves = capture_shapes.example(source.samples, source.contract, free=graph.free, units=calls)
        try:
            with mode:
                found = graph.module(*weights, *map(mode.from_tensor, leaves))
        except Exception as error:
            # Whatever an operator raises at this size, it is not free.
            raise Refused(f"the new graph does not take {calls} calls: {brief(error)}") from error
        given = [tuple(result.shape) for result in found]
        one = one or given
        expected = [_times(shape, rows, calls) for shape, rows in zip(one, graph.rows.outputs, strict=True)]
        if given != expected:
            raise Refused(f"the new graph gives results of {given} for {calls} calls, not of {expected}")


def _times(shape: Sequence[int], rows: OutputRows | None, calls: int) -> tuple[int, ...]:
    return tuple(size * calls if rows is not None and dim == rows.batch_dim else size for dim, size in enumerate(shape))
