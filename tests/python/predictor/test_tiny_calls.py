"""Calls of a small model that run on their callers' threads: nothing of it is to be seen but the speed."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from bad_models import busy
from support import HANG, MarkerModule, assert_all_close, assert_close, build, draw, draws, eager, row, run_threads
from torch import nn

import torchpool

pytestmark = pytest.mark.graphs

BACKENDS = ["graph", "python", "torchscript"]
ENOUGH = 20  # calls after which it is known how long one takes


class Tiny(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(10, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def learned(model: nn.Module, runtime: torchpool.Runtime, **options: Any) -> torchpool.Predictor:
    """A predictor whose calls have been timed."""
    predict = torchpool.wrap(model, example=draw(1, 10), runtime=runtime, **options)
    assert predict.ready(HANG)
    for x in draws(ENOUGH, 1, 10):
        assert_close(predict(x), eager(model, x))
    return predict


def made(backend: Any, runtime: torchpool.Runtime) -> torchpool.Predictor:
    model: Any = build(Tiny)
    return learned(torch.jit.script(model) if backend == "torchscript" else model, runtime, backend=backend)


@pytest.fixture(params=BACKENDS, scope="module")
def predict(request: pytest.FixtureRequest) -> Iterator[torchpool.Predictor]:
    """For tests that leave it and its model as they were: capturing a graph takes seconds."""
    runtime = torchpool.Runtime(1)
    with made(request.param, runtime) as predictor:
        yield predictor
    runtime.close()


@pytest.fixture(params=BACKENDS)
def fresh(request: pytest.FixtureRequest, runtime: torchpool.Runtime) -> Iterator[torchpool.Predictor]:
    """For tests that change its weights or close it."""
    with made(request.param, runtime) as predictor:
        yield predictor


def inline(predict: torchpool.Predictor) -> int:
    return int(predict.stats()["inline"])


def assert_all_resolved(predict: torchpool.Predictor) -> None:
    stats = predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert stats["waiting_rows"] == stats["running_batches"] == 0


def test_each_idle_call_runs_on_its_callers_thread(predict: torchpool.Predictor) -> None:
    before, batches = inline(predict), predict.stats()["batch_rows"]["count"]
    for n, x in enumerate(draws(50, 1, 10), 1):
        assert_close(predict(x), eager(predict.model, x))
        assert inline(predict) == before + n
    assert predict.stats()["batch_rows"]["count"] == batches
    assert_all_resolved(predict)


@pytest.mark.parametrize("rows", [1, 2, 7, 100])
def test_calls_of_any_number_of_rows(predict: torchpool.Predictor, rows: int) -> None:
    for x in draws(10, rows, 10):
        assert_close(predict(x), eager(predict.model, x))


def test_a_call_of_no_rows(predict: torchpool.Predictor) -> None:
    assert_close(predict(torch.empty(0, 10)), eager(predict.model, torch.empty(0, 10)))


@pytest.mark.parametrize("layout", ["transposed", "strided", "expanded"])
def test_inputs_of_any_layout(predict: torchpool.Predictor, layout: str) -> None:
    x = {
        "transposed": draw(10, 5).T,
        "strided": draw(5, 20)[:, ::2],
        "expanded": draw(1, 10).expand(5, 10),
    }[layout]
    for _ in range(5):
        assert_close(predict(x), eager(predict.model, x))


def test_a_result_is_the_callers_own(predict: torchpool.Predictor) -> None:
    x, other = draws(2, 1, 10)
    first = predict(x)
    expected = first.clone()
    predict(other)
    assert torch.equal(first, expected)
    first.add_(1)  # in place: neither the next result nor the input sees it
    assert_close(predict(x), eager(predict.model, x))
    assert torch.equal(x, draw(1, 10))


@pytest.mark.parametrize("threads", [1, 2])
def test_intra_op_threads_stay_as_they_were(predict: torchpool.Predictor, threads: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for x in draws(10, 1, 10):
            predict(x)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    "mode", [torch.no_grad, torch.inference_mode, torch.enable_grad], ids=lambda mode: mode.__name__
)
def test_every_grad_mode_gives_the_same_and_stays(predict: torchpool.Predictor, mode: Any) -> None:
    x = draw(1, 10)
    expected = eager(predict.model, x)
    with mode():
        grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
        for _ in range(5):
            assert_close(predict(x), expected)
            assert (torch.is_grad_enabled(), torch.is_inference_mode_enabled()) == (grad, inference)


def test_an_input_that_requires_grad_needs_no_grad(predict: torchpool.Predictor) -> None:
    x = draw(1, 10).requires_grad_()
    for _ in range(3):
        with pytest.raises(TypeError, match="input 'x' requires grad, but a predictor computes no gradients"):
            predict(x)
        with torch.no_grad():
            assert_close(predict(x), eager(predict.model, x))


def test_an_input_of_inference_mode(predict: torchpool.Predictor) -> None:
    with torch.inference_mode():
        x = draw(1, 10)
    for _ in range(3):
        assert_close(predict(x), eager(predict.model, x))


def test_autocast_is_the_callers(predict: torchpool.Predictor) -> None:
    x = draw(4, 10)
    plain = predict(x)
    for _ in range(3):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            half, expected = predict(x), eager(predict.model, x)
        assert half.dtype == expected.dtype == torch.bfloat16
        assert torch.allclose(half.float(), expected.float(), rtol=1e-2, atol=1e-2)
        assert torch.equal(predict(x), plain)


@pytest.mark.parametrize("count", [2, 8])
def test_calls_of_many_threads_at_once_are_all_right(predict: torchpool.Predictor, count: int) -> None:
    inputs = draws(100, 1, 10)
    expected = [eager(predict.model, x) for x in inputs]
    before = predict.stats()["accepted"]
    for of_thread in run_threads(count, lambda number: [predict(x) for x in inputs]):
        assert_all_close(of_thread, expected)
    assert predict.stats()["accepted"] == before + count * 100
    assert_all_resolved(predict)


def test_calls_beside_a_map_and_an_event_loop_are_all_right(predict: torchpool.Predictor) -> None:
    inputs = draws(100, 1, 10)
    expected = [eager(predict.model, x) for x in inputs]

    async def awaited() -> list[Any]:
        return await asyncio.gather(*(predict.acall(x) for x in inputs))

    def work(number: int) -> Any:
        if number == 0:
            return list(predict.map(inputs))
        if number == 1:
            return asyncio.run(awaited())
        return [predict(x) for x in inputs]

    for results in run_threads(4, work):
        assert_all_close(results, expected)
    assert_all_resolved(predict)


def test_weights_that_are_changed_in_place_are_seen_at_once(fresh: torchpool.Predictor) -> None:
    x = draw(1, 10)
    for factor in (2.0, -1.0, 0.5):
        with torch.no_grad():
            fresh.model.linear.weight.mul_(factor)
            fresh.model.linear.bias.add_(factor)
        for _ in range(5):
            assert_close(fresh(x), eager(fresh.model, x))


def test_weights_that_are_loaded_are_seen_at_once(fresh: torchpool.Predictor) -> None:
    x = draw(1, 10)
    state = copy.deepcopy(fresh.model.state_dict())
    before = fresh(x)
    fresh.model.load_state_dict({name: value + 1 for name, value in state.items()})
    for _ in range(5):
        assert_close(fresh(x), eager(fresh.model, x))
    assert not torch.equal(fresh(x), before)
    fresh.model.load_state_dict(state)
    assert_close(fresh(x), before)


@pytest.mark.parametrize("backend", ["graph", "python"])
def test_weights_that_are_replaced_are_seen_at_once(runtime: torchpool.Runtime, backend: Any) -> None:
    model = build(Tiny)
    assert isinstance(model, Tiny)
    predict = learned(model, runtime, backend=backend)
    x = draw(1, 10)
    model.linear.weight = nn.Parameter(draw(3, 10, seed=1))
    for _ in range(5):
        assert_close(predict(x), eager(model, x))
    model.linear.bias.data = draw(3, seed=2)
    for _ in range(5):
        assert_close(predict(x), eager(model, x))


@pytest.mark.parametrize("bad", [draw(1, 9), draw(1, 10).double(), torch.zeros(1, 10, dtype=torch.long), "x"], ids=repr)
def test_bad_input_raises_and_hurts_no_later_call(predict: torchpool.Predictor, bad: Any) -> None:
    with pytest.raises(Exception) as models:
        eager(predict.model, bad)
    for _ in range(3):
        with pytest.raises((type(models.value), ValueError, TypeError)):
            predict(bad)
        assert_close(predict(draw(1, 10)), eager(predict.model, draw(1, 10)))
    assert_all_resolved(predict)


def test_no_input_and_too_much_of_it_raise_the_models_own_error(predict: torchpool.Predictor) -> None:
    for args in ((), (draw(1, 10), draw(1, 10))):
        with pytest.raises((TypeError, RuntimeError)) as models:
            predict.model(*args)
        with pytest.raises(type(models.value)):
            predict(*args)


def test_a_model_that_raises_does_so_from_the_call(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, backend="python")
    for _ in range(5):
        with pytest.raises(ValueError, match="a poisoned row"):
            predict(row(54321.0))
        assert_close(predict(row(1)), eager(predict.model, row(1)))
    assert (inline(predict), predict.stats()["failed"]) == (10, 5)


def test_a_deadline_that_is_long_enough_changes_nothing(predict: torchpool.Predictor) -> None:
    view = predict.options(deadline=HANG, priority=2)
    for x in draws(10, 1, 10):
        assert_close(view(x), eager(predict.model, x))
    assert_all_resolved(predict)


def test_keyword_arguments(predict: torchpool.Predictor) -> None:
    for x in draws(5, 1, 10):
        assert_close(predict(x=x), eager(predict.model, x))


def test_calls_are_answered_while_the_interpreters_worker_is_held(runtime: torchpool.Runtime) -> None:
    model = build(Tiny)
    other = torchpool.wrap(model, example=draw(1, 10), runtime=runtime, backend="graph")
    assert other.ready(HANG)
    with busy(runtime):
        assert_all_close((other(x) for x in draws(30, 1, 10)), [eager(model, x) for x in draws(30, 1, 10)])


def test_nothing_runs_after_close(fresh: torchpool.Predictor) -> None:
    before = fresh.stats()["accepted"]
    fresh.close()
    for _ in range(3):
        with pytest.raises(torchpool.Closed, match="is closed"):
            fresh(draw(1, 10))
    assert fresh.stats()["accepted"] == before


def test_nothing_runs_after_the_runtime_is_closed(fresh: torchpool.Predictor, runtime: torchpool.Runtime) -> None:
    runtime.close()
    with pytest.raises(torchpool.Closed):
        fresh(draw(1, 10))


def test_closing_while_threads_call_gives_each_a_result_or_closed(fresh: torchpool.Predictor) -> None:
    x = draw(1, 10)
    expected = eager(fresh.model, x)

    def work(number: int) -> bool:
        for n in range(10_000):
            if number == 0 and n == 100:
                fresh.close()
            try:
                result = fresh(x)
            except torchpool.Closed:
                return True
            assert_close(result, expected)
        return False

    assert run_threads(4, work) == [True] * 4
    assert_all_resolved(fresh)
