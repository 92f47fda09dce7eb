"""torchpool's executor is given an accelerated module: its calls take the predictor's way, one by one as they may."""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from executor_support import freed, wait_until
from inplace_support import Classifier, came, classifier, entrance_counts, x
from support import (
    HANG,
    MARK,
    POISON,
    Gate,
    GateModule,
    MarkerModule,
    assert_all_close,
    assert_close,
    build,
    eager,
    row,
)
from torch import nn

import torchpool

COUNT = 60
INPUTS = [x(seed) for seed in range(COUNT)]


@pytest.fixture
def executor() -> Iterator[torchpool.ThreadPoolExecutor]:
    with torchpool.ThreadPoolExecutor(2) as made:
        yield made


def frozen(model: nn.Module, **options: Any) -> Any:
    return torchpool.accelerate(model.requires_grad_(False), **options)


def warm(model: Any, one: torch.Tensor) -> None:
    """The first call of a structure is the module's own, in each grad mode."""
    for _ in range(2):
        model(one)
    assert came(model) == 1


def by_map(executor: Any, fn: Any, inputs: Any = INPUTS) -> list[Any]:
    return list(executor.map(fn, inputs))


def by_buffered_map(executor: Any, fn: Any, inputs: Any = INPUTS) -> list[Any]:
    return list(executor.map(fn, inputs, buffersize=5))


def by_view(executor: Any, fn: Any, inputs: Any = INPUTS) -> list[Any]:
    return list(executor.options(priority=1).map(fn, inputs))


def by_submit(executor: Any, fn: Any, inputs: Any = INPUTS) -> list[Any]:
    return [future.result(HANG) for future in [executor.submit(fn, one) for one in inputs]]


WAYS = pytest.mark.parametrize("way", [by_map, by_buffered_map, by_view, by_submit])


@WAYS
@pytest.mark.parametrize("door", ["call", "forward"])
def test_its_calls_take_no_thread_and_are_merged(executor: Any, way: Callable[..., list[Any]], door: str) -> None:
    plain, model = classifier(), frozen(classifier())
    fn = model if door == "call" else model.forward
    assert_all_close(way(executor, fn), [eager(plain, one) for one in INPUTS])
    assert (came(model, "first of its kind"), came(model)) == (1, COUNT - 1), entrance_counts(model)
    assert executor.stats()["accepted"] == 0, "a thread of the executor's ran a call"
    assert torchpool.predictor_of(model).stats()["accepted"] >= COUNT - 1


def test_calls_of_a_map_make_batches(executor: Any) -> None:
    runtime = torchpool.Runtime(1)
    model = frozen(build(GateModule), backend="python", prove="trust", runtime=runtime)
    warm(model, row())
    gate: Gate = model.gate
    held = executor.submit(model, row(MARK))
    try:
        gate.wait_entered()
        results = executor.map(model, [row(float(n)) for n in range(40)])
        gate.open()
        assert_all_close(results, [eager(build(GateModule), row(float(n))) for n in range(40)])
    finally:
        gate.open()
    held.result(HANG)
    assert torchpool.predictor_of(model).stats()["batch_rows"]["max"] > 8
    runtime.close()


@WAYS
def test_with_gradients_each_call_is_the_modules(executor: Any, way: Callable[..., list[Any]]) -> None:
    model = torchpool.accelerate(classifier())
    results = way(executor, model)
    assert all(result.requires_grad for result in results)
    assert entrance_counts(model) == {"gradients": COUNT}
    with torch.no_grad():
        results = way(executor, model)
    assert not any(result.requires_grad for result in results)
    assert came(model) == COUNT - 1


def hook(model: nn.Module) -> Callable[[], object]:
    return model.register_forward_hook(lambda module, args, result: result + 1).remove


def train(model: nn.Module) -> Callable[[], object]:
    model.train()
    return model.eval


def forward(model: Any) -> Callable[[], object]:
    cls = type(model)
    before = cls.forward
    cls.forward = lambda self, a: before(self, a) * 0
    return lambda: setattr(cls, "forward", before)


@WAYS
@pytest.mark.parametrize("change", [hook, train, forward])
def test_a_change_holds_until_it_is_undone(executor: Any, way: Callable[..., list[Any]], change: Any) -> None:
    model = frozen(classifier())
    warm(model, x())
    undo = change(model)
    expected = [model(one) for one in INPUTS]
    served = came(model)
    assert_all_close(way(executor, model), expected)
    assert came(model) == served
    undo()
    assert_all_close(way(executor, model), [eager(classifier(), one) for one in INPUTS])
    assert came(model) >= served + COUNT - 1, "of a new forward the first call is the module's"


def test_a_change_between_the_calls_of_a_map_holds_from_there_on(executor: Any) -> None:
    model = frozen(classifier())
    warm(model, x())
    plain = classifier()

    def inputs() -> Iterator[torch.Tensor]:
        for n, one in enumerate(INPUTS):
            if n == 20:
                model.register_forward_hook(lambda module, args, result: result + 1)
            yield one

    results = list(executor.map(model, inputs(), buffersize=1))
    expected = [eager(plain, one) + (n >= 20) for n, one in enumerate(INPUTS)]
    del results[19], expected[19]  # which was on its way
    assert_all_close(results, expected)


def test_once_it_is_restored_it_is_a_function_as_any_other(executor: Any) -> None:
    model = frozen(classifier())
    results = executor.map(model, INPUTS)
    torchpool.restore(model)
    assert_all_close(results, [eager(classifier(), one) for one in INPUTS])
    before = executor.stats()["accepted"]
    assert_all_close(executor.map(model, INPUTS), [eager(classifier(), one) for one in INPUTS])
    assert executor.stats()["accepted"] - before == COUNT


def test_its_own_methods_run_on_threads(executor: Any) -> None:
    plain, model = classifier(), frozen(classifier())
    assert by_submit(executor, model.predict) == [plain.predict(one) for one in INPUTS]
    assert executor.stats()["accepted"] == COUNT


class OwnType(Classifier):
    """Keeps its class."""

    def kind(self) -> type:
        return type(self)


def test_of_a_class_that_is_entered_the_object_is_served_and_others_are_not(executor: Any) -> None:
    model, other = frozen(build(OwnType)), build(OwnType).requires_grad_(False)
    assert_all_close(by_map(executor, model), [eager(classifier(), one) for one in INPUTS])
    assert came(model) == COUNT - 1
    assert_all_close(by_map(executor, other), [eager(classifier(), one) for one in INPUTS])
    assert executor.stats()["accepted"] == COUNT


@WAYS
def test_a_bad_input_hurts_its_own_call_and_raises_the_modules_error(
    executor: Any, way: Callable[..., list[Any]]
) -> None:
    plain = build(MarkerModule)
    model = frozen(build(MarkerModule))
    warm(model, row())
    inputs = [row(float(n)) for n in range(20)]
    inputs[7] = row(POISON)
    futures = [executor.submit(model, one) for one in inputs]
    for n, future in enumerate(futures):
        if n == 7:
            with pytest.raises(ValueError, match="a poisoned row"):
                future.result(HANG)
        else:
            assert_close(future.result(HANG), eager(plain, inputs[n]))
    with pytest.raises(ValueError, match="a poisoned row"):
        way(executor, model, inputs)


@WAYS
def test_an_error_of_the_predictors_reaches_nobody(executor: Any, way: Callable[..., list[Any]]) -> None:
    model = frozen(classifier())
    warm(model, x())
    torchpool.predictor_of(model).close()
    assert_all_close(way(executor, model), [eager(classifier(), one) for one in INPUTS])


def test_calls_that_the_predictor_has_and_fails_are_answered_by_the_module() -> None:
    runtime = torchpool.Runtime(1)
    model = frozen(build(GateModule), backend="python", prove="trust", runtime=runtime)
    warm(model, row())
    gate: Gate = model.gate
    try:
        with torchpool.ThreadPoolExecutor(2) as executor:
            held = executor.submit(model, row(MARK))
            gate.wait_entered()
            results = executor.map(model, [row(float(n)) for n in range(40)])
            torchpool.predictor_of(model).close(wait=False, cancel_pending=False)
            future = executor.submit(model, row(3.0))
            gate.open()
            plain = build(GateModule)
            assert_all_close(results, [eager(plain, row(float(n))) for n in range(40)])
            assert_close(future.result(HANG), eager(plain, row(3.0)))
            held.result(HANG)
    finally:
        gate.open()
        runtime.close()


class Writes(nn.Module):
    def forward(self, a: torch.Tensor) -> torch.Tensor:
        a.add_(1)
        return a * 2


@WAYS
def test_a_forward_that_writes_to_its_arguments_does(executor: Any, way: Callable[..., list[Any]]) -> None:
    model = frozen(Writes().eval())
    inputs = [row(float(n)) for n in range(20)]
    results = way(executor, model, inputs)
    assert_all_close(inputs, [row(float(n)) + 1 for n in range(20)])
    assert_all_close(results, [(row(float(n)) + 1) * 2 for n in range(20)])
    assert came(model) == 0


name: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="none")


class Named(nn.Module):
    def forward(self, a: torch.Tensor) -> torch.Tensor:
        return a + len(name.get())


@WAYS
def test_the_callers_context_and_autocast_are_not_the_calls(executor: Any, way: Callable[..., list[Any]]) -> None:
    model, linear = frozen(Named().eval()), frozen(classifier())
    name.set("somebody")
    inputs = [row(float(n)) for n in range(20)]
    assert_all_close(way(executor, model, inputs), [one + 4 for one in inputs])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        results = way(executor, linear)
    assert all(result.dtype == torch.float32 for result in results)


def test_with_an_initializer_its_calls_run_on_the_threads_that_it_prepares() -> None:
    model = torchpool.accelerate(classifier())
    with torchpool.ThreadPoolExecutor(1, initializer=torch.set_grad_enabled, initargs=(False,)) as executor:
        assert not any(result.requires_grad for result in executor.map(model, INPUTS))
        assert executor.stats()["accepted"] == COUNT


def test_inside_of_a_module_that_is_run_for_a_predictor_it_is_a_function_as_any_other(executor: Any) -> None:
    inner = frozen(classifier())
    warm(inner, x())

    class Outer(nn.Module):
        def forward(self, a: torch.Tensor) -> torch.Tensor:
            return torch.cat(list(executor.map(inner, [a, a + 1])), 1)

    model = frozen(Outer().eval())
    plain = classifier()
    for seed in range(5):
        one = x(seed)
        assert_close(model(one), torch.cat([eager(plain, one), eager(plain, one + 1)], 1))


def test_an_array_is_given_to_the_module_as_it_is(executor: Any) -> None:
    model = frozen(classifier())
    warm(model, x())
    with pytest.raises(TypeError):
        by_map(executor, model, [x().numpy()])
    data = torch.cat(INPUTS)
    assert_all_close(executor.map(model, data), [eager(classifier(), one) for one in data])


def test_a_shutdown_finishes_or_cancels_what_was_sent() -> None:
    model = frozen(classifier())
    executor = torchpool.ThreadPoolExecutor(2)
    futures = [executor.submit(model, one) for one in INPUTS]
    executor.shutdown()
    assert_all_close([future.result(0) for future in futures], [eager(classifier(), one) for one in INPUTS])
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.submit(model, x())
    with pytest.raises(RuntimeError, match="after shutdown"):
        executor.map(model, INPUTS)


def test_a_deadline_is_a_call_of_its_own(executor: Any) -> None:
    runtime = torchpool.Runtime(1)
    model = frozen(build(GateModule), backend="python", prove="trust", runtime=runtime)
    warm(model, row())
    gate: Gate = model.gate
    held = executor.submit(model, row(MARK))
    try:
        gate.wait_entered()
        with pytest.raises(TimeoutError):
            executor.options(deadline=0.02).submit(model, row(1.0)).result(HANG)
    finally:
        gate.open()
    held.result(HANG)
    runtime.close()


def test_neither_a_map_nor_a_call_that_is_over_keeps_the_module(executor: Any) -> None:
    model = frozen(classifier())
    gone = freed(model)
    by_map(executor, model)
    by_submit(executor, model)
    del model
    wait_until(gone.is_set)
