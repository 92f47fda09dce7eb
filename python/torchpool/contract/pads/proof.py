"""The proof that padding a length does nothing: abstract interpretation of an exported graph.

Each node gets a claim (`domain`), by the rule of its operator, from the claims of what it is given. After each node the
claim must agree with the shape that export found: the second lock, which a rule that is wrong about shapes cannot pass.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import operator
from collections.abc import Mapping
from typing import Any

import torch
from torch.fx import Graph, Node
from torch.fx.node import map_arg

from torchpool.contract.pads import all_rules  # noqa: F401  # its modules enter their rules
from torchpool.contract.pads.domain import SAME, Claim, Claims, Kept, Length, Loses, Lost, either
from torchpool.contract.pads.op import Op, Sizes
from torchpool.contract.pads.pointwise import pointwise
from torchpool.contract.pads.registry import Entry, find
from torchpool.contract.rows.memory import Memory
from torchpool.contract.rows.pointwise import is_pointwise
from torchpool.contract.rows.proof import arguments_of, rule_name
from torchpool.contract.rows.sizes import equal

log = logging.getLogger("torchpool")

_CHECKS = ("_assert", "sym_constrain_range", "_functional_assert")
_REBIND = frozenset({"set", "set_data", "resize", "resize_as"})
_POINTWISE = Entry(pointwise, sizes=False, donors=(), facts=True)


class PadProof:
    """The claims of all nodes of a graph, for one length."""

    def __init__(self, graph: Graph, given: Mapping[Node, Kept], sizes: Sizes) -> None:
        """`given`: of the placeholders that are tensors of the call."""
        self.graph, self.sizes = graph, sizes
        self.given = dict(given)
        self.claims: dict[Node, Any] = {}
        self.memory = Memory()
        self.conditions: list[tuple[str, Node]] = []

    def run(self) -> PadProof:
        """Fills in `claims`, node by node."""
        for node in self.graph.nodes:
            if node.op != "output":
                self.claims[node] = self.claim_of(node)
        return self

    def claim_of(self, node: Node) -> Any:
        """The claim of the next node, checked against its shape."""
        try:
            found: Any = self._checked(node, self._step(node))
        except Loses as problem:
            found = Lost(problem.why)
        except Exception as error:  # a rule that does not know this use of its operator
            log.debug("the rule of %s fails", node.target, exc_info=True)
            found = Lost(f"the rule of {node.target} fails: {type(error).__name__}: {error}")
        if isinstance(found, list):
            return [_at(node, claim) for claim in found]
        return _at(node, found)

    def _checked(self, node: Node, found: Claims) -> Any:
        value = node.meta.get("val")
        if not isinstance(value, list | tuple):
            if isinstance(found, list | tuple):
                raise Loses(f"the rule of {node.target} gives several claims for one result")
            return self._checked_one(value, found)  # type: ignore[arg-type]  # no sequence
        if isinstance(found, Lost):
            return [found] * len(value)
        if not isinstance(found, list | tuple) or len(found) != len(value):
            raise Loses(f"the rule of {node.target} gives no claim for each of its {len(value)} results")
        return [self._checked_one(one, claim) for one, claim in zip(value, found, strict=True)]

    def _checked_one(self, value: Any, found: Claim) -> Claim:
        if not isinstance(value, torch.Tensor) or not isinstance(found, Kept):
            return found
        dims = self.sizes.dims(value)
        if [pad.dim for pad in found.pads] != dims:
            return Lost(f"the length is in dims {dims}, padded places are claimed in {[p.dim for p in found.pads]}")
        for pad in found.pads:
            size = self.sizes.of(value.shape[pad.dim])
            if pad.plain and size - self.sizes.length == pad.extra:
                continue
            if not equal(size, pad.outer * (self.sizes.length + pad.extra) * pad.inner):
                return Lost(f"dim {pad.dim} has {size} entries, which the padded places are not laid out in")
            if self.sizes.hold(pad.outer) or self.sizes.hold(pad.inner):
                return Lost(f"dim {pad.dim} has {size} entries, for which no layout is known")
        return found

    def _step(self, node: Node) -> Claims:
        if node.op in ("placeholder", "get_attr"):
            self.memory.own(node)
            return self.given.get(node, SAME)
        target = node.target
        if target is operator.getitem:
            whole, place = node.args
            assert isinstance(whole, Node)
            self.memory.part_of(node, whole)
            held: Any = self.claims[whole]
            picked: Claim = held[place] if isinstance(held, list) else held  # type: ignore[index]  # an int
            return picked
        if not isinstance(target, torch._ops.OpOverload):
            self.memory.own(node)
            if isinstance(target, torch._ops.HigherOrderOperator) or isinstance(node.meta.get("val"), torch.Tensor):
                raise Loses(f"no rule for {target}")
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
            if written:
                found = self._checked(node, found)
        except Exception:
            self._spoil(node, written)
            raise
        if len(written) == 1 and isinstance(found, Kept):
            self._spoil(node, written)
            if written[0].meta["val"].shape == node.meta["val"].shape:
                self.claims[written[0]] = found
        elif written:
            self._spoil(node, written)
        return found

    def _spoil(self, node: Node, written: list[Node]) -> None:
        """What shares memory with what is written is not followed."""
        for place in written:
            for other in self.memory.sharing(place):
                if other in self.claims:
                    self.claims[other] = Lost("is written to in place, through another view of its memory", node)

    def _apply(self, node: Node, target: torch._ops.OpOverload, name: str, arguments: Mapping[str, Any]) -> Claims:
        if name.startswith(_CHECKS):
            return SAME
        if name in _REBIND:
            raise Loses(f"{target} gives a value other memory")
        if name.startswith("sym_"):
            return self._number(node)
        entry = find(name) or (_POINTWISE if is_pointwise(name, target) else None)
        op = Op(node, name, arguments, node.meta.get("val"), self.sizes, self.claims, self.conditions)
        used: list[Node] = []
        donors = () if entry is None else entry.donors
        map_arg({argument: item for argument, item in arguments.items() if argument not in donors}, used.append)
        given = [claim for one in used for claim in _flat(self.claims[one])]
        if (lost := next((claim for claim in given if isinstance(claim, Lost)), None)) is not None:
            return op.each(lost)
        counts = any(isinstance(claim, Length) for claim in given)
        if not counts and not any(claim.pads for claim in given) and not self._has_length(node):
            return entry.function(op) if entry is not None and entry.facts else op.each(_same(entry, given))
        if entry is None:
            raise Loses(f"no rule for {target}")
        if counts and not entry.sizes:
            raise Loses(f"{name} computes with the length, padding included")
        return entry.function(op)

    def _has_length(self, node: Node) -> bool:
        return any(isinstance(value, torch.Tensor) and self.sizes.dims(value) for value in _flat(node.meta.get("val")))

    def _number(self, node: Node) -> Claim:
        """Arithmetic on sizes, or a size of a tensor."""
        value = node.meta.get("val")
        if not isinstance(node.target, torch._ops.OpOverload):  # sym_size and its like read no values
            for used in node.all_input_nodes:
                if isinstance(claim := self.claims[used], Lost):
                    return claim
        if isinstance(value, torch.SymInt | torch.SymFloat | torch.SymBool):
            return Length() if self.sizes.hold(value) else SAME
        return SAME


def _same(entry: Entry | None, given: list[Kept]) -> Kept:
    """Of what is given the same in both runs: a view of it has -inf and NaN where it has."""
    odd = functools.reduce(either, (claim.odd for claim in given), SAME.odd)
    moves = entry is not None and entry.function.__module__.endswith((".reshaping", ".parts"))
    return SAME if odd == "finite" else Kept(odd=odd if moves else "any")


def _at(node: Node, claim: Any) -> Any:
    return dataclasses.replace(claim, node=node) if isinstance(claim, Lost) and claim.node is None else claim


def _flat(found: Any) -> list[Any]:
    """One or several, as a list."""
    return list(found) if isinstance(found, list | tuple) else [found]
