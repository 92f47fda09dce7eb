"""For tests of capture, passes and lowering: capturing a model, and a small executor of lowered programs."""

from __future__ import annotations

import contextvars
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from torchpool import arguments, capture_shapes, tree
from torchpool.capture import Graph, capture
from torchpool.contract import Contract
from torchpool.lower import Instruction, Lowered, Slot, lower
from torchpool.probe import probe

Leaves = list[torch.Tensor]

_ARITHMETIC: dict[str, Callable[..., Any]] = {
    "add": operator.add, "sub": operator.sub, "mul": operator.mul, "floordiv": operator.floordiv,
    "truediv": operator.truediv, "mod": operator.mod, "pow": operator.pow, "neg": operator.neg, "abs": abs,
    "min": min, "max": max, "eq": operator.eq, "ne": operator.ne, "lt": operator.lt, "le": operator.le,
    "gt": operator.gt, "ge": operator.ge, "and": operator.and_, "or": operator.or_, "not": operator.not_,
    "int": int, "float": float, "bool": bool, "round": round,
    "ceil": math.ceil, "floor": math.floor, "trunc": math.trunc, "sqrt": math.sqrt,
}  # fmt: skip


class Captured:
    """A model, what was proven of calls like the given ones, and its graph."""

    def __init__(
        self,
        model: Callable[..., Any],
        *examples: Any,
        pad: dict[str, float] | None = None,
        contract: Contract | None = None,
        **options: Any,
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
        self.graph: Graph = capture(model, owner, self.call, self.samples, contract, **options)

    def run(self, leaves: Leaves) -> Any:
        args, kwargs = arguments.replace_tensors(self.call, leaves)
        with torch.no_grad():
            return self.model(*args, **kwargs)

    def eager(self, leaves: Leaves) -> Leaves:
        return tree.flatten(self.run([leaf.clone() for leaf in leaves]))[0]

    def proof(self) -> list[capture_shapes.ProofSample]:
        graph = self.graph
        return capture_shapes.samples_for_proof(
            self.run, self.samples, self.contract, graph.checks, widen=graph.starts_at_two
        )


class Program:
    """Runs a lowered program through torch.ops."""

    def __init__(self, lowered: Lowered) -> None:
        self.lowered = lowered
        self.slots: list[Any] = [None] * lowered.num_slots
        for slot, weight in zip(lowered.weight_slots, lowered.weights, strict=True):
            self.slots[slot] = weight.detach()
        with torch.inference_mode():
            _execute(lowered.prologue, self.slots)

    def __call__(self, leaves: Sequence[torch.Tensor]) -> Leaves:
        slots = list(self.slots)
        for slot, leaf in zip(self.lowered.input_slots, leaves, strict=True):
            slots[slot] = leaf
        with torch.inference_mode():
            _execute(self.lowered.body, slots)
        return [slots[slot] for slot in self.lowered.output_slots]


def _execute(instructions: Sequence[Instruction], slots: list[Any]) -> None:
    def value(argument: Any) -> Any:
        if isinstance(argument, Slot):
            return slots[argument.index]
        if isinstance(argument, tuple | list):
            return type(argument)(value(item) for item in argument)
        return argument

    for one in instructions:
        args = [value(argument) for argument in one.args]
        kwargs = {name: value(argument) for name, argument in one.kwargs.items()}
        if one.op == "py::assert":
            assert args[0], args[1]
            continue
        if one.overload is None:
            result = _ARITHMETIC[one.op.removeprefix("py::")](*args)
        else:
            namespace, name = one.op.split("::")
            packet = getattr(getattr(torch.ops, namespace), name)
            result = getattr(packet, one.overload or "default")(*args, **kwargs)
        results = list(result) if one.spread or len(one.outputs) > 1 else [result]
        for slot, item in zip(one.outputs, results, strict=True):
            if slot >= 0:
                slots[slot] = item


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


def assert_proven(captured: Captured, bound: float = 1e-5) -> list[str]:
    """Compares the graph, as it is and lowered, with eager on all samples of the proof; returns their labels."""
    graph = captured.graph
    folded, plain = Program(lower(graph)), Program(lower(graph, fold=False))
    assert not plain.lowered.prologue
    labels = []
    for sample in captured.proof():
        expected = captured.eager(sample.leaves)
        for run in (lambda leaves: run_graph(graph, leaves), folded, plain):
            assert_near(run([leaf.clone() for leaf in sample.leaves]), expected, bound)
        labels.append(sample.label)
    return labels
