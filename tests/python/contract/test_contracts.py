"""Which calls share a batch: every layout of inputs, values beside the tensors, and every structure of results."""

from __future__ import annotations

import dataclasses
import enum
from collections import OrderedDict, namedtuple
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from bad_models import Switched, batches_together, outcome, together
from support import assert_close, build, draw, draws, eager, run_threads
from torch import nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

import torchpool

Tensor = torch.Tensor


# --- where the rows are -----------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.lstm(x, state)


def _state(seed: int, rows: int = 1) -> tuple[Tensor, Tensor]:
    return draw(1, rows, 6, seed=seed), draw(1, rows, 6, seed=seed + 100)


def test_lstm_states_have_their_rows_in_dim_1(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Recurrent), example=(draw(1, 5, 4), _state(0)), runtime=runtime)
    calls = [(draw(1, 5, 4, seed=i), _state(i)) for i in range(6)]
    assert batches_together(predict, runtime, calls) == 1
    contract = predict.explain().contracts[0]
    assert [(spec.name, spec.batch_dim) for spec in contract.inputs] == [("x", 0), ("state[0]", 1), ("state[1]", 1)]
    assert [spec.batch_dim for spec in contract.outputs] == [0, 1, 1]


def test_lstm_states_of_calls_with_several_rows(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Recurrent), example=(draw(1, 5, 4), _state(0)), runtime=runtime)
    calls = [(draw(rows, 5, 4, seed=rows), _state(rows, rows)) for rows in (1, 3, 2)]
    assert batches_together(predict, runtime, calls) == 1


def test_lstm_states_thread_through_a_loop_of_calls(runtime: torchpool.Runtime) -> None:
    model = build(Recurrent)
    predict = torchpool.wrap(model, example=(draw(1, 1, 4), _state(0)), runtime=runtime)

    def work(number: int) -> None:
        ours = theirs = _state(number)
        for x in draws(10, 1, 1, 4):
            y, ours = predict(x, ours)
            expected, theirs = eager(model, x, theirs)
            assert_close(y, expected)

    run_threads(8, work)


class Table(nn.Module):
    """Rows [B, 64] times a table [64, 32] that all rows share."""

    def forward(self, x: Tensor, table: Tensor) -> Tensor:
        return x @ table


@pytest.fixture
def table(runtime: torchpool.Runtime) -> torchpool.Predictor:
    example = draw(1, 64), draw(64, 32)
    return torchpool.wrap(Table().eval(), example=example, batch={"x": 0, "table": None}, runtime=runtime)


def test_calls_with_the_same_shared_input_merge(table: torchpool.Predictor, runtime: torchpool.Runtime) -> None:
    shared = draw(64, 32, seed=1)
    assert batches_together(table, runtime, [(x, shared) for x in draws(6, 1, 64)]) == 1


def test_calls_with_equal_shared_inputs_merge(table: torchpool.Predictor, runtime: torchpool.Runtime) -> None:
    assert batches_together(table, runtime, [(x, draw(64, 32, seed=1)) for x in draws(6, 1, 64)]) == 1


def test_calls_with_different_shared_inputs_do_not_mix(table: torchpool.Predictor, runtime: torchpool.Runtime) -> None:
    calls = [(x, draw(64, 32, seed=i % 3)) for i, x in enumerate(draws(9, 1, 64))]
    assert batches_together(table, runtime, calls) == 3


def test_a_shared_input_whose_memory_is_used_again_does_not_mix(table: torchpool.Predictor) -> None:
    x = draw(1, 64)
    futures = [table.submit(x, torch.full((64, 32), float(i))) for i in range(40)]
    for i, future in enumerate(futures):
        assert_close(future.result(), eager(Table(), x, torch.full((64, 32), float(i))))


def test_a_shared_input_written_through_numpy_between_calls_does_not_mix(table: torchpool.Predictor) -> None:
    x, shared = draw(1, 64), torch.zeros(64, 32)
    futures = []
    for i in range(8):
        shared.numpy()[:] = i
        futures.append(table.submit(x, shared))
    for i, future in enumerate(futures):
        assert_close(future.result(), eager(Table(), x, torch.full((64, 32), float(i))))


def test_shared_views_of_the_same_memory_do_not_mix(table: torchpool.Predictor, runtime: torchpool.Runtime) -> None:
    square = draw(64, 64)
    views = [square[:, :32], square[:, 32:], square.T[:, :32], square[:32].T, square[:1, :32].expand(64, 32)]
    calls = [(x, view) for x in draws(3, 1, 64) for view in views]
    assert batches_together(table, runtime, calls) == 4  # the third and the fourth are the same view


def test_threads_with_shared_inputs_of_their_own_do_not_mix(table: torchpool.Predictor) -> None:
    def work(number: int) -> None:
        for step, x in enumerate(draws(20, 1, 64)):
            shared = draw(64, 32, seed=number % 3 + step % 2)
            assert_close(table(x, shared), eager(Table(), x, shared))

    run_threads(8, work)


def test_calls_without_a_batch_dim_are_stacked(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(lambda: nn.Linear(10, 3)), example=draw(10), runtime=runtime)
    assert predict.explain().contracts[0].inputs[0].stacked
    assert batches_together(predict, runtime, [(x,) for x in draws(6, 10)]) == 1


def test_calls_with_and_without_a_batch_dim_alternate(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(lambda: nn.Linear(10, 3)), runtime=runtime)
    calls = [(draw(10, seed=i) if i % 2 else draw(2, 10, seed=i),) for i in range(8)]
    assert batches_together(predict, runtime, calls) == 2


class Tempered(nn.Module):
    def forward(self, x: Tensor, temperature: Tensor) -> Tensor:
        return x / temperature


def test_scalar_tensors_are_shared_by_equal_calls_and_do_not_mix(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Tempered().eval(), example=(draw(1, 4), torch.tensor(2.0)), runtime=runtime)
    calls = [(x, torch.tensor(1.0 + i % 3)) for i, x in enumerate(draws(9, 1, 4))]
    assert batches_together(predict, runtime, calls) == 3


def test_scalar_tensors_beside_single_rows_do_not_mix(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Tempered().eval(), example=(draw(4), torch.tensor(2.0)), runtime=runtime)
    calls = [(x, torch.tensor(1.0 + i % 3)) for i, x in enumerate(draws(9, 4))]
    assert batches_together(predict, runtime, calls) == 3


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int32, torch.bool, torch.cfloat])
def test_inputs_of_any_dtype_merge(dtype: torch.dtype, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(nn.Flatten().eval(), example=(draw(1, 2, 3) > 0).to(dtype), runtime=runtime)
    assert batches_together(predict, runtime, [((x > 0).to(dtype),) for x in draws(5, 1, 2, 3)]) == 1


class Starred(nn.Module):
    def forward(self, *xs: Tensor, **named: Tensor) -> Tensor:
        return sum(xs) + sum(named.values())


def test_a_model_that_takes_any_arguments(runtime: torchpool.Runtime) -> None:
    model = Starred().eval()
    predict = torchpool.wrap(model, example=(draw(1, 4), draw(1, 4)), runtime=runtime)
    assert batches_together(predict, runtime, [(x, x + 1) for x in draws(5, 1, 4)]) == 1
    x, y = draws(2, 1, 4)
    assert_close(predict(x, b=y, a=x), eager(model, x, b=y, a=x))


# --- values beside the tensors ----------------------------------------------------------------------------------------


class Mode(enum.Enum):
    ONE = 1
    TWO = 2


VALUES: dict[str, tuple[Any, Any]] = {
    "bool": (True, False),
    "int": (1, 2),
    "int or float or bool": (1, True),
    "float": (0.5, 1.5),
    "str": ("relu", "tanh"),
    "None": (None, True),
    "dtype": (torch.float64, torch.float32),
    "enum": (Mode.ONE, Mode.TWO),
}


@pytest.mark.parametrize("kind", VALUES)
def test_calls_merge_only_with_equal_values(kind: str, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Switched), runtime=runtime)
    values = VALUES[kind]
    for value in values:
        predict(draw(1, 4), value)  # learned from
    calls = [(x, values[i % 2]) for i, x in enumerate(draws(8, 1, 4))]
    assert batches_together(predict, runtime, calls) == 2
    assert all(contract.mode == "merge" for contract in predict.explain().contracts)


@pytest.mark.parametrize("kind", VALUES)
def test_threads_that_alternate_values_get_their_own_results(kind: str) -> None:
    model = build(Switched)
    predict = torchpool.wrap(model)
    values = VALUES[kind]

    def work(number: int) -> None:
        for i, x in enumerate(draws(12, 1, 4)):
            how = values[(i + number) % 2]
            assert_close(predict(x, how=how), eager(model, x, how=how))

    run_threads(4, work)


def test_values_by_position_and_by_keyword_give_the_same(runtime: torchpool.Runtime) -> None:
    model = build(Switched)
    predict = torchpool.wrap(model, example={"x": draw(1, 4), "how": "relu"}, runtime=runtime)
    x = draw(1, 4, seed=1)
    expected = eager(model, x, "relu", 2.0)
    for result in (predict(x, "relu", 2.0), predict(x, how="relu", scale=2.0), predict(scale=2.0, how="relu", x=x)):
        assert_close(result, expected)


def test_a_new_value_in_every_call_does_not_grow_for_ever(runtime: torchpool.Runtime) -> None:
    model = build(Switched)
    predict = torchpool.wrap(model, runtime=runtime)
    x = draw(1, 4)
    for value in range(100):
        assert_close(predict(x, value), eager(model, x, value))
    batches_together(predict, runtime, [(x, value) for value in range(60, 90)])
    assert len(predict.explain().contracts) == 64
    assert "64 kinds of calls were learned, which is the limit" in str(predict.explain())


def test_a_value_that_cannot_be_compared_runs_alone_and_is_explained(runtime: torchpool.Runtime) -> None:
    class Select(nn.Module):
        def forward(self, x: Tensor, where: slice) -> Tensor:
            return x[:, where] * 2

    predict = torchpool.wrap(Select().eval(), runtime=runtime)
    batches_together(predict, runtime, [(x, slice(i % 3, 4)) for i, x in enumerate(draws(6, 1, 4))])
    assert "argument 'where' is of type slice" in str(predict.explain())


def test_a_model_that_takes_a_slice_raises_its_own_error_for_bad_values() -> None:
    class Select(nn.Module):
        def forward(self, ids: Tensor, where: slice) -> Tensor:
            return torch.arange(5.0)[ids][:, where]

    predict = torchpool.wrap(Select().eval())
    predict(torch.tensor([[1, 2]]), slice(0, 1))
    predict(torch.tensor([[1, 2]]), 0)
    with pytest.raises(IndexError, match="index 9 is out of bounds"):
        predict(torch.tensor([[9, 2]]), slice(0, 1))


# --- nested arguments -------------------------------------------------------------------------------------------------


class Nested(nn.Module):
    def forward(self, batch: dict[str, Any], *, extra: list[Tensor] | None = None) -> Tensor:
        total = batch["a"] + 2 * batch["more"][0] + 3 * batch["more"][1]["b"]
        return total if extra is None else total + sum(extra)


def _nested(seed: int) -> dict[str, Any]:
    a, b, c = draws(3, 1, 4)
    return {"a": a + seed, "more": (b * seed, {"b": c})}


def test_tensors_inside_dicts_and_tuples_merge(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Nested().eval(), example=(_nested(0),), runtime=runtime)
    assert batches_together(predict, runtime, [(_nested(i),) for i in range(5)]) == 1
    assert [spec.name for spec in predict.explain().contracts[0].inputs] == [
        "batch[a]",
        "batch[more][0]",
        "batch[more][1][b]",
    ]


def test_an_optional_list_of_tensors_makes_another_kind_of_call(runtime: torchpool.Runtime) -> None:
    model = Nested().eval()
    predict = torchpool.wrap(model, example=(_nested(0),), runtime=runtime)
    for extra in (None, [draw(1, 4)], [draw(1, 4), draw(1, 4, seed=2)], []):
        assert_close(predict(_nested(1), extra=extra), eager(model, _nested(1), extra=extra))


def test_a_dict_with_its_keys_in_another_order_gives_the_same(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Nested().eval(), example=(_nested(0),), runtime=runtime)
    calls = [(dict(reversed(_nested(i).items())) if i % 2 else _nested(i),) for i in range(6)]
    assert batches_together(predict, runtime, calls) == 2  # a kind of call of its own: the model may see the order


# --- structures of results --------------------------------------------------------------------------------------------

Pair = namedtuple("Pair", ["first", "second"])


class Typed(NamedTuple):
    scores: Tensor
    label: str


@dataclasses.dataclass
class Record:
    scores: Tensor
    hidden: list[Tensor]
    name: str = "fixed"


@dataclasses.dataclass(frozen=True)
class Frozen:
    scores: Tensor


RESULTS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y, y + 1),
    "one-tuple": lambda y: (y,),
    "list": lambda y: [y, y * 2],
    "dict": lambda y: {"b": y, "a": y.sum(1)},
    "ordered dict": lambda y: OrderedDict(b=y, a=-y),
    "nested": lambda y: {"x": (y, [y + 1, {"z": y.argmax(1)}])},
    "namedtuple": lambda y: Pair(y, y + 1),
    "typed namedtuple": lambda y: Typed(y, "fixed"),
    "dataclass": lambda y: Record(y, [y + 1, y + 2]),
    "frozen dataclass": lambda y: Frozen(y),
    "model output": lambda y: BaseModelOutputWithPooling(last_hidden_state=y, pooler_output=y.sum(1)),
    "torch.return_types": lambda y: y.max(1),
    "with None and constants": lambda y: (y, None, 3, "text", torch.float32),
    "the same tensor twice": lambda y: (y, y),
    "an integer per row": lambda y: y.argmax(1),
    "a bool per row": lambda y: y[:, 0] > 0,
    "a constant tensor": lambda y: (y, torch.arange(3)),
    "complex": lambda y: torch.complex(y, y + 1),
    "bfloat16": lambda y: y.to(torch.bfloat16),
}


class Shaped(nn.Module):
    def __init__(self, shape: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.shape = nn.Linear(4, 3), shape

    def forward(self, x: Tensor) -> Any:
        return self.shape(self.linear(x))


@pytest.mark.parametrize("kind", RESULTS)
def test_results_keep_their_structure(kind: str, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(lambda: Shaped(RESULTS[kind])), example=draw(1, 4), runtime=runtime)
    calls = [(draw(1 + i % 2, 4, seed=i),) for i in range(5)]  # 7 rows: a slow machine begins with 8
    assert batches_together(predict, runtime, calls) == 1


VALUES_OF_ROWS: dict[str, Callable[[Tensor], Any]] = {
    "float": lambda y: float(y.sum()),
    "label": lambda y: "positive" if y.sum() > 0 else "negative",
    "list of floats": lambda y: y.sum(1).tolist(),
    "dict of values": lambda y: {"score": y.max().item(), "shape": tuple(y.shape)},
    "None": lambda y: None,
    "a value beside a tensor": lambda y: (y, float(y.sum())),
}


@pytest.mark.parametrize("kind", VALUES_OF_ROWS)
def test_python_values_come_from_a_run_of_their_own(kind: str, runtime: torchpool.Runtime) -> None:
    model = build(lambda: Shaped(VALUES_OF_ROWS[kind]))
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    calls = [(draw(2, 4, seed=i),) for i in range(4)]
    for call, result in zip(calls, together(predict, runtime, calls), strict=True):
        assert repr(result) == repr(outcome(model, *call))
    assert predict.explain().contracts[0].mode == "alone"


def test_an_array_result_comes_from_a_run_of_its_own(runtime: torchpool.Runtime) -> None:
    model = build(lambda: Shaped(lambda y: y.numpy()))
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    for x in draws(3, 2, 4):
        assert (predict.submit(x).result() == eager(model, x)).all()
    assert "output 'output' is a ndarray" in str(predict.explain())
