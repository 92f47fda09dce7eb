"""Recurrent layers and cells."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten

from torchpool.capture import rnn_op
from torchpool.contract.rows.domain import CONST, Rows, Same

STATES = {"lstm": 2, "gru": 1, "rnn_tanh": 1, "rnn_relu": 1}
GATES = {"lstm": 4, "gru": 3, "rnn_tanh": 1, "rnn_relu": 1}


def _layer(
    sketch: Sketch, name: str, x: Any, states: list[Any], weights: Any = None, flags: Any = None, target: Any = None
) -> Any:
    """A layer of 5 features and 6 units, as many as there are in `x` and the states."""
    gates = GATES[name] * 6
    shapes = [(gates, 5), (gates, 6), (gates,), (gates,)]
    weights = weights or [sketch.const(*shape) for shape in shapes]
    hx = states if STATES[name] == 2 else states[0]
    target = target or getattr(aten, name).input
    return sketch.claim(target, x, hx, weights, *(flags or [True, 1, 0.0, False, False, True]))


def _why(found: Any) -> str:
    return f"{found.kind}: {found.why}"


@pytest.mark.parametrize("name", STATES)
def test_rows_of_a_recurrent_layer_are_its_batch(name: str) -> None:
    sketch = Sketch()
    states = [sketch.rows(1, 6, dim=1) for _ in range(STATES[name])]
    found = _layer(sketch, name, sketch.rows(9, 5), states)
    assert found == [Rows(0), *[Rows(1)] * STATES[name]]
    steps_first = [True, 1, 0.0, False, False, False]
    found = _layer(sketch, name, sketch.rows(9, 5, dim=1), states, flags=steps_first)
    assert found == [Rows(1), *[Rows(1)] * STATES[name]]
    along = f"mixes: {name} along the rows"
    assert _why(_layer(sketch, name, sketch.rows(1, 5, dim=1), states[:1] * STATES[name], flags=None)) == along


@pytest.mark.parametrize("name", STATES)
def test_our_own_operators_have_the_rule_of_atens(name: str) -> None:
    sketch = Sketch()
    states = [sketch.rows(1, 6, dim=1) for _ in range(STATES[name])]
    found = _layer(sketch, name, sketch.rows(9, 5), states, target=rnn_op._define(name))
    assert found == [Rows(0), *[Rows(1)] * STATES[name]]


def test_states_are_aligned_with_the_rows() -> None:
    sketch = Sketch()
    state, x = sketch.rows(1, 6, dim=1), sketch.rows(9, 5)
    assert _why(_layer(sketch, "lstm", x, [state, sketch.const(1, 7, 6)])) == "mixes: lstm along the rows"
    folded = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 9, 5)
    same = sketch.claimed(Same(1, 2), 1, sketch.batch * 2, 6)
    other = sketch.claimed(Rows(1, outer=2), 1, sketch.batch * 2, 6)
    assert _layer(sketch, "lstm", folded, [same, same]) == [Rows(0, inner=2), *[Rows(1, inner=2)] * 2]
    apart = "mixes: a state of lstm is not aligned with the rows"
    assert _why(_layer(sketch, "lstm", folded, [other, same])) == apart
    assert _why(_layer(sketch, "lstm", folded, [same, other])) == apart


def test_weights_of_a_layer_from_rows_are_refused() -> None:
    sketch = Sketch()
    weights = [sketch.const(24, 5), sketch.const(24, 6), sketch.const(24), sketch.rows()]
    states = [sketch.rows(1, 6, dim=1)] * 2
    found = sketch.refusal_like(aten.lstm.input, sketch.rows(9, 5), states, weights, True, 1, 0.0, False, False, True)
    assert found == "mixes: weights of lstm come from rows"


@pytest.mark.parametrize("batched", [False, True])
def test_dropout_between_layers_is_drawn_in_train_mode(batched: bool) -> None:
    sketch = Sketch()
    x = sketch.rows(9, 5) if batched else sketch.const(2, 9, 5)
    states = [sketch.rows(2, 6, dim=1) if batched else sketch.const(2, 2, 6) for _ in range(2)]
    first = [(24, 5), (24, 6), (24,), (24,)]
    weights = [sketch.const(*shape) for shape in [*first, (24, 6), *first[1:]]]

    def flags(layers: int, dropout: float, train: bool) -> list[Any]:
        return [True, layers, dropout, train, False, True]

    expected = [Rows(0), Rows(1), Rows(1)] if batched else [CONST] * 3
    assert _layer(sketch, "lstm", x, states, weights, flags(2, 0.5, False)) == expected
    assert _layer(sketch, "lstm", x, states, weights, flags(2, 0.0, True)) == expected
    drawn = sketch.refusal_like(aten.lstm.input, x, states, weights, *flags(2, 0.5, True))
    assert drawn == "random: lstm drops out between its layers in train mode"
    one = [sketch.rows(1, 6, dim=1) if batched else sketch.const(1, 2, 6) for _ in range(2)]
    assert _layer(sketch, "lstm", x, one, weights[:4], flags(1, 0.5, True)) == expected


def test_packed_sequences_are_refused() -> None:
    sketch = Sketch()
    weights = [sketch.const(24, 5), sketch.const(24, 6), sketch.const(24), sketch.const(24)]
    sizes, states = sketch.const(9, dtype=torch.int64), [sketch.rows(1, 6, dim=1)] * 2
    found = sketch.refusal_like(aten.lstm.data, sketch.rows(5), sizes, states, weights, True, 1, 0.0, False, False)
    assert found == "mixes: packed sequences: all rows decide together where a row's steps are"


def _kernel(sketch: Sketch, x: Any, hidden: Any = None, cell: Any = None, lengths: Any = None, **options: Any) -> Any:
    packed = options.get("packed") or sketch.const(100)
    flags = ("lstm", 6, 1, False, options.get("batch_first", True), True)
    return sketch.claim(torch.ops.torchpool.rnn.default, x, hidden, cell, packed, lengths, *flags)


def test_our_kernel_keeps_rows_with_their_states_and_lengths() -> None:
    sketch = Sketch()
    state = sketch.rows(1, 6, dim=1)
    lengths = sketch.rows(dtype=torch.int64)
    expected = [Rows(0), Rows(1), Rows(1)]
    assert _kernel(sketch, sketch.rows(9, 5)) == expected
    assert _kernel(sketch, sketch.rows(9, 5), state, state, lengths) == expected
    first = _kernel(sketch, sketch.rows(9, 5, dim=1), state, state, lengths, batch_first=False)
    assert first == [Rows(1), Rows(1), Rows(1)]


def test_our_kernel_along_the_rows_is_refused() -> None:
    sketch = Sketch()
    x, state, lengths = sketch.rows(9, 5), sketch.rows(1, 6, dim=1), sketch.rows(dtype=torch.int64)
    shared = sketch.const(7, dtype=torch.int64)
    refused = [
        _kernel(sketch, sketch.rows(1, 5, dim=1)),
        _kernel(sketch, x, sketch.const(1, 7, 6)),
        _kernel(sketch, x, state, sketch.const(1, 7, 6)),
        _kernel(sketch, x, state, state, shared),
        _kernel(sketch, sketch.const(7, 9, 5), state, state, lengths),
    ]
    for found in refused:
        assert _why(found) == "mixes: torchpool::rnn along the rows"
    apart = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, dtype=torch.int64)
    folded = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 9, 5)
    assert "is not aligned with the rows" in _why(_kernel(sketch, folded, None, None, apart))
    assert _why(_kernel(sketch, x, packed=sketch.rows())) == "mixes: weights of a recurrent layer come from rows"


@pytest.mark.parametrize("name", STATES)
def test_cells(name: str) -> None:
    sketch = Sketch()
    gates = GATES[name] * 6
    weights = [sketch.const(gates, 5), sketch.const(gates, 6), sketch.const(gates), sketch.const(gates)]
    target = getattr(aten, f"{name}_cell").default
    x, state = sketch.rows(5), sketch.rows(6)
    hx = [state, state] if STATES[name] == 2 else state
    results = [Rows(0), Rows(0)] if STATES[name] == 2 else Rows(0)
    assert sketch.claim(target, x, hx, *weights) == results
    along = f"mixes: {name}_cell along the rows"
    late = sketch.rows(5, dim=1)
    assert sketch.refusal_like(target, late, hx, *weights) == along
    wrong = sketch.const(7, 6)
    assert sketch.refusal_like(target, x, [state, wrong] if STATES[name] == 2 else wrong, *weights) == along


@pytest.mark.parametrize("place", ["w_ih", "w_hh", "b_ih", "b_hh"])
def test_weights_of_a_cell_from_rows_are_refused(place: str) -> None:
    sketch = Sketch()
    shapes = {"w_ih": (6, 5), "w_hh": (6, 6), "b_ih": (6,), "b_hh": (6,)}
    weights = [sketch.rows() if name == place else sketch.const(*shape) for name, shape in shapes.items()]
    found = sketch.refusal_like(aten.rnn_tanh_cell.default, sketch.rows(5), sketch.rows(6), *weights)
    assert found == f"mixes: the {place} of rnn_tanh_cell comes from rows"
