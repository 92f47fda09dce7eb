"""Mixtures of experts: the entries of all rows sorted by expert, products over each expert's, and the way back."""

from __future__ import annotations

import dataclasses
import math
import operator
from typing import Any

import torch
from torch.fx import Node

from torchpool.contract.rows.domain import All, Claim, Claims, Ends, Iota, Order, Packed, Rows, Uniform, agree, mixes
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal, size_of

_PLACES = ("index", "index_part", "inverse")


@rule("sort argsort msort", accepts=[Packed])
def in_order(op: Op) -> Claims:
    """Along another dim, or of a list of all rows, which is then in an order that all rows decide."""
    keys = op.operand("self")
    if isinstance(keys.claim, Packed):
        if keys.claim.role != "index" or keys.rank != 1 or op.name == "msort" or _descends(op.node):
            mixes(f"{op.name} of a list of all rows")
        # Sorting an order says where each entry has gone. The sorted places themselves are numbers of all entries.
        inverse = dataclasses.replace(keys.claim, role="inverse")
        return inverse if op.name == "argsort" else [All("computes with places in a list of all rows"), inverse]
    assert isinstance(keys.claim, Rows)
    if keys.claim.dim != keys.dim(op.get("dim", 0)):
        return op.each(keys.claim)
    if keys.rank != 1 or type(keys.claim) is not Rows:
        mixes(f"{op.name} over the rows")
    assert keys.node is not None
    order = Order(op.node, keys.node, keys.claim)
    op.orders.append(order)
    ranked, places = Packed(0, order, keys.claim, "sorted"), Packed(0, order, keys.claim, "index")
    if op.name == "sort":
        return [ranked, places]
    return places if op.name == "argsort" else ranked


@rule("cumsum", accepts=[Ends])
def running_sum(op: Op) -> Claims:
    """Along another dim than the rows'; of how many entries groups have, it gives where they end."""
    given = op.operand("self")
    if isinstance(given.claim, Ends):
        if given.claim.stage != "counts" or given.rank != 1:
            mixes("computes with the ends of groups of all rows")
        return dataclasses.replace(given.claim, stage="ends")
    assert isinstance(given.claim, Rows)
    if given.claim.dim == given.dim(op.get("dim")):
        mixes("cumsum over the rows")
    return given.claim


@rule("histc bincount", accepts=[Packed])
def counted(op: Op) -> Claims:
    """Of the keys of a list that is sorted: how many entries each group has. Each key must be counted."""
    keys = op.operand("self")
    order = _order_by(op, keys)
    if order is None or op.has("weights"):
        mixes(f"{op.name} counts over the rows")
    if _descends(order.node):
        mixes(f"{op.name} counts in the opposite order of the list")
    chosen = _chosen(op, keys.node)
    if chosen is None:
        mixes(f"{op.name} of keys that are not known to be in its range")
    if op.name == "histc":
        low, high, largest = op.get("min"), op.get("max"), chosen[1] - 1
        if not low <= 0 or not high >= largest or not low < high:
            mixes(f"{op.name} may not count all keys: they reach from 0 to {largest}")
    return Ends(order, "counts")


def _order_by(op: Op, keys: Operand) -> Order | None:
    """The order that sorting these keys has made."""
    if isinstance(keys.claim, Packed):
        return keys.claim.order if keys.claim.role == "sorted" else None
    chosen = _chosen(op, keys.node)
    same = (order for order in op.orders if chosen is not None and _chosen(op, order.keys) == chosen)
    return next(same, None)


@rule("one_hot", accepts=[Packed])
def one_hot(op: Op) -> Claims:
    """A last dim is added; it must be known how long it is."""
    given = op.operand("self")
    if op.get("num_classes", -1) == -1:
        mixes("one_hot without num_classes is as long as the largest entry of all rows")
    if not isinstance(given.claim, Packed):
        return given.claim
    if given.claim.role in _PLACES:
        mixes("computes with places in a list of all rows")
    return dataclasses.replace(given.claim, role="value")


@rule("_grouped_mm transformers::grouped_mm_fallback", accepts=[Packed, Ends])
def grouped_product(op: Op) -> Claims:
    """Of a sorted list with a matrix per group; the groups' ends must be those of this list."""
    given, weight = op.operand(op.first("self", "input")), op.operand(op.first("mat2", "weight"))
    ends = op.operand("offs")
    if not weight.is_const or not op.operand("bias").is_const:
        mixes("the weights of experts come from rows")
    held = given.claim
    if not isinstance(held, Packed) or held.role != "value" or held.dim != 0 or weight.rank != 3:
        mixes("a product over groups of all rows")
    if ends.claim != Ends(held.order, "ends"):
        mixes("the groups of a product are not those of its list")
    return held


def take(target: Operand, index: Operand, dim: int) -> Claim:
    """What is at the places of a list; or, by the inverse, a list that is put back."""
    places, held = index.claim, target.claim
    assert isinstance(places, Packed)
    if index.rank != 1:
        mixes("places in a list of all rows are folded")
    if places.role == "inverse":
        known = isinstance(held, Packed) and held.order == places.order and held.role in ("value", "sorted")
        if not known or held.dim != dim:  # type: ignore[union-attr]  # known to be Packed
            mixes("a list is put back by the places of another")
        return places.order.rows.at(dim)
    if type(held) is not Rows or held.dim != dim or not _folded_alike(held, places.rows):
        mixes("a list picks from other rows than its own")
    return Packed(dim, places.order, places.order.rows)


def put_back(op: Op, target: Operand, index: Operand, source: Operand, dim: int) -> Claim:
    """The rows to whose places the entries of a list are added or copied."""
    places = index.claim
    assert isinstance(places, Packed)
    if places.role not in ("index", "index_part") or index.rank != 1:
        mixes(f"{op.name} at places from rows")
    whole = Packed(dim, places.order, places.order.rows)
    if not isinstance(source.claim, Packed) or source.claim.at(source.claim.dim + target.rank - source.rank) != whole:
        mixes(f"{op.name} puts back what is not the list of these places")
    adds = op.name in ("index_add", "index_reduce") or op.get("accumulate")
    if places.role == "index_part" and not adds:
        mixes(f"{op.name} of several entries to one place: which one stays depends on their order in the list")
    layout = places.rows.at(dim)
    if not isinstance(target.claim, Uniform) and agree(target.claim, layout) is None:
        mixes(f"{op.name} of a list into rows that it is not of")
    return layout


def inverse_by_writing(op: Op, target: Operand, index: Operand, values: Operand) -> Claim | None:
    """The inverse of an order: its entries' own numbers are written to the places in it. None: it is not that."""
    places, numbers = index.claim, values.claim
    if not isinstance(places, Packed) or not isinstance(numbers, Iota):
        return None
    counted = numbers.outer == 1 and numbers.step == 1
    full = target.rank == index.rank == 1 and equal(target.sizes[0], values.sizes[0])
    if places.role != "index" or not counted or not full or op.get("accumulate"):
        mixes("writes numbers to places in a list of all rows")
    return dataclasses.replace(places, role="inverse")


def _folded_alike(first: Rows, second: Rows) -> bool:
    return equal(first.outer, second.outer) and equal(first.inner, second.inner)


# What the keys are: numbers below a bound that is seen in the graph, and nothing has written to them since.

_AS_THEY_ARE = frozenset({
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute", "transpose", "t",
    "to", "_to_copy", "clone", "contiguous", "detach", "alias",
})  # fmt: skip


def _chosen(op: Op, node: Node | None) -> tuple[Node, int] | None:
    """The value that holds these entries first, which are numbers of places, and how many places there are."""
    assert node is not None
    exact = math.inf
    while not _is_written(op, node):
        exact = min(exact, _largest_exact(node.meta["val"].dtype))
        if node.target is operator.getitem:
            maker, place = node.args[0], node.args[1]
            assert isinstance(maker, Node)
            if _name(maker) == "sort" and place == 0:
                node = _tensor_of(maker)
                continue
            chooses = _name(maker) in ("topk", "sort", "max", "min") and place == 1
        elif _name(node) in _AS_THEY_ARE and node.target is not torch.ops.aten.view.dtype:
            node = _tensor_of(node)
            continue
        else:
            maker, chooses = node, _name(node) in ("argmax", "argmin", "argsort")
        count = _places(maker) if chooses else None
        return (node, count) if count is not None and count - 1 <= exact else None
    return None


def _places(maker: Node) -> int | None:
    """How many entries an operator chooses among; along one dim, since over all dims it gives one number of all."""
    size = size_of(_tensor_of(maker).meta["val"].shape[_argument(maker, "dim")])
    return int(size) if size.is_Integer else None


def _is_written(op: Op, node: Node) -> bool:
    """Whether anything of the graph writes to the memory of a value."""
    sharing = op.memory.sharing(node)
    if not any(other.target is torch.ops.aten.view.dtype for other in sharing):
        # Other dtypes are then those of other results of one operator: they have no memory in common.
        dtype = node.meta["val"].dtype
        sharing = [other for other in sharing if getattr(other.meta.get("val"), "dtype", dtype) == dtype]
    return any(_writes_to(user, other) for other in sharing for user in other.users)


def _writes_to(user: Node, node: Node) -> bool:
    if not isinstance(user.target, torch._ops.OpOverload):
        return False
    return any(
        argument.alias_info is not None and argument.alias_info.is_write and _argument(user, argument.name) is node
        for argument in user.target._schema.arguments
    )


def _largest_exact(dtype: torch.dtype) -> float:
    """The number up to which all whole numbers are values of a dtype."""
    if dtype == torch.bool:
        return 1
    return 2 / torch.finfo(dtype).eps if dtype.is_floating_point else torch.iinfo(dtype).max


def _name(node: Node) -> str:
    return node.target._schema.name.partition("::")[2] if isinstance(node.target, torch._ops.OpOverload) else ""


def _tensor_of(node: Node) -> Node:
    found = _argument(node, "self")
    assert isinstance(found, Node)
    return found


def _argument(node: Node, name: str) -> Any:
    """An argument by the schema's name; its default where it is not given."""
    assert isinstance(node.target, torch._ops.OpOverload)
    for place, argument in enumerate(node.target._schema.arguments):
        if argument.name == name:
            given = node.args[place] if place < len(node.args) else node.kwargs.get(name)
            return argument.default_value if given is None else given
    return None


def _descends(node: Node) -> bool:
    return bool(_argument(node, "descending"))
