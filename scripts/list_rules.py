"""Prints which rule says of an operator how its result depends on rows: the operator, the rule, what it lets through.

    python scripts/list_rules.py

The last line counts the operators that need no rule of their own, since torch tags them as pointwise.
"""

from __future__ import annotations

import torch

from torchpool.contract.rows import all_rules  # noqa: F401  # its modules enter their rules
from torchpool.contract.rows.pointwise import is_pointwise
from torchpool.contract.rows.registry import rules

PACKAGE = "torchpool.contract.rows."


def lines() -> list[str]:
    """A line for each operator that has a rule."""
    found = []
    for name, entry in sorted(rules().items()):
        function = entry.function
        place = f"{function.__module__.removeprefix(PACKAGE)}.{function.__name__}"
        found.append(f"{name:<44} {place:<36} {(function.__doc__ or '').strip().splitlines()[0]}")
    return found


def pointwise() -> set[str]:
    """ATen's operators without a rule of their own that have a pointwise form, by torch's tag or by name."""
    known = rules()
    found = set()
    for schema in torch._C._jit_get_all_schemas():
        space, _, name = schema.name.partition("::")
        plain = name[:-1] if name.endswith("_") and not name.endswith("__") else name
        packet = getattr(torch.ops.aten, name, None) if space == "aten" and plain not in known else None
        target = getattr(packet, schema.overload_name or "default", None)
        if isinstance(target, torch._ops.OpOverload) and is_pointwise(plain, target):
            found.add(plain)
    return found


def main() -> None:
    table = lines()
    print(*table, sep="\n")
    print(f"{len(table)} operators with a rule, {len(pointwise())} more that are pointwise")


if __name__ == "__main__":
    main()
