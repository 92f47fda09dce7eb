"""The proof that the rows of a batch do not meet: abstract interpretation of an exported graph.

Each node gets a claim (`domain`), by the rule of its operator, from the claims of what it is given. After each node the
claim must agree with the shape that export found: the second lock, which a rule that is wrong about shapes cannot pass.
"""

from __future__ import annotations

import dataclasses
import logging
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from torchpool.contract.rows import all_rules  # noqa: F401  # its modules enter their rules
from torchpool.contract.rows.domain import (
    CONST,
    All,
    Claim,
    Claims,
    Const,
    Count,
    Ends,
    Iota,
    Mixes,
    Order,
    Packed,
    Rows,
    Uniform,
)
from torchpool.contract.rows.memory import Memory, after_write
from torchpool.contract.rows.op import Op
from torchpool.contract.rows.pointwise import is_pointwise, pointwise
from torchpool.contract.rows.registry import Entry, find
from torchpool.contract.rows.sizes import equal, from_values, holds, size_of

log = logging.getLogger("torchpool")

# They look at values or sizes, and give nothing.
_CHECKS = frozenset({
    "_assert_scalar", "_assert_async", "_assert_tensor_metadata", "sym_constrain_range",
    "sym_constrain_range_for_size", "_functional_assert_async", "_functional_assert_scalar",
})  # fmt: skip
# A value gets another's memory, or other memory, which `memory` does not follow: refused whatever the value is.
_REBIND = frozenset({"set", "set_data", "resize", "resize_as"})
# Tagged as random, and random only with certain arguments: their rules look.
_RANDOM_SOMETIMES = frozenset({
    "dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout", "scaled_dot_product_attention",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_attention_math", "rrelu", "lstm",
    "gru", "rnn_tanh", "rnn_relu",
})  # fmt: skip
_SPECIAL: tuple[tuple[type, str], ...] = (
    (Iota, "computes with the number of the row"),
    (Packed, "a list in an order that all rows decide is not taken apart into rows here"),
    (Ends, "computes with the ends of groups of all rows"),
    (Uniform, "the number of rows is in the shape in a way that is no one layout"),
)


def rule_name(target: Any) -> str:
    """An operator's name as rules are registered."""
    space, _, name = target._schema.name.partition("::")
    if target._schema.is_mutable and name.endswith("_") and not name.startswith("__"):
        name = name[:-1]
    return name if space == "aten" else f"{space}::{name}"


class Proof:
    """The claims of all nodes of a graph."""

    def __init__(self, graph: Graph, rows: Mapping[Node, Rows], batch: Any) -> None:
        """`rows`: of the placeholders that have rows. `batch`: the symbol B."""
        self.graph, self.batch = graph, batch
        self.given = dict(rows)
        self.claims: dict[Node, Any] = {}
        self.memory = Memory()
        self.orders: list[Order] = []
        self.writes: list[All] = []
        """To inputs and weights."""
        self._lengths: dict[Any, All | None] = {}
        """Of each size that is only known once values are: why these depend on all rows; None where they do not."""

    def run(self) -> Proof:
        """Fills in `claims`, node by node."""
        for node in self.graph.nodes:
            if node.op != "output":
                self.claims[node] = self.claim_of(node)
        return self

    def claim_of(self, node: Node) -> Any:
        """The claim of the next node, checked against its shape."""
        try:
            found: Any = self._checked(node, self._step(node))
        except Mixes as problem:
            found = All(problem.why, problem.kind)
        except Exception as error:  # a rule, perhaps a user's, that does not know this use of its operator
            log.debug("the rule of %s fails", node.target, exc_info=True)
            found = All(f"the rule of {node.target} fails: {type(error).__name__}: {error}", "unknown")
        found = self._of_known_length(node, found)
        if isinstance(found, All) and found.node is None:
            return dataclasses.replace(found, node=node)
        if isinstance(found, list):
            return [dataclasses.replace(c, node=node) if isinstance(c, All) and c.node is None else c for c in found]
        return found

    # The second lock.

    def _checked(self, node: Node, found: Claims) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, list | tuple):
            return self._checked_one(value, found)
        if isinstance(found, All):
            return [found] * len(value)
        if not isinstance(found, list | tuple) or len(found) != len(value):
            return [
                All(f"the rule of {node.target} gives no claim for each of its {len(value)} results", "unknown")
            ] * len(value)
        return [self._checked_one(v, f) for v, f in zip(value, found, strict=True)]

    def _checked_one(self, value: Any, found: Any) -> Claim:
        if isinstance(found, list | tuple):
            return All("a rule gives several claims for one result", "unknown")
        if not isinstance(value, torch.Tensor):
            return found  # type: ignore[no-any-return]  # a claim
        holding = [dim for dim, size in enumerate(value.shape) if holds(size, self.batch)]
        if isinstance(found, Rows):
            if holding != [found.dim]:
                why = f"rows are claimed along dim {found.dim}, and the number of rows is in dims {holding}"
                return All(why, "unknown" if holding else "mixes")
            size = size_of(value.shape[found.dim])
            if not equal(size, found.outer * found.inner * self.batch):
                return All(f"dim {found.dim} has {size} entries, not {found.outer} x rows x {found.inner}", "unknown")
        elif isinstance(found, Packed) and set(holding) - {found.dim}:
            return All(f"a list lies in dim {found.dim}, and the number of rows is in dims {holding}", "unknown")
        elif isinstance(found, Const) and holding:
            return All("the number of rows is in the shape of a constant", "unknown")
        return found  # type: ignore[no-any-return]

    def _of_known_length(self, node: Node, found: Any) -> Any:
        """What is as long as values of all rows say depends on them by its shape, whatever its entries are."""
        value = node.meta.get("val")
        symbols = {symbol for one in _flat(value) for size in _sizes(one) for symbol in from_values(size)}
        for symbol in symbols - self._lengths.keys():  # this node has read the values
            cause = next((claim for claim in _flat(found) if isinstance(claim, All | Ends)), None)
            if isinstance(cause, Ends):
                cause = All("how many entries there are depends on all rows")
            self._lengths[symbol] = cause
        spoiled = next((cause for symbol in symbols if (cause := self._lengths[symbol]) is not None), None)
        if spoiled is None or isinstance(found, All | Ends):
            return found
        return [spoiled] * len(found) if isinstance(found, list) else spoiled

    # One node.

    def _step(self, node: Node) -> Claims:
        if node.op in ("placeholder", "get_attr"):
            self.memory.own(node)
            return self.given.get(node, CONST)
        target = node.target
        if target is operator.getitem:
            whole = node.args[0]
            assert isinstance(whole, Node)
            self.memory.part_of(node, whole)
            held: Any = self.claims[whole]
            place: Any = node.args[1]
            picked: Claim = held[place] if isinstance(held, list) else held
            return picked
        if not isinstance(target, torch._ops.OpOverload):
            self.memory.own(node)
            if isinstance(target, torch._ops.HigherOrderOperator):
                return self._without_rule(node, f"no rule for {target}")
            return self._number(node)
        return self._operator(node, target)

    def _operator(self, node: Node, target: torch._ops.OpOverload) -> Claims:
        arguments = arguments_of(node, target)
        name = rule_name(target)
        written = self.memory.follow(node, name, arguments)
        if name in _REBIND:
            written = node.all_input_nodes
        try:
            found = self._apply(node, target, name, arguments)
        except Exception as problem:
            mixes = problem if isinstance(problem, Mixes) else Mixes(f"the rule of {target} fails", "unknown")
            for place in written:
                self._write(node, place, All(mixes.why, mixes.kind, node))
            raise
        if len(written) == 1 and not isinstance(found, list):
            return self._write(node, written[0], self._checked(node, found))
        if written:
            spoiled = All(f"{target} writes to several tensors", "unknown", node)
            for place in written:
                self._write(node, place, spoiled)
            return spoiled
        return found

    def _write(self, node: Node, place: Node, found: Claim) -> Claim:
        for root in self.memory.roots(place):
            if root.op in ("placeholder", "get_attr"):
                what = "an input" if root in self.given else "a buffer or weight"
                self.writes.append(All(f"writes to {what} ({root.name})", "state", node))
        return after_write(self.memory, self.claims, place, found)

    def _apply(self, node: Node, target: torch._ops.OpOverload, name: str, arguments: Mapping[str, Any]) -> Claims:
        if name in _CHECKS:
            return CONST
        if name in _REBIND:
            raise Mixes(f"{target} gives a value other memory", "unknown")
        tagged = torch.Tag.nondeterministic_seeded in target.tags and name not in _RANDOM_SOMETIMES
        if tagged:
            raise Mixes(f"{name} draws random numbers", "random")
        if name.startswith("sym_"):
            return self._number(node)
        entry = find(name) or (_POINTWISE if is_pointwise(name, target) else None)
        op = Op(
            node,
            name,
            target._schema.overload_name,
            arguments,
            node.meta.get("val"),
            self.batch,
            self.claims,
            self.orders,
            self.memory,
        )
        donors = () if entry is None else entry.donors
        used: list[Node] = []
        map_arg({argument: item for argument, item in arguments.items() if argument not in donors}, used.append)
        given = [claim for one in used for claim in _flat(self.claims[one])]
        if (spoiled := next((claim for claim in given if isinstance(claim, All)), None)) is not None:
            return spoiled
        if name not in _RANDOM_SOMETIMES and all(isinstance(c, Const) for c in given) and not self._has_rows(node):
            return op.each(CONST)
        if entry is None:
            return self._without_rule(node, f"no rule for {target}")
        self._refuse_unaccepted(entry, given)
        return entry.function(op)

    def _refuse_unaccepted(self, entry: Entry, given: list[Claim]) -> None:
        if not entry.sizes and any(isinstance(claim, Count) for claim in given):
            raise Mixes("computes with the number of rows")
        for kind, why in _SPECIAL:
            if kind not in entry.accepts and any(type(claim) is kind for claim in given):
                raise Mixes(why)

    def _given(self, node: Node) -> list[Claim]:
        return [claim for used in node.all_input_nodes for claim in _flat(self.claims[used])]

    def _has_rows(self, node: Node) -> bool:
        value = node.meta.get("val")
        values = value if isinstance(value, list | tuple) else [value]
        return any(isinstance(v, torch.Tensor) and any(holds(s, self.batch) for s in v.shape) for v in values)

    def _number(self, node: Node) -> Claim:
        """Arithmetic on sizes, or a size of a tensor."""
        value = node.meta.get("val")
        if isinstance(value, torch.Tensor):
            raise Mixes(f"no rule for {node.target}", "unknown")
        shape_only = isinstance(node.target, torch._ops.OpOverload)  # sym_size and its like read no values
        for claim in self._given(node):
            if isinstance(claim, All) and not (shape_only and not from_values(value)):
                return claim
        return Count() if holds(value, self.batch) else CONST

    def _without_rule(self, node: Node, why: str) -> Claims:
        """Harmless where nothing that it is given comes from rows."""
        given = self._given(node)
        if (spoiled := next((claim for claim in given if isinstance(claim, All)), None)) is not None:
            return spoiled
        if all(isinstance(claim, Const) for claim in given) and not self._has_rows(node):
            value = node.meta.get("val")
            return [CONST] * len(value) if isinstance(value, list | tuple) else CONST
        raise Mixes(why, "unknown")


_POINTWISE = Entry(pointwise, (Iota, Packed, Ends, Uniform), sizes=False)


def _flat(found: Any) -> list[Any]:
    """One or several, as a list."""
    return list(found) if isinstance(found, list | tuple) else [found]


def _sizes(value: Any) -> list[Any]:
    return list(value.shape) if isinstance(value, torch.Tensor) else [value]


def arguments_of(node: Node, target: torch._ops.OpOverload) -> dict[str, Any]:
    schema = target._schema.arguments
    bound: dict[str, Any] = dict(zip((argument.name for argument in schema), node.args, strict=False))
    bound.update(node.kwargs)
    for argument in schema:
        if argument.name not in bound:  # what has no default is always given
            bound[argument.name] = argument.default_value
    return bound
