"""Recurrent layers and cells."""

from __future__ import annotations

from collections.abc import Iterable

from torchpool.contract.rows.domain import CONST, Claims, Const, Rows, agree, mixes, random
from torchpool.contract.rows.layers import refuse_weights_from_rows
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule

_LAYERS = "lstm gru rnn_tanh rnn_relu"


@rule(_LAYERS, *(f"torchpool::{name}" for name in _LAYERS.split()))
def recurrent(op: Op) -> Claims:
    """Runs along the times of each row. States have the rows in their second dim."""
    if op.get("train") and op.get("dropout") and op.get("num_layers") > 1:
        random(f"{op.name} drops out between its layers in train mode")
    if op.has("batch_sizes"):
        mixes("packed sequences: all rows decide together where a row's steps are")
    if any(not weight.is_const for weight in op.operands("params")):
        mixes(f"weights of {op.name} come from rows")
    given, states = op.operand("input"), _states(op)
    if all(isinstance(operand.claim, Const) for operand in (given, *states)):
        return op.each(CONST)
    batch = 0 if op.get("batch_first") else 1
    layout = _aligned(op, [(given, batch), *((state, 1) for state in states)])
    return [layout.at(batch), *[layout.at(1)] * len(states)]


@rule("torchpool::rnn")
def kernel(op: Op) -> Claims:
    """Our own: a row ends at its own length, and begins with its own states."""
    if not op.operand("packed").is_const:
        mixes("weights of a recurrent layer come from rows")
    batch = 0 if op.get("batch_first") else 1
    places = {"input": batch, "hidden": 1, "cell": 1, "lengths": 0}
    operands = [(op.operand(name), dim) for name, dim in places.items() if op.has(name)]
    layout = _aligned(op, operands)
    return [layout.at(batch), *[layout.at(1)] * (len(op.result) - 1)]


@rule("lstm_cell gru_cell rnn_tanh_cell rnn_relu_cell")
def cell(op: Op) -> Claims:
    """One step of each row."""
    refuse_weights_from_rows(op, "w_ih", "w_hh", "b_ih", "b_hh")
    given, states = op.operand("input"), _states(op)
    return op.each(_aligned(op, [(operand, operand.rank - 2) for operand in (given, *states)]).at(0))


def _states(op: Op) -> list[Operand]:
    return op.operands("hx") if isinstance(op.get("hx"), list | tuple) else [op.operand("hx")]


def _aligned(op: Op, operands: Iterable[tuple[Operand, int]]) -> Rows:
    """The layout of operands that have the rows in the dims beside them."""
    layout: Rows | None = None
    for operand, dim in operands:
        if not isinstance(operand.claim, Rows) or operand.claim.dim != dim:
            mixes(f"{op.name} along the rows")
        here = operand.claim.at(0)
        both = here if layout is None else agree(layout, here)
        if not isinstance(both, Rows):
            mixes(f"a state of {op.name} is not aligned with the rows")
        layout = both
    assert layout is not None
    return layout
