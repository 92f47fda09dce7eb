"""Norms, activations that have weights, and dropout."""

from __future__ import annotations

from torchpool.contract.rows.domain import (
    CONST,
    Claim,
    Claims,
    Ends,
    Iota,
    Mixes,
    Packed,
    Rows,
    Uniform,
    mixes,
    random,
)
from torchpool.contract.rows.layers import refuse_weights_from_rows, rows_of
from torchpool.contract.rows.op import Op
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal, product


@rule("layer_norm native_layer_norm rms_norm _fused_rms_norm")
def norm_of_last_dims(op: Op) -> Claims:
    """Over the last dims, as many as the shape that is given has."""
    refuse_weights_from_rows(op, "weight", "bias")
    given = op.operand("input")
    return op.each(rows_of(given, op, range(given.rank - len(op.get("normalized_shape")))))


@rule("group_norm")
def group_norm(op: Op) -> Claims:
    """Over all that belongs to an item and a group."""
    refuse_weights_from_rows(op, "weight", "bias")
    return rows_of(op.operand("input"), op, range(1))


@rule("native_group_norm", sizes=True)
def native_group_norm(op: Op) -> Claims:
    """As `group_norm`, given the sizes, which must be the input's own."""
    refuse_weights_from_rows(op, "weight", "bias")
    given = op.operand("input")
    stated = [op.size(op.get(name)) for name in ("N", "C", "HxW")]
    if not all(map(equal, stated, [*given.sizes[:2], product(given.sizes[2:])])):
        mixes("native_group_norm is given other sizes than its input's")
    if op.holds_rows(op.size(op.get("group"))):
        mixes("the number of groups comes from the number of rows")
    return op.each(rows_of(given, op, range(1)))


@rule("instance_norm")
def instance_norm(op: Op) -> Claims:
    """Over each item's channels; statistics that it keeps are those of all items."""
    refuse_weights_from_rows(op, "weight", "bias", "running_mean", "running_var")
    if op.get("use_input_stats") and op.has("running_mean"):
        raise Mixes("instance_norm in train mode updates its running statistics", "state")
    return rows_of(op.operand("input"), op, range(1))


@rule("""
    batch_norm native_batch_norm _native_batch_norm_legit cudnn_batch_norm _native_batch_norm_legit_no_training
    _batch_norm_no_update
""")
def batch_norm(op: Op) -> Claims:
    """In eval mode, where mean and variance are constants of each channel."""
    if op.get("training", False):
        mixes("batch_norm in train mode takes mean and variance over the batch")
    refuse_weights_from_rows(op, "weight", "bias", "running_mean", "running_var")
    if not op.has("running_mean") or not op.has("running_var"):
        mixes("batch_norm without running statistics takes mean and variance over the batch")
    layout = op.operand("input").claim
    assert isinstance(layout, Rows)
    if layout.dim == 1:
        mixes("the rows are the channels of batch_norm")
    if not isinstance(op.result, list | tuple):
        return layout
    statistics: list[Claim] = [CONST] * (len(op.result) - 1)
    return [layout, *statistics]


@rule("prelu")
def prelu(op: Op) -> Claims:
    """A slope for all, or one for each channel."""
    refuse_weights_from_rows(op, "weight")
    layout = op.operand("self").claim
    assert isinstance(layout, Rows)
    if layout.dim == 1 and not equal(product(op.operand("weight").sizes), 1):
        mixes("the rows are the channels of prelu")
    return layout


_ANY: tuple[type[Claim], ...] = (Iota, Packed, Ends, Uniform)


@rule("dropout feature_dropout alpha_dropout feature_alpha_dropout", accepts=_ANY)
def dropout(op: Op) -> Claims:
    """Nothing in eval mode."""
    if op.get("train") and op.get("p") != 0:
        random(f"{op.name} in train mode")
    return op.operand("input").claim


@rule("rrelu")
def rrelu(op: Op) -> Claims:
    """A leaky_relu in eval mode."""
    if op.get("training"):
        random("rrelu in train mode")
    return op.operand("self").claim
