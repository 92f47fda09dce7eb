"""One operator of a graph, as its rule sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.fx import Node

from torchpool.contract.pads.domain import SAME, Kept
from torchpool.contract.rows.arguments import Arguments
from torchpool.contract.rows.sizes import equal, size_of


@dataclass(frozen=True)
class Sizes:
    """Sizes as expressions over one length."""

    length: Any
    """The symbol of the length."""
    others: Mapping[Any, Any] = field(default_factory=dict)
    """Symbols that always have the same value: the length instead of each."""

    def of(self, size: Any) -> Any:
        """An int, SymInt or expression as an expression."""
        found = size_of(size)
        return found.xreplace(dict(self.others)) if self.others else found

    def hold(self, size: Any) -> bool:
        """Whether a size depends on the length."""
        return self.length in self.of(size).free_symbols

    def dims(self, value: Any) -> list[int]:
        """The dims of a fake tensor that depend on the length."""
        return [dim for dim, size in enumerate(value.shape) if not isinstance(size, int) and self.hold(size)]

    def extra(self, size: Any) -> int | None:
        """The size less the length, if that is a number."""
        found = self.of(size) - self.length
        return int(found) if found.is_Integer else None


@dataclass(frozen=True)
class Operand:
    """A tensor or number that an operator is given."""

    claim: Any
    """Kept, in rules; Length of a number."""
    value: Any
    """A fake tensor, a SymInt or a plain value."""
    node: Node | None
    known: Sizes

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.value, torch.Tensor)

    @property
    def kept(self) -> Kept:
        assert isinstance(self.claim, Kept)
        return self.claim

    @property
    def rank(self) -> int:
        return int(self.value.dim()) if self.is_tensor else 0

    @property
    def sizes(self) -> list[Any]:
        """The shape as expressions."""
        return [self.known.of(size) for size in self.value.shape]

    def dim(self, dim: int) -> int:
        """A dim counted from 0."""
        return dim % max(self.rank, 1)


@dataclass(frozen=True)
class Op(Arguments):
    """One operator of a graph, as its rule sees it."""

    node: Node
    name: str
    """As rules are registered: without "aten::", and without the underscore of an in-place form."""
    arguments: Mapping[str, Any]
    """As in the graph, by the schema's names; defaults are filled in."""
    result: Any
    """A fake tensor, or a list of them."""
    sizes: Sizes
    claims: Mapping[Node, Any]
    """Of all nodes before this one."""
    conditions: list[tuple[str, Node]]
    """What must hold for a call that the claims be true, in words; a rule adds to it."""

    def operand(self, name: str) -> Operand:
        """An argument that is one tensor or number; the same in both runs where it is None."""
        return self.operand_of(self.arguments.get(name))

    def operands(self, name: str) -> list[Operand]:
        """An argument that is a list of tensors; Nones are left out."""
        given: Any = self.arguments.get(name)
        if isinstance(given, Node):
            values = given.meta["val"]
            return [
                Operand(claim, value, given, self.sizes)
                for claim, value in zip(self.claims[given], values, strict=True)
            ]
        return [self.operand_of(item) for item in given if item is not None]

    def operand_of(self, item: Any) -> Operand:
        """Of an item of `arguments`."""
        if isinstance(item, Node):
            return Operand(self.claims[item], item.meta.get("val"), item, self.sizes)
        return Operand(SAME, item, None, self.sizes)

    def tensors(self) -> list[Operand]:
        """All arguments that are tensors, those in lists too."""
        found = []
        for item in self.arguments.values():
            for one in item if isinstance(item, list | tuple) else [item]:
                operand = self.operand_of(one)
                if operand.is_tensor:
                    found.append(operand)
        return found

    def size(self, item: Any) -> Any:
        """A number or size of `arguments` as an expression."""
        return self.sizes.of(item.meta["val"] if isinstance(item, Node) else item)

    def result_dtype(self) -> torch.dtype:
        """Of the result, or of the first of several."""
        found: torch.Tensor = self.result[0] if isinstance(self.result, list | tuple) else self.result
        return found.dtype


def one_entry(operand: Operand, dim: int) -> bool:
    """Whether a dim of an operand is broadcast."""
    return equal(operand.sizes[dim], 1)
