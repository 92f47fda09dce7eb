"""For tests of capture, passes and lowering: capturing a model, and comparing its graph with eager."""

from __future__ import annotations

import contextvars
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from torchpool import _core
from torchpool.call import arguments, tree
from torchpool.capture import passes
from torchpool.capture.export import Graph, capture
from torchpool.capture.lower import lower
from torchpool.capture.program import Lowered
from torchpool.capture.source import Source
from torchpool.contract import shape_checks
from torchpool.contract.contract import Contract
from torchpool.contract.probe import probe

Leaves = list[torch.Tensor]


class Captured:
    """A model, what was proven of calls like the given ones, and its graph."""

    def __init__(
        self,
        model: Callable[..., Any],
        *examples: Any,
        pad: dict[str, float] | None = None,
        contract: Contract | None = None,
        dtype: torch.dtype | None = None,
        free: bool = True,
    ) -> None:
        calls = [arguments.as_call(example) for example in examples]
        self.call, self.model = calls[0], model
        self.samples = [arguments.tensors(call) for call in calls]
        owner = model if isinstance(model, nn.Module) else model.__self__
        names = sorted(self.call[1]) or [f"x{i}" for i in range(len(self.samples[0]))]
        if contract is None:
            # In a context of its own, as the learner does.
            find = contextvars.copy_context().run
            contract = find(probe, self.run, self.samples, names, module=owner, pad=pad or {})
        self.contract = contract
        self.source = Source.of(model, owner, self.call, self.samples, contract, dtype)
        self.graph: Graph = capture(self.source, free=free)

    def run(self, leaves: Leaves) -> Any:
        args, kwargs = arguments.replace_tensors(self.call, leaves)
        with torch.no_grad():
            return self.model(*args, **kwargs)

    def eager(self, leaves: Leaves) -> Leaves:
        return tree.flatten(self.run([leaf.clone() for leaf in leaves]))[0]

    def proof(self) -> list[shape_checks.ProofSample]:
        graph = self.graph
        return shape_checks.samples_for_proof(
            self.eager, self.samples, self.contract, graph.checks, widen=graph.starts_at_two
        )


class Program:
    """Runs a lowered program in the extension, on any sizes."""

    def __init__(self, lowered: Lowered) -> None:
        self.lowered = lowered
        unchecked = dataclasses.replace(lowered, checks=[])
        self._backend = _core.GraphBackend(unchecked, unchecked)

    def __call__(self, leaves: Sequence[torch.Tensor]) -> Leaves:
        return self._backend.run(leaves)


def run_graph(graph: Graph, leaves: Sequence[torch.Tensor]) -> Leaves:
    """The graph as fx runs it."""
    weights = [tensor.detach() for _, tensor in graph.weights]
    with torch.no_grad():
        return list(graph.module(*weights, *leaves))


def assert_near(got: Sequence[torch.Tensor], expected: Sequence[torch.Tensor], bound: float = 1e-5) -> None:
    """max|difference| <= bound * max|expected| for each tensor."""
    for one, other in zip(got, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        if other.numel():
            gap = (one.double() - other.double()).abs().max()
            assert gap <= bound * other.double().abs().max(), f"differs by {gap}"


def optimised(captured: Captured) -> tuple[Program, Graph, dict[str, int]]:
    """The graph after all passes, run on the proof's samples beside the one before, and what the passes did."""
    graph, counts = passes.optimise(captured.graph)
    program = Program(lower(graph))
    for sample in captured.proof():
        expected = run_graph(captured.graph, sample.leaves)
        assert_near(run_graph(graph, sample.leaves), expected)
        assert_near(program(sample.leaves), expected)
    return program, graph, counts


def assert_proven(captured: Captured, bound: float = 1e-5) -> list[str]:
    """Compares the graph, as it is and lowered, with eager on all samples of the proof; returns their labels."""
    graph = captured.graph
    folded, plain = Program(lower(graph)), Program(lower(graph, fold=False))
    assert not plain.lowered.prologue
    labels = []
    for sample in captured.proof():
        for run in (lambda leaves: run_graph(graph, leaves), folded, plain):
            assert_near(run([leaf.clone() for leaf in sample.leaves]), sample.expected, bound)
        labels.append(sample.label)
    return labels
