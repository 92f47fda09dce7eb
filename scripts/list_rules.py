"""Prints which rule says of an operator how its result depends on rows, and on padding: the proof, the operator, the
rule, what it lets through.

    python scripts/list_rules.py

The last line of each proof counts the operators that need no rule of their own, since torch tags them as pointwise.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any, Protocol

import torch

from torchpool.contract.pads import all_rules as _pads  # noqa: F401  # its modules enter their rules
from torchpool.contract.pads import registry as pads
from torchpool.contract.rows import all_rules as _rows  # noqa: F401
from torchpool.contract.rows import registry as rows
from torchpool.contract.rows.pointwise import is_pointwise

PACKAGE = "torchpool.contract."


class Entry(Protocol):
    """What both registries have of an operator."""

    @property
    def function(self) -> Callable[[Any], Any]: ...


PROOFS: dict[str, Callable[[], Mapping[str, Entry]]] = {"rows": rows.rules, "pads": pads.rules}


def lines(rules: Mapping[str, Entry]) -> list[str]:
    """A line for each operator that has a rule."""
    found = []
    for name, entry in sorted(rules.items()):
        function = entry.function
        place = f"{function.__module__.removeprefix(PACKAGE)}.{function.__name__}"
        found.append(f"{name:<44} {place:<40} {(function.__doc__ or '').strip().splitlines()[0]}")
    return found


def pointwise(known: Collection[str]) -> set[str]:
    """ATen's operators without a rule of their own that have a pointwise form, by torch's tag or by name."""
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
    for proof, rules in PROOFS.items():
        table = lines(rules())
        print(*table, sep="\n")
        print(f"{proof}: {len(table)} operators with a rule, {len(pointwise(rules()))} more that are pointwise")


if __name__ == "__main__":
    main()
