"""The verdict over a graph, and the line of code that it names."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from torch.fx import Node

from torchpool.contract.rows.domain import Rows
from torchpool.contract.rows.verdict import Verdict, prove, source_of


def verdict(sketch: Sketch, inputs: dict[Node, int | None], *outputs: Node, **options: Any) -> Verdict:
    sketch.graph.output(tuple(outputs))
    return prove(sketch.graph, inputs, outputs, **options)[0]


def test_rows_that_do_not_meet_are_proven_with_their_layout() -> None:
    sketch = Sketch()
    x, shared = sketch.rows(3, 4), sketch.const(4)
    found = verdict(
        sketch, {x: 0, shared: None}, sketch.add(aten.add.Tensor, x, shared), sketch.add(aten.neg.default, shared)
    )
    assert found.proven
    assert found.outputs == (Rows(0), None)
    assert (found.ops, found.text) == (2, "rows proven independent (graph of 2 ops)")


def test_a_dim_of_several_entries_a_row_holds_them_one_behind_the_other() -> None:
    sketch = Sketch()
    x = sketch.const(3 * sketch.batch, 4)
    assert verdict(sketch, {x: 0}, sketch.add(aten.neg.default, x)).outputs == (Rows(0, 1, 3),)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (lambda sketch: sketch.batch + 1, "rows meet: the number of rows became s"),
        (lambda sketch: 4, "rows meet: the number of rows became 4"),
        (lambda sketch: sketch.batch * sketch.length(5), "rows meet: the number of rows became s"),
    ],
)
def test_a_dim_of_rows_must_be_free(size: Any, text: str) -> None:
    sketch = Sketch()
    x = sketch.const(size(sketch), 4)
    found = verdict(sketch, {x: 0}, x)
    assert found.text.startswith(text)
    assert (found.kind, found.op) == ("mixes", None)


def test_inputs_must_have_as_many_rows() -> None:
    sketch = Sketch()
    x, other = sketch.rows(4), sketch.const(sketch.length(9), 4)
    assert verdict(sketch, {x: 0, other: 0}, x).text == "rows may meet: the inputs have different numbers of rows"
    assert verdict(sketch, {x: 0, other: None}, x).proven


def test_some_input_must_have_rows() -> None:
    sketch = Sketch()
    x = sketch.const(4)
    assert verdict(sketch, {x: None}, x).text == "rows may meet: no input has rows"


def test_no_other_dim_of_an_input_is_as_long() -> None:
    sketch = Sketch()
    x, square = sketch.rows(4), sketch.const(sketch.batch, sketch.batch)
    found = verdict(sketch, {x: 0, square: 0}, x)
    assert found.text == "rows meet: dim 1 of an input must be as long as there are rows"


def test_what_is_given_out_must_be_rows() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    number = sketch.add(aten.arange.default, sketch.add(aten.sym_size.int, x, 0))
    found = verdict(sketch, {x: 0}, x, number)
    assert (found.kind, found.reason, found.op) == (
        "mixes",
        "the number of the row is given out",
        "aten.arange.default",
    )
    other = Sketch()
    x = other.rows(4)
    size = other.add(aten.sym_size.int, x, 0)
    found = verdict(other, {x: 0}, size)
    assert (found.kind, found.reason) == ("mixes", "the number of rows is given out")


def test_a_list_in_an_order_of_all_rows_is_not_given_out() -> None:
    sketch = Sketch()
    x = sketch.rows()
    found = verdict(sketch, {x: 0}, sketch.add(aten.argsort.default, x))
    assert found.kind == "mixes"
    assert "in an order that all rows decide" in str(found.reason)


def test_the_worst_of_several_reasons_is_told() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    mean, drawn = sketch.add(aten.mean.dim, x, [0]), sketch.add(aten.rand_like.default, x)
    assert verdict(sketch, {x: 0}, mean, drawn).kind == "random"
    written = prove(sketch.graph, {x: 0}, [mean, drawn], [("buffer 'count'", x)])[0]
    assert written.text == "has state: changes buffer 'count'"


def test_what_nothing_reads_may_mix() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    sketch.add(aten.mean.dim, x, [0])
    assert verdict(sketch, {x: 0}, x).proven


def test_the_line_is_the_innermost_of_the_users_code() -> None:
    node = Sketch().rows(4)
    assert source_of(node) is None
    frame = '  File "{}", line {}, in forward\n    {}\n'.format
    user = frame("/home/me/model.py", 29, "return x - x.mean(0)") + frame("/home/me/part.py", 3, "y = f(x)")
    inner = frame("/lib/torch/nn/functional.py", 7, "return torch.f(x)")
    ours = frame("/lib/torchpool/capture/rnn_op.py", 75, "states = initial()")
    node.meta["stack_trace"] = user + inner + ours
    assert source_of(node) == "part.py:3 `y = f(x)`"
    node.meta["stack_trace"] = inner
    assert source_of(node) == "functional.py:7 `return torch.f(x)`"
    node.meta["stack_trace"] = "nothing like it"
    assert source_of(node) is None
    node.meta["stack_trace"] = None
    assert source_of(node) is None


def test_the_operator_is_named_where_there_is_no_line() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    found = verdict(sketch, {x: 0}, sketch.add(aten.cumsum.default, x, 0))
    assert found.op == "aten.cumsum.default"
    assert found.text.endswith(" (aten.cumsum.default)")


def test_an_input_is_no_operator() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    found = prove(sketch.graph, {x: 0}, [x], [("an input 'x'", x)])[0]
    assert (found.kind, found.op, found.source) == ("state", None, None)
    assert torch.is_tensor(x.meta["val"])
