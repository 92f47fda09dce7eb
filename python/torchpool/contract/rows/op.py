"""One operator of a graph, as its rule sees it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from torchpool.contract.rows.arguments import Arguments
from torchpool.contract.rows.domain import CONST, Claim, Const, Order
from torchpool.contract.rows.memory import Memory
from torchpool.contract.rows.sizes import holds, size_of, sizes_of


@dataclass(frozen=True)
class Operand:
    """A tensor or number that an operator is given."""

    claim: Claim
    value: Any
    """A fake tensor, a SymInt or a plain value."""
    node: Node | None

    @property
    def is_tensor(self) -> bool:
        return isinstance(self.value, torch.Tensor)

    @property
    def is_const(self) -> bool:
        return isinstance(self.claim, Const)

    @property
    def rank(self) -> int:
        return int(self.value.dim())

    @property
    def sizes(self) -> list[Any]:
        """The shape as expressions."""
        return sizes_of(self.value)

    def dim(self, dim: int) -> int:
        """A dim counted from 0."""
        return dim % max(self.rank, 1)


@dataclass(frozen=True)
class Op(Arguments):
    """One operator of a graph, as its rule sees it."""

    node: Node
    name: str
    """As rules are registered: without "aten::", and without the underscore of an in-place form."""
    overload: str
    arguments: Mapping[str, Any]
    """As in the graph, by the schema's names; defaults are filled in."""
    result: Any
    """A fake tensor, or a list of them."""
    batch: Any
    """The symbol B."""
    claims: Mapping[Node, Any]
    """Of all nodes before this one."""
    orders: list[Order]
    """All orders that sorting has made so far."""
    memory: Memory
    """Which values share memory."""

    def operand(self, name: str) -> Operand:
        """An argument that is one tensor or number; a constant where it is None."""
        return self.operand_of(self.arguments.get(name))

    def operands(self, name: str) -> list[Operand]:
        """An argument that is a list of tensors; Nones are left out."""
        given: Any = self.arguments.get(name)
        if isinstance(given, Node):  # the results of another operator, all of them
            return [
                Operand(claim, value, given) for claim, value in zip(self.claims[given], given.meta["val"], strict=True)
            ]
        return [self.operand_of(item) for item in given if item is not None]

    def operand_of(self, item: Any) -> Operand:
        """Of an item of `arguments`."""
        if isinstance(item, Node):
            return Operand(self.claims[item], item.meta.get("val"), item)
        return Operand(CONST, item, None)

    def size(self, item: Any) -> Any:
        """A number or size of `arguments` as an expression."""
        return size_of(item.meta["val"] if isinstance(item, Node) else item)

    def holds_rows(self, size: Any) -> bool:
        """Whether B is in a size."""
        return holds(size, self.batch)

    def rows_dims(self, value: Any) -> list[int]:
        """The dims of a fake tensor that have B in their size."""
        return [dim for dim, size in enumerate(value.shape) if self.holds_rows(size)]
