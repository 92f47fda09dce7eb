"""The caller's surroundings: honoured by each call wherever it runs, and left as they were."""

from __future__ import annotations

import asyncio
import contextvars
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bad_models import assert_same, busy, together
from support import HANG, HAS_BFLOAT16, LSTMClassifier, assert_close, build, draw, draws, eager, run_threads
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import torchpool

Tensor = torch.Tensor


def _layer() -> nn.Module:
    return nn.Linear(4, 3)


def _ways(predict: torchpool.Predictor, x: Tensor) -> list[Any]:
    """The call's result by every way of calling."""
    return [
        predict(x),
        predict.submit(x).result(HANG),
        next(predict.map([x])),
        next(predict.starmap([(x,)])),
        asyncio.run(predict.acall(x)),
        predict.options(priority=1)(x),
    ]


# --- autocast ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not HAS_BFLOAT16, reason="torch has no bfloat16 LSTM on this processor")
def test_calls_under_autocast_equal_eager_under_autocast(runtime: torchpool.Runtime) -> None:
    model = build(LSTMClassifier)
    predict = torchpool.wrap(model, example=draw(1, 50, 10), runtime=runtime)
    x = draw(2, 50, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = eager(model, x)
        for result in _ways(predict, x):
            assert_same(result, expected)
    assert expected.dtype is torch.bfloat16
    assert_close(predict(x), eager(model, x))


def test_waiting_calls_inside_and_outside_autocast_do_not_mix(runtime: torchpool.Runtime) -> None:
    model = build(_layer)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    xs = draws(8, 1, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predict(xs[0])
        expected = [eager(model, x) for x in xs]
    with busy(runtime):
        plain, cast = [], []
        for x in xs:
            plain.append(predict.submit(x))
            with torch.autocast("cpu", dtype=torch.bfloat16):
                cast.append(predict.submit(x))
    for x, ours, theirs, want in zip(xs, plain, cast, expected, strict=True):
        assert_close(ours.result(HANG), eager(model, x))
        assert_same(theirs.result(HANG), want)


def test_threads_inside_and_outside_autocast_do_not_mix() -> None:
    model = build(_layer)
    predict = torchpool.wrap(model)

    def work(number: int) -> None:
        for x in draws(20, 1, 4):
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=number % 2 == 0):
                assert_same(predict(x), eager(model, x))

    run_threads(4, work)


def test_weights_that_change_between_calls_under_autocast_are_seen(runtime: torchpool.Runtime) -> None:
    model = build(_layer)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    x = draw(1, 4)
    for value in (1.0, 2.0, 3.0):
        with torch.no_grad():
            model.weight.fill_(value)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            expected = eager(model, x)
            for result in _ways(predict, x):
                assert_same(result, expected)


# --- grad and inference mode ------------------------------------------------------------------------------------------


class Records(nn.Module):
    """Tells what it sees of the ambient state when it runs."""

    def __init__(self, see: Callable[[], Any]) -> None:
        super().__init__()
        self.linear, self.see, self.seen = nn.Linear(4, 3), see, print

    def forward(self, x: Tensor) -> Tensor:
        self.seen(self.see())
        return self.linear(x)


def _recording(see: Callable[[], Any]) -> tuple[nn.Module, list[Any]]:
    model, seen = build(lambda: Records(see)), []
    model.seen = seen.append
    return model, seen


def test_the_model_sees_no_grad_and_no_inference_mode(runtime: torchpool.Runtime) -> None:
    model, seen = _recording(lambda: (torch.is_grad_enabled(), torch.is_inference_mode_enabled()))
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    _ways(predict, draw(2, 4))
    together(predict, runtime, [(x,) for x in draws(3, 1, 4)])
    assert set(seen) == {(False, False)}


def test_callers_in_inference_mode_are_served(runtime: torchpool.Runtime) -> None:
    model = build(LSTMClassifier)
    predict = torchpool.wrap(model, runtime=runtime)
    with torch.inference_mode():
        xs = [x.clone() for x in draws(5, 1, 50, 10)]
        results = [predict(x) for x in xs] + together(predict, runtime, [(x,) for x in xs])
        assert torch.is_inference_mode_enabled()
    for x, y in zip(xs * 2, results, strict=True):
        assert_close(y, eager(model, x))
    assert_close(predict(draw(1, 50, 10)), eager(model, draw(1, 50, 10)))


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad])
def test_the_callers_grad_mode_is_left_alone(mode: Any, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(_layer), example=draw(1, 4), runtime=runtime)
    with mode():
        before = torch.is_grad_enabled()
        _ways(predict, draw(1, 4))
        assert torch.is_grad_enabled() is before
        weight = torch.ones(3, requires_grad=True)
        assert (predict(draw(1, 4)) * weight).requires_grad is before


def test_nothing_of_a_training_step_around_a_call_is_disturbed() -> None:
    predict = torchpool.wrap(build(_layer), example=draw(1, 4))
    weight = torch.ones(4, requires_grad=True)
    y = draw(1, 4) * weight
    features = predict(y.detach())
    (y.sum() + features.sum()).backward()
    assert weight.grad is not None and torch.equal(weight.grad, draw(1, 4)[0])


# --- devices and modes ------------------------------------------------------------------------------------------------


def test_a_default_device_is_honoured(runtime: torchpool.Runtime) -> None:
    model, seen = _recording(lambda: str(torch.empty(0).device))
    # Capturing would run the model meanwhile, too.
    predict = torchpool.wrap(model, example=draw(1, 4), backend="python", runtime=runtime)
    seen.clear()
    x = draw(1, 4)
    with torch.device("meta"):
        predict(x)
        predict.submit(x).result(HANG)
    assert seen == ["meta", "meta"]
    seen.clear()
    _ways(predict, x)
    assert set(seen) == {"cpu"}


def test_set_default_device_is_honoured(runtime: torchpool.Runtime) -> None:
    model = build(_layer)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    torch.set_default_device("cpu")
    try:
        for result in _ways(predict, draw(2, 4)):
            assert_close(result, eager(model, draw(2, 4)))
    finally:
        torch.set_default_device(None)


def test_the_default_dtype_is_honoured(runtime: torchpool.Runtime) -> None:
    class Typed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) * torch.ones(1)

    x = torch.ones(1, 4, dtype=torch.long)
    predict = torchpool.wrap(Typed().eval(), example=x, runtime=runtime)
    torch.set_default_dtype(torch.float64)
    try:
        expected = eager(Typed(), x)
        results = _ways(predict, x)
    finally:
        torch.set_default_dtype(torch.float32)
    assert expected.dtype is torch.float64
    for result in results:
        assert_same(result, expected)


class CountFunctions(TorchFunctionMode):
    count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


class CountDispatches(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", [CountFunctions, CountDispatches])
def test_torch_modes_of_the_caller_see_the_models_calls(mode: Any, runtime: torchpool.Runtime) -> None:
    model = build(_layer)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    x = draw(1, 4)
    with mode() as active:
        for call in (predict, lambda x: predict.submit(x).result(HANG), lambda x: next(predict.map([x]))):
            before = active.count
            call(x)
            assert active.count > before


def test_vmap_and_grad_transforms_see_a_plain_call() -> None:
    model = build(_layer)
    predict = torchpool.wrap(model, example=draw(1, 4))
    xs = draw(5, 1, 4)
    assert_close(torch.vmap(predict)(xs), eager(torch.vmap(model), xs))


# --- context variables ------------------------------------------------------------------------------------------------

TENANT: contextvars.ContextVar[str] = contextvars.ContextVar("TENANT", default="nobody")


def test_context_variables_of_the_caller_are_seen_by_the_model(runtime: torchpool.Runtime) -> None:
    model, seen = _recording(TENANT.get)
    # Not by a graph, which runs no Python, and is proven by the model on a thread where nobody has set anything.
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime, backend="python")
    seen.clear()
    token = TENANT.set("us")
    try:
        ways = _ways(predict, draw(1, 4))
        together(predict, runtime, [(draw(1, 4),)] * 2)
    finally:
        TENANT.reset(token)
    assert len(seen) >= len(ways) and set(seen) == {"us"}
    seen.clear()
    predict.submit(draw(1, 4)).result(HANG)
    assert seen == ["nobody"]


def test_callers_with_different_context_do_not_mix(runtime: torchpool.Runtime) -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + len(TENANT.get())

    predict = torchpool.wrap(Shifted().eval(), example=draw(1, 4), runtime=runtime)
    x = draw(1, 4)
    with busy(runtime):
        futures = []
        for i in range(12):
            context = contextvars.copy_context()
            context.run(TENANT.set, "x" * (i % 3))
            futures.append(context.run(predict.submit, x))
    for i, future in enumerate(futures):
        assert_close(future.result(HANG), x + i % 3)


def test_asyncio_tasks_with_different_context_do_not_mix() -> None:
    class Shifted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + len(TENANT.get())

    predict = torchpool.wrap(Shifted().eval(), example=draw(1, 4))

    async def one(length: int) -> None:
        TENANT.set("x" * length)
        for x in draws(5, 1, 4):
            assert_close(await predict.acall(x), x + length)

    async def main() -> None:
        await asyncio.gather(*(one(i % 4) for i in range(20)))

    asyncio.run(main())


class Sets(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        TENANT.set("the model")
        return x * 2


@pytest.mark.parametrize("variables", [0, 1])
def test_what_a_model_sets_in_its_context_does_not_reach_other_callers(
    variables: int, runtime: torchpool.Runtime
) -> None:
    predict = torchpool.wrap(Sets().eval(), example=draw(1, 4), runtime=runtime)
    model, seen = _recording(TENANT.get)
    other = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    seen.clear()
    context = contextvars.Context()
    if variables:
        context.run(contextvars.ContextVar("OTHER").set, 1)
    for target in (predict, other):
        context.run(together, target, runtime, [(draw(1, 4),)] * 2)
    assert set(seen) == {"nobody"}


# --- threads, numpy, warnings -----------------------------------------------------------------------------------------


def test_torchs_thread_settings_are_left_alone(runtime: torchpool.Runtime) -> None:
    before = torch.get_num_threads()
    predict = torchpool.wrap(build(_layer), example=draw(1, 4))
    _ways(predict, draw(2, 4))
    together(torchpool.wrap(build(_layer), runtime=runtime), runtime, [(draw(1, 4),)] * 3)
    assert torch.get_num_threads() == before
    assert run_threads(3, lambda number: torch.get_num_threads()) == [before] * 3
    assert run_threads(3, lambda number: predict(draw(1, 4)) is not None and torch.get_num_threads()) == [before] * 3


def test_numpys_error_state_and_warning_filters_are_left_alone(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(_layer), example=draw(1, 4), runtime=runtime)
    before = np.geterr(), list(warnings.filters)
    together(predict, runtime, [(draw(1, 4),)] * 3)
    assert (np.geterr(), list(warnings.filters)) == before
