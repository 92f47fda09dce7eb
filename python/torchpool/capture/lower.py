"""Lowers a captured graph to plain instructions over numbered slots, which the extension runs without Python."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from typing import Any

import torch
from torch.fx import Node

from torchpool.capture.export import Graph
from torchpool.capture.graph_edit import foldable, inputs_of, schema_of
from torchpool.capture.invariant import BY_ROW, WANTED
from torchpool.capture.program import BODY, CaptureError, Instruction, Lowered, Slot

_ARITHMETIC: dict[Any, str] = {
    operator.add: "add", operator.sub: "sub", operator.mul: "mul", operator.floordiv: "floordiv",
    operator.truediv: "truediv", operator.mod: "mod", operator.pow: "pow", operator.neg: "neg", operator.abs: "abs",
    abs: "abs", min: "min", max: "max", torch.sym_min: "min", torch.sym_max: "max", round: "round",
    operator.eq: "eq", operator.ne: "ne", operator.lt: "lt", operator.le: "le", operator.gt: "gt", operator.ge: "ge",
    operator.and_: "and", operator.or_: "or", operator.not_: "not", torch.sym_not: "not",
    torch.sym_int: "int", torch.sym_float: "float", int: "int", float: "float", bool: "bool",
    math.ceil: "ceil", math.floor: "floor", math.trunc: "trunc", math.sqrt: "sqrt", torch.sym_sqrt: "sqrt",
}  # fmt: skip
_ASSERT = torch.ops.aten._assert_scalar.default
_CONSTANTS = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.layout, torch.memory_format)


def lower(graph: Graph, *, fold: bool = True) -> Lowered:
    """The graph as a program. Without `fold` nothing is computed ahead: the weights are read anew for each batch.

    Raises CaptureError, which names the node, for what the extension cannot run.
    """
    return _Lowering(graph, fold).run()


class _Lowering:
    def __init__(self, graph: Graph, fold: bool) -> None:
        self.graph = graph
        self.nodes = graph.module.graph
        self.weights, self.inputs = inputs_of(graph.module)
        self.folded = foldable(self.nodes) if fold else set()
        self.slots: dict[Node, int | list[int]] = {}
        """Per node its slot; for results with several tensors a slot each, -1 where unused."""
        self.names: list[str] = []
        self.prologue: list[Instruction] = []
        self.body: list[Instruction] = []

    def run(self) -> Lowered:
        for node in (*self.weights, *self.inputs):
            self.slots[node] = self._new(f"'{node.meta['weight']}'" if "weight" in node.meta else node.meta["input"])
        outputs: Sequence[Any] = ()
        for node in self.nodes.nodes:
            if node.op == "output":
                outputs = node.args[0]
            elif node.op == "call_function":
                self._lower(node)
            elif node.op != "placeholder":
                raise CaptureError(f"node {node.name}: {node.op} {node.target} is not supported")
        slots = [self._one(node) for node in outputs]
        return Lowered(
            weights=[tensor for _, tensor in self.graph.weights],
            weight_names=[name for name, _ in self.graph.weights],
            num_slots=len(self.names),
            weight_slots=[self._one(node) for node in self.weights],
            input_slots=[self._one(node) for node in self.inputs],
            output_slots=slots,
            prologue=self.prologue,
            body=self.body,
            checks=list(self.graph.checks),
            input_names=[node.meta["input"] for node in self.inputs],
            listing=self._listing(slots),
            invariant=bool(self.graph.module.meta.get(WANTED)),
        )

    def _new(self, name: str) -> int:
        self.names.append(name)
        return len(self.names) - 1

    def _one(self, node: Node) -> int:
        slot = self.slots[node]
        if isinstance(slot, list):
            raise CaptureError(f"node {node.name} gives several tensors where one is needed")
        return slot

    def _lower(self, node: Node) -> None:
        if node.target is operator.getitem:
            self._pick(node)
            return
        schema = schema_of(node)
        if node.target is _ASSERT:
            self._add(node, "py::assert", None, ())
        elif schema is not None:
            self._operator(node, schema)
        elif node.target is torch.sym_sum:
            self._sum(node)
        elif node.target in _ARITHMETIC:
            self.slots[node] = self._new(node.name)
            self._add(node, f"py::{_ARITHMETIC[node.target]}", None, (self._one(node),))
        else:
            raise CaptureError(f"node {node.name}: {node.target} is not supported")

    def _operator(self, node: Node, schema: torch.FunctionSchema) -> None:
        returns = schema.returns
        spread = len(returns) == 1 and str(returns[0].type) == "List[Tensor]"
        if not spread and len(returns) < 2:
            used = bool(node.users)
            slot = self._new(node.name) if used else -1
            self.slots[node] = slot
            outputs: tuple[int, ...] = (slot,) * len(returns)
        else:
            count = len(node.meta["val"]) if spread else len(returns)
            picked = {user.args[1] for user in node.users if user.target is operator.getitem}
            whole = any(user.target is not operator.getitem for user in node.users)
            slots = [self._new(f"{node.name}.{i}") if whole or {i, i - count} & picked else -1 for i in range(count)]
            self.slots[node], outputs = slots, tuple(slots)
        self._add(node, schema.name, schema.overload_name, outputs, spread)

    def _pick(self, node: Node) -> None:
        source, index = node.args
        slots = self.slots.get(source) if isinstance(source, Node) else None
        if not isinstance(slots, list) or not isinstance(index, int):
            raise CaptureError(f"node {node.name}: item {index!r} of {source} is not supported")
        self.slots[node] = slots[index]
        self.names[slots[index]] = node.name

    def _sum(self, node: Node) -> None:
        terms = list(node.args[0])  # type: ignore[arg-type]  # a list of sizes
        total: Any = terms[0]
        for place, term in enumerate(terms[1:], 2):
            slot = self._new(node.name if place == len(terms) else f"{node.name}.{place}")
            self._append(
                node, Instruction("py::add", None, (self._value(node, total), self._value(node, term)), {}, (slot,))
            )
            total = Slot(slot)
        self.slots[node] = total.index

    def _add(self, node: Node, op: str, overload: str | None, outputs: tuple[int, ...], spread: bool = False) -> None:
        args = tuple(self._value(node, value) for value in node.args)
        kwargs = {name: self._value(node, value) for name, value in node.kwargs.items()}
        read, by_row = node.meta.get(BY_ROW, ({}, ()))
        row_dims = {self._one(used): dim for used, dim in read.items()}
        self._append(node, Instruction(op, overload, args, kwargs, outputs, spread, by_row, row_dims))

    def _append(self, node: Node, instruction: Instruction) -> None:
        (self.prologue if node in self.folded else self.body).append(instruction)

    def _value(self, node: Node, value: Any) -> Any:
        if isinstance(value, Slot):
            return value
        if isinstance(value, Node):
            slot = self.slots[value]
            return [Slot(one) for one in slot] if isinstance(slot, list) else Slot(slot)
        if isinstance(value, tuple | list):
            return type(value)(self._value(node, item) for item in value) if type(value) in (tuple, list) else [
                self._value(node, item) for item in value
            ]  # fmt: skip
        if isinstance(value, _CONSTANTS):
            return value
        raise CaptureError(f"node {node.name}: argument {value!r} is not supported")

    # The program for people.

    def _listing(self, outputs: list[int]) -> str:
        lines = [f"inputs: {', '.join(node.meta['input'] for node in self.inputs)}"]
        for title, part in (("once per state of the weights:", self.prologue), (BODY, self.body)):
            if part:
                lines += [title, *(f"  {self._line(instruction)}" for instruction in part)]
        lines.append(f"outputs: {', '.join(self.names[slot] for slot in outputs)}")
        return "\n".join(lines)

    def _line(self, instruction: Instruction) -> str:
        words = [self._show(value) for value in instruction.args]
        words += [f"{name}={self._show(value)}" for name, value in instruction.kwargs.items()]
        results = ", ".join(self.names[slot] if slot >= 0 else "_" for slot in instruction.outputs)
        op = f"{instruction.op}.{instruction.overload}" if instruction.overload else instruction.op
        each = "for each row: " if instruction.by_row else ""
        return f"{results + ' = ' if results else ''}{each}{op.removeprefix('aten::')}({', '.join(words)})"

    def _show(self, value: Any) -> str:
        if isinstance(value, Slot):
            return self.names[value.index]
        if isinstance(value, tuple | list):
            return f"[{', '.join(map(self._show, value))}]"
        return str(value) if not isinstance(value, str) else repr(value)
