"""From a module to the programs that serve it."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence

import torch

from torchpool import _core
from torchpool.capture import invariant, linear_choice, module_copy, passes
from torchpool.capture.export import capture
from torchpool.capture.lifted import lifted
from torchpool.capture.lower import lower
from torchpool.capture.passes import own_attention, pack_places
from torchpool.capture.passes.own_linear import CHOICES
from torchpool.capture.program import CaptureError, Programs
from torchpool.capture.source import Source
from torchpool.capture.storage import FP32, fp32_of
from torchpool.contract import Leaves, brief, with_rows

_ROWS = (1, 16)  # at which two forms of a graph are timed
_ROUNDS = 5
_SECONDS = 2.0  # of processor time, for all of them


def programs_of(source: Source) -> Programs:
    """The source captured, proven, optimised and lowered. Raises CaptureError."""
    if source.weights is None or source.dtype in (None, torch.float32):
        return _programs_of(source)
    stored = _programs_of(dataclasses.replace(source, dtype=fp32_of(source.module)))
    if source.invariant:
        return _with_note(stored, f"not computed in {source.dtype}: invariant=True lets no measurement choose")
    try:
        products = _programs_of(dataclasses.replace(source, weights=None))
        times = _times(source, (products, stored))
    except CaptureError as error:
        return _with_note(stored, f"not computed in {source.dtype}: {error}")
    shares = {rows: own / other for rows, (own, other) in times.items()}
    told = ", ".join(f"{share:.2f} at {rows} row{'s' * (rows > 1)}" for rows, share in shares.items())
    note = f"products of {source.dtype} take {told} of the time of float32 with {source.weights} weights"
    return _with_note(products if math.prod(shares.values()) < 1 else stored, note)


def _with_note(programs: Programs, note: str) -> Programs:
    return dataclasses.replace(programs, notes=(*programs.notes, note))


def _times(source: Source, forms: Sequence[Programs]) -> dict[int, list[float]]:
    """Seconds that each form of a graph takes, by the number of rows. Raises CaptureError where one fails."""
    end = time.thread_time() + _SECONDS
    bound = [programs.bound(source.module) for programs in forms]
    backends = [_core.GraphBackend(programs.packed, programs.plain) for programs in bound]
    inputs = {rows: with_rows(source.samples[0], source.contract, rows) for rows in _ROWS}
    best = {rows: [math.inf] * len(backends) for rows in _ROWS}
    with torch.inference_mode():
        for turn in range(_ROUNDS + 1):  # the first packs weights, and has kernels compiled
            for rows, leaves in inputs.items():
                for which, backend in enumerate(backends):
                    spent = _seconds(backend, leaves)
                    if turn:
                        best[rows][which] = min(best[rows][which], spent)
            if turn and time.thread_time() > end:
                break
    return best


def _seconds(backend: _core.GraphBackend, leaves: Leaves) -> float:
    start = time.thread_time()
    try:
        backend.run(leaves)
    except Exception as error:
        raise CaptureError(f"it fails: {brief(error, 2)}") from error
    return time.thread_time() - start


def _programs_of(source: Source) -> Programs:
    graph = capture(source)
    if source.invariant and not (graph.rows.verdict.allows and source.contract.call_rows is None):
        raise CaptureError(f"invariant=True needs rows that do not meet: {graph.rows.verdict.text}", graph.rows.verdict)
    if not graph.rows.verdict.allows and (source.proof_needed or source.contract.call_rows is not None):
        graph = lifted(source, graph)
    optimised, _ = passes.optimise(
        graph, weights=source.weights, invariant_for=source.contract if source.invariant else None
    )
    constants = [None if module_copy.find(source.module, name) is tensor else tensor for name, tensor in graph.weights]
    packed, plain = (
        dataclasses.replace(program, weights=constants) for program in (lower(optimised), lower(graph, fold=False))
    )
    linears = optimised.module.meta.get(CHOICES, {})
    told = linear_choice.describe(linears)
    attention = (*own_attention.describe(optimised.module), *pack_places.describe(optimised.module))
    kept = [text for key, text in optimised.module.meta.items() if key == invariant.TOLD]
    notes = (*kept, *(() if told is None else (told,)), *attention)
    stored = sum(count for choice, count in linears.items() if choice.storage != FP32)
    return Programs(
        packed,
        plain,
        graph.specialised,
        graph.starts_at_two,
        graph.rows,
        linears=tuple(linears),
        notes=notes,
        weights=source.weights,
        stored=(stored, sum(linears.values())),
    )
