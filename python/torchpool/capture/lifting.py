"""Lifting: a graph in which rows meet, written anew so that calls do not.

The exported graph is gone through with the proof beside it. Most operators keep the rows of each call apart, and are
written as they are. One in which they would meet is run by vmap for each call on its own. Its result goes back among
the others as soon as calls lie in one of its dims, as they do in what the module computes for a whole batch. The new
graph is exported and proven as if it were a module's.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sympy  # type: ignore[import-untyped]  # has no types
import torch
from torch.export import ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_arg

from torchpool.capture import rnn_op
from torchpool.capture.export import flattened
from torchpool.capture.graph_edit import Memory, is_tensor, only_user, schema_of, value_of
from torchpool.capture.passes.drop_in_place import functional_of
from torchpool.capture.per_call import Refused, Writer, aten
from torchpool.capture.shapes import unlike
from torchpool.contract import Contract
from torchpool.contract.rows.domain import (
    CONST,
    All,
    Claim,
    Const,
    Ends,
    Iota,
    Packed,
    Rows,
    Uniform,
)
from torchpool.contract.rows.proof import Proof
from torchpool.contract.rows.sizes import equal, from_values, holds, size_of, whole
from torchpool.contract.rows.verdict import prove

_KEPT = All("kept for each call on its own")


@dataclass(frozen=True)
class LiftedModule:
    """A graph over batches of calls, as a module that can be exported."""

    module: GraphModule
    """Takes the call's tensors; holds the weights where the exported module has them."""
    per_call: tuple[bool, ...]
    """Per output whether it counts calls in a new dim 0, as one call's own has none for them."""
    lifted: int
    """Operators that run for each call on its own."""
    sizes: frozenset[int]
    """All sizes of the graph that do not vary, and examples of those that do."""


@dataclass(frozen=True)
class _Value:
    """What stands for a value of the old graph in the new one."""

    node: Node
    kind: str = "plain"
    """plain: as the module has it for the whole batch. apart: with calls in a new dim 0. one: as the module has it for
    one call, the same for all of them."""


class _Entangled(Exception):
    """A list in an order that all rows decide is used where calls are kept apart: its order must be each call's own."""

    def __init__(self, node: Node) -> None:
        super().__init__(str(node.target))
        self.node = node


def lift(program: ExportedProgram, contract: Contract) -> LiftedModule:
    """The program of a call for batches of calls that do not meet. Raises Refused."""
    own_order: set[str] = set()
    while True:
        try:
            return _Lifting(program, contract, own_order).run()
        except _Entangled as found:
            if found.node.name in own_order:
                raise Refused(f"{found.node.target} gives an order that all rows decide") from None
            own_order.add(found.node.name)


class _Lifting:
    """One way through a graph."""

    def __init__(self, program: ExportedProgram, contract: Contract, own_order: Collection[str]) -> None:
        self.program, self.contract, self.own_order = program, contract, own_order
        self.flat, self.given = flattened(program, contract)
        _write_anew(self.flat)
        signature = program.graph_signature
        if any(spec.kind != OutputKind.USER_OUTPUT for spec in signature.output_specs):
            raise Refused("it writes to buffers or inputs")
        self.outputs: list[Any] = list(self.flat.output_node().args[0])  # type: ignore[arg-type]  # a tuple
        inputs = {node: spec.batch_dim for node, spec in zip(self.given, contract.inputs, strict=True)}
        verdict, proof = prove(self.flat, inputs, self.outputs)
        if proof is None:
            raise Refused(f"{verdict.reason}")
        self.proof = Proof(self.flat, proof.given, proof.batch)
        self.batch = proof.batch
        self.memory = Memory(self.flat)
        self.known: dict[Node, Any] = {}
        """Per node of the old graph its _Value, or a list of them."""
        self.apart: dict[Node, Node] = {}
        """Of nodes of the new graph that had to be taken apart."""
        self.alone: dict[Node, Node] = {}
        """Of nodes of the old graph that no call's values reach, as one call has them."""
        self.lifted: set[Node] = set()
        self.sizes = self._all_sizes()
        self.writer = Writer(self._hints(), self.batch)

    def _all_sizes(self) -> frozenset[int]:
        found: set[int] = set()
        for node in self.flat.nodes:
            for value in _results(node):
                found |= {size for size in value.shape if isinstance(size, int)}
        shapes = self._shapes()
        lengths = {int(shapes.backed_var_to_val[symbol]) for symbol in self._symbols() if symbol != self.batch}
        return frozenset(found | lengths)

    def _symbols(self) -> set[Any]:
        return {symbol for node in self.given for size in value_of(node).shape for symbol in size_of(size).free_symbols}

    def _shapes(self) -> Any:
        sizes = [size for node in self.given for size in value_of(node).shape]
        return next(size.node.shape_env for size in sizes if not isinstance(size, int))

    def _hints(self) -> dict[Any, int]:
        shapes = self._shapes()
        hints = {symbol: int(shapes.backed_var_to_val[symbol]) for symbol in self._symbols()}
        return {**hints, self.batch: unlike(self.sizes, self.contract)}

    def run(self) -> LiftedModule:
        root = torch.nn.Module()
        specs = {spec.arg.name: spec for spec in self.program.graph_signature.input_specs}
        placeholders = [node for node in self.flat.nodes if node.op == "placeholder"]
        for node in [*self.given, *(node for node in placeholders if node not in self.given)]:
            self.proof.claims[node] = self.proof.claim_of(node)
            self.known[node] = _Value(
                self._input(node) if node in self.given else self._weight(root, node, specs[node.name])
            )
            if node is self.given[-1]:
                for one in self.given:
                    self.writer.learn_sizes(self.known[one].node, [size_of(s) for s in value_of(one).shape])
        for node in self.flat.nodes:
            if node.op == "call_function":
                self._step(node)
        results = [self._output(node) for node in self.outputs]
        shapes = self._shapes()
        self.writer.refuse_conditions({symbol: shapes.var_to_range[symbol] for symbol in self._symbols()})
        self.writer.graph.output(tuple(value.node for value in results))
        self.writer.graph.eliminate_dead_code()
        module = GraphModule(root, self.writer.graph)
        return LiftedModule(module, tuple(value.kind != "plain" for value in results), len(self.lifted), self.sizes)

    def _input(self, node: Node) -> Node:
        value = value_of(node)
        return self.writer.input(node.name, [size_of(size) for size in value.shape], value.dtype)

    def _weight(self, root: torch.nn.Module, node: Node, spec: Any) -> Node:
        path = str(spec.target)
        tensor = self.program.state_dict.get(path, self.program.constants.get(path))
        if spec.kind not in (InputKind.PARAMETER, InputKind.BUFFER, InputKind.CONSTANT_TENSOR) or tensor is None:
            raise Refused(f"it takes {node.name}, which is no tensor of the module")
        *owners, name = path.split(".")
        for owner in owners:
            if not hasattr(root, owner):
                root.add_module(owner, torch.nn.Module())
            root = getattr(root, owner)
        if spec.kind == InputKind.BUFFER:
            root.register_buffer(name, tensor)
        else:
            setattr(root, name, tensor)
        return self.writer.weight(path, tensor)

    # One node of the old graph.

    def _step(self, node: Node) -> None:
        if any(from_values(size) for value in _results(node) for size in value.shape):
            raise Refused(f"how many entries {node.target} gives depends on values")
        found = self.proof.claim_of(node)
        self.proof.claims[node] = found
        if node.target is operator.getitem:
            several, place = node.args
            self.known[node] = self.known[several][place]  # type: ignore[index]
        elif value_of(node) is None:
            self._check(node)
        elif _results(node):
            if own := [claim for claim in _flat(found) if isinstance(claim, All) and claim.kind == "random"]:
                raise Refused(own[0].why)
            used = [value for other in node.all_input_nodes for value in _flat(self.known.get(other, []))]
            meets = any(isinstance(claim, All) for claim in _flat(found)) or node.name in self.own_order
            if meets or any(value.kind != "plain" for value in used):
                self._lift(node)
            else:
                self._copy(node)
        # What is left are numbers: they are computed where they are used.

    def _check(self, node: Node) -> None:
        """An assertion, which gives nothing."""
        if node.target is aten._assert_tensor_metadata.default:
            return
        tensors = [other for other in node.all_input_nodes if is_tensor(other)]
        if any(self.known[other].kind != "plain" for other in tensors):
            raise Refused(f"{node.target} looks at values of one call")
        conditions = [size_of(value_of(other)) for other in node.all_input_nodes if other not in tensors]
        if not any(holds(condition, self.batch) for condition in conditions):
            self._copy(node)
        elif any(condition.subs(self.batch, 1) not in (True, sympy.true) for condition in conditions):
            raise Refused(f"{node.target} is about the number of rows")

    def _copy(self, node: Node) -> None:
        """The operator as it is, for the whole batch."""

        def given(other: Node) -> Any:
            found = self.known.get(other)
            if found is None:
                return self._number(other, node)
            return [value.node for value in found] if isinstance(found, list) else found.node

        args, kwargs = map_arg((node.args, node.kwargs), given)
        new = self.writer.add(rnn_op.exportable(node.target), *args, **kwargs)
        self._keep(node, [_Value(one) for one in self._results_of(new)])

    def _results_of(self, new: Node) -> list[Node]:
        value = value_of(new)
        if not isinstance(value, list | tuple):
            return [new]
        return [self.writer.add(operator.getitem, new, place) for place in range(len(value))]

    def _keep(self, node: Node, values: list[_Value]) -> None:
        several = isinstance(value_of(node), list | tuple)
        kept = []
        for value, old in zip(values, _results(node), strict=True):
            if value_of(value.node).dtype != old.dtype:  # an operator that wrote in place keeps the type written to
                value = dataclasses.replace(value, node=self.writer.add(aten.to.dtype, value.node, old.dtype))
            kept.append(value)
        self.known[node] = kept if several else kept[0]

    def _number(self, other: Node, user: Node, *, alone: bool = False) -> Any:
        """A number as an argument; alone: what it is for one call."""
        value = value_of(other)
        if from_values(value):
            raise Refused(f"{user.target} is given a number that is read from values")
        found = size_of(value)
        return self.writer.number(found.subs(self.batch, 1) if alone else found)

    # For each call on its own.

    def _lift(self, node: Node) -> None:
        schema = schema_of(node)
        if schema is None or schema.is_mutable:
            raise Refused(f"{node.target} writes in place to memory that others share")
        self._refuse_shared(node)
        apart: set[Node] = set()

        def given(other: Node) -> Any:
            found = self.known.get(other)
            if found is None:
                return self._number(other, node, alone=True)
            if not isinstance(found, list):
                return self._one_call(found, self.proof.claims[other], other, node, apart)
            several = zip(found, _flat(self.proof.claims[other]), strict=True)
            return [self._one_call(value, claim, other, node, apart) for value, claim in several]

        args, kwargs = map_arg((node.args, node.kwargs), given)
        self.lifted.add(node)
        if apart:
            found, place = self.writer.per_call(node.target, args, kwargs, apart), self._landed
        else:
            found, place = self._results_of(self.writer.add(node.target, *args, **kwargs)), self._constant
        results = [place(new, old, node) for new, old in zip(found, _results(node), strict=True)]
        self._keep(node, [value for value, _ in results])
        claims = [claim for _, claim in results]
        self.proof.claims[node] = claims if isinstance(value_of(node), list | tuple) else claims[0]

    def _refuse_shared(self, node: Node) -> None:
        """What vmap gives shares memory with its operands or not, as it likes: nobody may write there afterwards."""
        order, roots = self.memory.order, self.memory.roots
        touched = roots[node].union(*(roots[other] for other in node.all_input_nodes))
        for write, written in self.memory.writes:
            if order[write] > order[node] and written & touched:
                raise Refused(f"{write.target} writes in place to memory that {node.target} shares")

    def _one_call(self, value: _Value, claim: Claim, old: Node, user: Node, apart: set[Node]) -> Node:
        """An operand as one call has it; `old` in the graph as it was."""
        if value.kind == "apart":
            apart.add(value.node)
        if value.kind != "plain" or isinstance(claim, Const):
            return value.node
        if isinstance(claim, Packed | Ends):
            raise _Entangled(claim.order.node)
        if isinstance(claim, Iota | Uniform):
            return self._alone(old, user)
        if not isinstance(claim, Rows):
            raise Refused(f"{user.target} is given what another operator writes to ({getattr(claim, 'why', claim)})")
        if value.node not in self.apart:
            self.apart[value.node] = self.writer.apart(value.node, claim)
        apart.add(self.apart[value.node])
        return self.apart[value.node]

    def _alone(self, node: Node, user: Node) -> Node:
        """Numbers of rows, or a constant with as many entries as there are rows, computed once more for one call."""
        if node not in self.alone:
            if any(written & self.memory.roots[node] for _, written in self.memory.writes):
                raise Refused(f"{user.target} is given what {node.target} gives, which is written to in place")

            def given(other: Node) -> Any:
                found, claim = self.known.get(other), self.proof.claims[other]
                if found is None:
                    return self._number(other, node, alone=True)
                if isinstance(claim, Iota | Uniform):
                    return self._alone(other, user)
                if not isinstance(claim, Const):
                    raise Refused(f"{user.target} is given numbers of rows that {node.target} has changed")
                return found.node

            if node.op != "call_function" or node.target is operator.getitem:
                raise Refused(f"{user.target} is given numbers of rows, or a constant, as one of several values")
            args, kwargs = map_arg((node.args, node.kwargs), given)
            new = self.writer.add(node.target, *args, **kwargs)
            self._expect(value_of(new).shape, value_of(node), node)
            self.alone[node] = new
        return self.alone[node]

    def _landed(self, new: Node, old: torch.Tensor, node: Node) -> tuple[_Value, Claim]:
        """A result for each call, among the plain ones again where calls lie in one dim of the whole batch's."""
        self._expect(value_of(new).shape[1:], old, node)
        held = [dim for dim, size in enumerate(old.shape) if holds(size, self.batch)]
        if len(held) == 1:
            entries = whole(size_of(old.shape[held[0]]) / self.batch)
            if entries is not None and not holds(entries, self.batch):
                return _Value(self.writer.together(new, held[0], entries)), Rows(held[0], 1, entries)
        return _Value(new, "apart"), _KEPT

    def _constant(self, new: Node, old: torch.Tensor, node: Node) -> tuple[_Value, Claim]:
        """A result that no call's values reach."""
        self._expect(value_of(new).shape, old, node)
        if any(holds(size, self.batch) for size in old.shape):
            return _Value(new, "one"), _KEPT
        return _Value(new), CONST

    def _expect(self, sizes: Sequence[Any], old: torch.Tensor, node: Node) -> None:
        """The graph must do for one call what it does for several, but for the number of rows."""
        expected = [self.writer.size(size_of(size).subs(self.batch, 1)) for size in old.shape]
        if len(expected) != len(sizes) or not all(map(equal, sizes, expected)):
            raise Refused(f"{node.target} gives one call alone other dims than a call of a batch")

    def _output(self, node: Node) -> _Value:
        """As the new graph gives it: with calls in one of the module's dims, or in a new dim 0."""
        value: _Value = self.known[node]
        claim = self.proof.claims[node]
        stacked = any(spec.stacked for spec in self.contract.inputs)
        if value.kind == "plain" and isinstance(claim, Iota | Uniform | Packed | Ends | All):
            value = _Value(self._one_call(value, claim, node, node, set()), "one")
        if value.kind == "one":
            new = self.writer.add(aten.unsqueeze.default, value.node, 0)
            calls = [self.writer.number(self.batch), *[-1] * (len(value_of(new).shape) - 1)]
            return _Value(self.writer.add(aten.expand.default, new, calls), "apart")
        if stacked and isinstance(claim, Rows):
            if claim.dim != 0 or not claim.plain:
                raise Refused("an output folds calls, which have no dim of their own, with another dim")
            return _Value(value.node, "apart")
        return value


def _write_anew(graph: Graph) -> None:
    """Replaces operators that write in place, where nobody else sees the memory, by those that do not.

    The result's type may become another one: `_keep` casts it back.
    """
    memory = Memory(graph)
    for node, _ in memory.writes:
        written, target = node.args[0] if node.args else None, functional_of(node)
        if target is None or not isinstance(written, Node) or written.op != "call_function":
            continue
        if only_user(written) is node and memory.roots[written] == {written}:
            node.target = target
            memory.roots[node] = frozenset({node})


def _results(node: Node) -> list[torch.Tensor]:
    value = value_of(node)
    return [one for one in _flat(value) if isinstance(one, torch.Tensor)]


def _flat(found: Any) -> list[Any]:
    return list(found) if isinstance(found, list | tuple) else [found]
