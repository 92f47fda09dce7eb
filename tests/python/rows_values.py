"""Values for tests of rules that a sketch's inputs do not have: folded rows, lists of rows, numbers of rows."""

from __future__ import annotations

from typing import Any

import torch
from rows_sketch import Sketch
from torch.fx import Node

from torchpool.contract.rows.domain import CONST, All, Count, Iota, Order, Packed, Rows, Same, Uniform


def check(found: Any, expected: Any) -> None:
    """`expected`: a claim, or why there is none."""
    if isinstance(expected, str):
        assert isinstance(found, All), found
        assert f"{found.kind}: {found.why}" == expected
    else:
        assert found == expected


def folded(sketch: Sketch, outer: int, inner: int, *rest: Any) -> Node:
    """A value whose dim 0 has outer x B x inner entries."""
    return sketch.claimed(Rows(0, outer, inner), outer * inner * sketch.batch, *rest)


def same(sketch: Sketch, times: int, *rest: Any) -> Node:
    """A constant for times x B entries in dim 0."""
    return sketch.claimed(Same(0, times), times * sketch.batch, *rest)


def uniform(sketch: Sketch, *shape: Any) -> Node:
    """One constant everywhere."""
    return sketch.claimed(Uniform(), *shape)


def numbers(sketch: Sketch, *rest: int, dim: int = 0) -> Node:
    """The number of the row, in each of its entries."""
    return sketch.claimed(Iota(dim), *rest[:dim], sketch.batch, *rest[dim:], dtype=torch.int64)


def shaped_constant(sketch: Sketch, *shape: Any) -> Node:
    """A constant of any shape, B in it: export gives none, and rules do not rely on that."""
    node = sketch.claimed(Uniform(), *shape)
    sketch.proof.claims[node] = CONST
    return node


def order(sketch: Sketch, inner: int = 1) -> Order:
    """Of a list that has `inner` entries of each row."""
    node = sketch.rows()
    return Order(node, node, Rows(0, 1, inner))


def listed(sketch: Sketch, by: Order, *rest: Any, role: Any = "value", dtype: torch.dtype = torch.float32) -> Node:
    """A list of rows in this order."""
    return sketch.claimed(Packed(0, by, by.rows, role), by.rows.inner * sketch.batch, *rest, dtype=dtype)


def count(sketch: Sketch, size: Any = None) -> Node:
    """B, or a size with B in it, as a number of the graph."""
    node = sketch.graph.placeholder(f"size_{len(sketch.graph.nodes)}")
    node.meta["val"] = sketch.batch if size is None else size
    sketch.proof.claims[node] = Count()
    sketch.proof.memory.own(node)
    return node


def forced(sketch: Sketch, value: Any, target: Any, *args: Any) -> Any:
    """The claim of an operator whose result has the shape of `value`, or the shapes, even if torch gave another."""
    node = sketch.graph.call_function(target, args)
    node.meta["val"] = [one.meta["val"] for one in value] if isinstance(value, list) else value.meta["val"]
    sketch.proof.claims[node] = sketch.proof.claim_of(node)
    return sketch.proof.claims[node]
