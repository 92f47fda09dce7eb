"""A call's result is the model's own, whoever calls and however many."""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
import warnings
from typing import Any, NamedTuple

import pytest
import torch
from support import (
    HANG,
    MARK,
    POISON,
    GateModule,
    LSTMClassifier,
    MarkerModule,
    SimpleCNN,
    assert_all_close,
    assert_close,
    build,
    draw,
    draws,
    eager,
    row,
    run_threads,
)
from torch import nn

import torchpool


class Pair(NamedTuple):
    scores: torch.Tensor
    doubled: torch.Tensor


@dataclasses.dataclass
class Record:
    scores: torch.Tensor
    label: str


class Shaped(nn.Module):
    """A linear layer whose output comes in the form that `shape` gives it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.shape: Any = lambda y: y

    def forward(self, x: torch.Tensor) -> Any:
        return self.shape(self.linear(x))


SHAPES = {
    "tensor": lambda y: y,
    "tuple": lambda y: (y, y * 2),
    "list": lambda y: [y, y * 2],
    "dict": lambda y: {"scores": y, "labels": y.argmax(-1)},
    "namedtuple": lambda y: Pair(y, y * 2),
    "dataclass": lambda y: Record(y, "scores"),
    "nested": lambda y: {"both": (y, [y * 2]), "none": None},
    "integers": lambda y: (y * 100).long(),
    "booleans": lambda y: y > 0,
}


@pytest.mark.graphs
@pytest.mark.parametrize("threads", [1, 64])
@pytest.mark.parametrize(
    ("model", "shape", "count"), [(LSTMClassifier, (1, 50, 10), 8), (SimpleCNN, (1, 1, 28, 28), 2)]
)
def test_results_are_the_models_own_from_any_number_of_threads(
    model: type[nn.Module], shape: tuple[int, ...], count: int, threads: int
) -> None:
    module = build(model)
    predict = torchpool.wrap(module)
    inputs = draws(threads * count, *shape)
    results = run_threads(threads, lambda number: [predict(x) for x in inputs[number::threads]])
    for number in range(threads):
        assert_all_close(results[number], (eager(module, x) for x in inputs[number::threads]))


@pytest.mark.parametrize("form", SHAPES)
@pytest.mark.parametrize("threads", [1, 16])
def test_results_have_the_models_own_type(form: str, threads: int) -> None:
    module = build(Shaped)
    module.shape = SHAPES[form]
    predict = torchpool.wrap(module)
    inputs = draws(threads * 4, 1, 4)
    results = run_threads(threads, lambda number: [predict(x) for x in inputs[number::threads]])
    for number in range(threads):
        for result, x in zip(results[number], inputs[number::threads], strict=True):
            own = eager(module, x)
            if form == "dataclass":
                assert type(result) is Record
                assert result.label == own.label
                result, own = result.scores, own.scores
            assert_close(result, own)


@pytest.mark.parametrize("count", [1, 2, 7])
def test_a_call_may_hold_several_rows(count: int) -> None:
    module = build(LSTMClassifier)
    predict = torchpool.wrap(module, example=draw(1, 50, 10))
    x = draw(count, 50, 10)
    assert_close(predict(x), eager(module, x))


def test_calls_of_different_numbers_of_rows_share_a_batch(hold: Any) -> None:
    held = hold()
    first = held.hold()
    futures = [held.predict.submit(row(n, rows=n)) for n in range(1, 6)]
    held.gate.open()
    for n, future in enumerate(futures, 1):
        assert_close(future.result(HANG), eager(held.model.linear, row(n, rows=n)))
    assert first.result(HANG).shape == (1, 3)
    assert held.predict.stats()["batch_rows"]["max"] == 15


@pytest.mark.parametrize("rows", [4, 5, 8, 33])
def test_a_call_larger_than_max_batch_is_answered_whole(rows: int) -> None:
    module = build(MarkerModule)
    predict = torchpool.wrap(module, example=row(), max_batch=4)
    x = draw(rows, 4)
    assert_close(predict(x), eager(module, x))
    assert_close(predict.submit(x).result(HANG), eager(module, x))


def test_a_submitted_call_larger_than_max_batch_runs_in_parts(hold: Any) -> None:
    held = hold(max_batch=4)
    lengths: list[int] = []
    held.gate.watch = lambda x: lengths.append(len(x))
    x = draw(10, 4)
    result = held.predict.submit(x).result(HANG)
    assert lengths == [4, 4, 2]
    assert_close(result, eager(held.model.linear, x))


def test_inputs_without_a_batch_dim_are_stacked() -> None:
    module = build(MarkerModule)
    predict = torchpool.wrap(module, example=draw(4))
    inputs = draws(64, 4)
    assert_all_close(predict.map(inputs), (eager(module, x) for x in inputs))


def test_a_scalar_tensor_is_a_fine_input() -> None:
    class Square(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * x

    predict = torchpool.wrap(Square().eval())
    inputs = [torch.tensor(float(n)) for n in range(32)]
    assert_all_close(predict.map(inputs), [x * x for x in inputs])


def test_the_unchanged_loop_of_the_standard_executor_gives_the_same() -> None:
    module = build(LSTMClassifier)
    predict = torchpool.wrap(module)
    inputs = draws(128, 1, 50, 10)
    with concurrent.futures.ThreadPoolExecutor(16) as executor:
        results = list(executor.map(predict, inputs))
    assert_all_close(results, (eager(module, x) for x in inputs))


def test_a_bound_method_is_wrapped_as_the_module_it_belongs_to() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def encode(self, x: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
            return self.linear(x) * scale

    module = build(Encoder)
    predict = torchpool.wrap(module.encode)
    x = draw(1, 4)
    assert_close(predict(x), eager(module.encode, x))
    assert_close(predict(x, scale=2.0), eager(module.encode, x, scale=2.0))
    assert predict.explain().contracts[0].mode == "merge"


def compiled(how: str) -> torch.jit.ScriptModule:
    module = build(LSTMClassifier)
    if how == "scripted":
        return torch.jit.script(module)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", torch.jit.TracerWarning)
        return torch.jit.trace(module, draw(1, 50, 10))


@pytest.mark.parametrize("how", ["scripted", "traced"])
@pytest.mark.parametrize("threads", [1, 16])
def test_a_script_module_gives_the_same(how: str, threads: int) -> None:
    module = compiled(how)
    predict = torchpool.wrap(module)
    inputs = draws(threads * 8, 1, 50, 10)
    results = run_threads(threads, lambda number: list(predict.map(inputs[number::threads])))
    for number in range(threads):
        assert_all_close(results[number], (eager(module, x) for x in inputs[number::threads]))
    assert predict.explain().backend == "torchscript"


def test_a_plain_callable_runs_alone_and_explain_says_so() -> None:
    module = build(MarkerModule)
    predict = torchpool.wrap(lambda x: module(x))
    inputs = draws(16, 1, 4)
    assert_all_close(predict.map(inputs), (eager(module, x) for x in inputs))
    assert predict.stats()["batch_rows"]["max"] <= 1
    assert "plain callable is not probed" in str(predict.explain())


def test_a_plain_callable_may_return_what_is_no_tensor() -> None:
    predict = torchpool.wrap(lambda x: {"label": f"class {int(x.sum())}", "score": 0.5})
    assert list(predict.map([torch.ones(n) for n in range(3)])) == [
        {"label": f"class {n}", "score": 0.5} for n in range(3)
    ]


def test_without_merging_each_call_is_the_models_own() -> None:
    module = build(GateModule)
    predict = torchpool.wrap(module, batch=False)
    inputs = draws(32, 1, 4)
    results = run_threads(8, lambda number: [predict(x) for x in inputs[number::8]])
    for number in range(8):
        for result, x in zip(results[number], inputs[number::8], strict=True):
            assert torch.equal(result, eager(module, x))
    assert "batch=False" in str(predict.explain())


def test_the_first_calls_are_answered_while_another_thread_learns() -> None:
    gate_module = build(GateModule)
    predict = torchpool.wrap(gate_module)
    learning = threading.Thread(target=predict, args=(row(MARK),), daemon=True)
    learning.start()
    gate_module.gate.wait_entered()
    inputs = draws(16, 1, 4)
    results = run_threads(16, lambda number: predict(inputs[number]))
    gate_module.gate.open()
    learning.join(HANG)
    assert not learning.is_alive()
    assert_all_close(results, (eager(gate_module.linear, x) for x in inputs))
    assert_close(predict(inputs[0]), results[0])


def test_a_poisoned_row_hurts_only_its_own_call(hold: Any) -> None:
    held = hold()
    held.hold()
    futures = [held.predict.submit(row(POISON if n == 5 else n)) for n in range(10)]
    held.gate.open()
    for n, future in enumerate(futures):
        if n == 5:
            with pytest.raises(ValueError, match="a poisoned row"):
                future.result(HANG)
        else:
            assert_close(future.result(HANG), eager(held.model.linear, row(n)))


def test_a_poisoned_call_raises_from_the_call_itself() -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    with pytest.raises(ValueError, match="a poisoned row"):
        predict(row(POISON))
