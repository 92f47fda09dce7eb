"""From a module to the programs that serve it."""

from __future__ import annotations

import dataclasses

from torchpool.capture import linear_choice, module_copy, passes
from torchpool.capture.export import capture
from torchpool.capture.lifted import lifted
from torchpool.capture.lower import lower
from torchpool.capture.passes import own_attention, pack_places
from torchpool.capture.passes.own_linear import CHOICES
from torchpool.capture.program import Programs
from torchpool.capture.source import Source


def programs_of(source: Source) -> Programs:
    """The source captured, proven, optimised and lowered. Raises CaptureError."""
    graph = capture(source)
    if not graph.rows.verdict.allows and (source.proof_needed or source.contract.call_rows is not None):
        graph = lifted(source, graph)
    optimised, _ = passes.optimise(graph)
    constants = [None if module_copy.find(source.module, name) is tensor else tensor for name, tensor in graph.weights]
    packed, plain = (
        dataclasses.replace(program, weights=constants) for program in (lower(optimised), lower(graph, fold=False))
    )
    linears = optimised.module.meta.get(CHOICES, {})
    told = linear_choice.describe(linears)
    attention = (*own_attention.describe(optimised.module), *pack_places.describe(optimised.module))
    notes = (*(() if told is None else (told,)), *attention)
    return Programs(
        packed, plain, graph.specialised, graph.starts_at_two, graph.rows, linears=tuple(linears), notes=notes
    )
