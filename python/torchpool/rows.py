"""Rules for operators of your own: how their results depend on the rows of a batch.

Calls are merged once their rows are proven independent on the exported graph. The proof asks a rule for each operator;
one that it does not know makes calls run alone. A library that registers an operator can bring its rule:

    @torchpool.rows.rule("mylib::scale_rows")
    def scale_rows(op):
        x = op.operand("x")
        if not op.operand("scale").is_const:
            torchpool.rows.mixes("the scale comes from rows")
        return x.claim

A rule is called where an operand depends on rows. `op.operand(name)` has the `claim` of an argument (`Rows(dim)`:
row b is entry b of that dim; `Const()`: the same for all rows), its fake tensor `value` and `rank`; `op.get(name)` is a
plain argument. The rule returns the claim of the result, a list of them for several results, or calls `mixes(why)`
where rows meet, or `unknown(why)`. A rule is trusted: one that is wrong makes calls wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

from torchpool.contract.rows.domain import CONST, Const, Rows, mixes, random, unknown
from torchpool.contract.rows.registry import rule as _rule

__all__ = ["CONST", "Const", "Rows", "mixes", "random", "rule", "unknown"]

R = TypeVar("R", bound=Callable[[Any], Any])


def rule(op: Any) -> Callable[[R], R]:
    """Registers the decorated function as the rule of an operator: "mylib::scale_rows", torch.ops.mylib.scale_rows or
    one of its overloads, or what torch.library.custom_op gave. It holds for captures that begin later.

    Raises TypeError for anything else, ValueError for a name without a namespace and for operators of torch itself,
    which have their rules.
    """
    name = _name_of(op)
    space, _, rest = name.partition("::")
    if not rest or not space:
        raise ValueError(f"an operator's name is of the form 'library::operator', got {name!r}")
    if space in ("aten", "prim", "prims", "torchpool"):
        raise ValueError(f"{name} is torch's own or ours, and has its rule")
    return _rule(name)


def _name_of(op: Any) -> str:
    if isinstance(op, str):
        return op
    if isinstance(op, torch._ops.OpOverload):
        return op._schema.name
    if isinstance(op, torch._ops.OpOverloadPacket):
        return op._qualified_op_name
    if isinstance(op, torch._library.custom_ops.CustomOpDef):
        return op._qualname
    raise TypeError(f"op must be an operator or its name as 'library::operator', got {type(op).__name__}")
