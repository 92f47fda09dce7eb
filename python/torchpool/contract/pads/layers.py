"""Norms, convolutions and recurrent layers."""

from __future__ import annotations

from typing import Any

from torchpool.contract.pads.domain import Claims, Fill, Kept, Lost, Odd, Pad, loses
from torchpool.contract.pads.op import Op, Operand
from torchpool.contract.pads.products import is_zero
from torchpool.contract.pads.registry import rule


def _refuse_pads(op: Op, *names: str) -> None:
    for name in names:
        if op.operand(name).is_tensor and op.operand(name).kept.pads:
            loses(f"the {name} of {op.name} runs along the length")


def _apart(op: Op, given: Operand, dims: range) -> Kept:
    """Of an operator that keeps these dims apart and mixes all others; NaN of one entry makes NaN of these."""
    if any(pad.dim not in dims for pad in given.kept.pads):
        loses(f"{op.name} over the length counts padded places")
    held = given.kept
    if held.odd in ("finite", "nan"):
        return held.bare()
    return held.bare(odd="any", holes=frozenset(pad.dim for pad in held.pads))


@rule("layer_norm rms_norm")
def norm_of_last_dims(op: Op) -> Claims:
    """Over the last dims, as many as the shape that is given has."""
    _refuse_pads(op, "weight", "bias")
    given = op.operand("input")
    return _apart(op, given, range(given.rank - len(op.get("normalized_shape"))))


@rule("group_norm instance_norm")
def norm_of_planes(op: Op) -> Claims:
    """Over all that belongs to an item and a group, or a channel."""
    _refuse_pads(op, "weight", "bias")
    return _apart(op, op.operand("input"), range(1))


@rule("batch_norm _batch_norm_no_update cudnn_batch_norm")
def batch_norm(op: Op) -> Claims:
    """In eval mode, where each entry is computed on its own."""
    if op.get("training") or not op.has("running_mean") or not op.has("running_var"):
        loses("batch_norm in train mode counts padded places")
    _refuse_pads(op, "weight", "bias", "running_mean", "running_var")
    if isinstance(op.result, list | tuple):
        loses(f"{op.name} gives more than values")
    given = op.operand("input")
    return _apart(op, given, range(given.rank) if given.kept.pad(1) is None else range(0))


@rule("conv1d conv2d conv3d")
def convolution(op: Op) -> Claims:
    """Along the length in steps of 1, where windows see no padded place, or 0 in them as behind the end."""
    _refuse_pads(op, "weight", "bias")
    given, weight = op.operand("input"), op.operand("weight")
    batched = given.rank == weight.rank
    first = 2 if batched else 1
    pads = []
    for pad in given.kept.pads:
        if pad.dim >= first:
            pads.append(_windows(op, given, pad, pad.dim - first, weight))
        elif batched and pad.dim == 0:
            pads.append(pad.holding(None))
        else:
            loses("the padded places are the channels of a convolution")
    odd: Odd = "finite" if given.kept.odd == "finite" else "any"
    return Kept(tuple(pads), odd=odd, holes=frozenset(pad.dim for pad in pads) if odd == "any" else frozenset())


def _windows(op: Op, given: Operand, pad: Pad, place: int, weight: Operand) -> Pad:
    stride, dilation = (_at(op.get(name), place) for name in ("stride", "dilation"))
    reach = dilation * (int(weight.value.shape[place + 2]) - 1)
    if op.get("padding") == "same":
        around = reach
    else:
        around = 0 if op.get("padding") == "valid" else 2 * _at(op.get("padding"), place)
    if stride != 1:
        loses(f"{op.name} along the length in steps of {stride}")
    if not pad.plain:
        loses(f"{op.name} along places that are folded with others")
    if around and not (is_zero(pad, given.kept) and given.kept.odd == "finite"):
        loses(f"{op.name} along the length: windows at the end see padded places, which are not 0")
    if around > 2 * reach:
        loses(f"{op.name} along the length gives places behind the end")
    return Pad(pad.dim, extra=pad.extra + around - reach)


def _at(value: Any, place: int) -> int:
    found = value if isinstance(value, int) else value[place] if len(value) > 1 else value[0]
    if not isinstance(found, int):
        loses("a convolution whose sizes are computed")
    return found


_LAYERS = "lstm gru rnn_tanh rnn_relu"


@rule(_LAYERS, *(f"torchpool::{name}" for name in _LAYERS.split()))
def recurrent(op: Op) -> Claims:
    """Runs from the first place on: what is kept is computed before what is padded. Last states come after that."""
    if op.has("batch_sizes"):
        loses("packed sequences are not followed")
    given = op.operand("input")
    states = op.operands("hx") if isinstance(op.get("hx"), list | tuple) else [op.operand("hx")]
    if any(of.kept.pads for of in (*states, *op.operands("params"))):
        loses(f"states or weights of {op.name} run along the length")
    time = 1 if op.get("batch_first") else 0
    over = given.kept.pad(time)
    if any(pad.dim not in (0, 1) for pad in given.kept.pads):
        loses("the padded places are the features of a recurrent layer")
    if given.kept.odd != "finite":
        loses(f"{op.name} over what may be infinite or NaN")
    found = given.kept.bare()
    if over is None:
        if given.kept.pads:
            loses(f"states of {op.name} run along the length")
        return op.each(found)
    if op.get("bidirectional"):
        loses(f"{op.name} also runs backwards, from padded places to those that are kept")
    if not over.plain or len(given.kept.pads) > 1:
        loses(f"{op.name} along places that are folded with others")
    last = Lost(f"the last state of {op.name} is that after the padded places", op.node)
    return [found, *[last] * (len(op.result) - 1)]


@rule("torchpool::rnn")
def kernel(op: Op) -> Claims:
    """Our own, over rows that end at their own lengths: behind these the output is 0, and they have the last states."""
    given = op.operand("input")
    if any(op.operand(name).kept.pads for name in ("hidden", "cell", "packed", "lengths") if op.has(name)):
        loses("states, weights or lengths of a packed sequence run along the length")
    if given.kept.odd != "finite":
        loses("a recurrent layer over what may be infinite or NaN")
    over = given.kept.pad(1 if op.get("batch_first") else 0)
    if over is None:
        if given.kept.pads:
            loses("the padded places are no steps of a packed sequence")
        return op.each(Kept())
    if not op.has("lengths") or not over.plain or len(given.kept.pads) > 1 or over.extra != 0:
        loses("steps of a packed sequence that are folded with others, or more or less than the length")
    op.conditions.append(("the lengths of packed sequences say how long a call's rows are: none is longer", op.node))
    return [Kept((over.holding(Fill(0)),)), *[Kept()] * (len(op.result) - 1)]
