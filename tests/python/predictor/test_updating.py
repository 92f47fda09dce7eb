"""updating() and swap(): no call sees weights half written, whichever way it is served."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
import torch
from support import HANG, build, draw
from torch import nn

import torchpool

OLD, HALF, NEW = 1.0, 10.0, 100.0


class Pair(nn.Module):
    """x * first + second: the result tells which weights it is of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.full((4,), OLD)) for _ in range(2))
        self.entered, self.go_on = threading.Semaphore(0), threading.Event()
        self.held = False
        self.inside: Callable[[], object] = lambda: None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.held:
            self.entered.release()
            assert self.go_on.wait(HANG)
        self.inside()
        return x * self.first + self.second


class Traced(nn.Module):
    """The same, for a graph or a script."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Parameter(torch.full((4,), OLD)) for _ in range(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.first + self.second


def fill(parameter: torch.Tensor, value: float) -> None:
    with torch.no_grad():
        parameter.fill_(value)


X = torch.ones(1, 4)


async def _awaited(predict: torchpool.Predictor) -> torch.Tensor:
    return await predict.acall(X)


WAYS: dict[str, Callable[[torchpool.Predictor], torch.Tensor]] = {
    "call": lambda predict: predict(X),
    "deadline": lambda predict: predict.options(deadline=HANG)(X),
    "submit": lambda predict: predict.submit(X).result(HANG),
    "map": lambda predict: next(iter(predict.map([X]))),
    "acall": lambda predict: asyncio.run(_awaited(predict)),
}


@pytest.fixture
def others() -> Iterator[ThreadPoolExecutor]:
    """Threads beside the test's own."""
    with ThreadPoolExecutor(8) as pool:
        yield pool


@pytest.fixture
def unrelated(runtime: torchpool.Runtime) -> torchpool.Predictor:
    """Of another module, on the same worker: what could run before it has run when it has."""
    predict = torchpool.wrap(build(lambda: nn.Linear(4, 4)), runtime=runtime)
    predict(X)
    return predict


def written_in_halves(
    predict: torchpool.Predictor,
    model: Any,
    call: Callable[[], torch.Tensor],
    others: ThreadPoolExecutor,
    unrelated: torchpool.Predictor,
) -> torch.Tensor:
    """The result of a call that is made while the weights are half written."""
    with predict.updating():
        fill(model.first, NEW)
        future: Future[torch.Tensor] = others.submit(call)
        for _ in range(20):
            unrelated.submit(X).result(HANG)
        assert not future.done()
        fill(model.second, NEW)
    return future.result(HANG)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("options", [{}, {"batch": False}, {"backend": "python"}], ids=["trust", "alone", "python"])
def test_calls_wait_for_the_end_of_an_update(
    way: str,
    options: dict[str, Any],
    runtime: torchpool.Runtime,
    others: ThreadPoolExecutor,
    unrelated: torchpool.Predictor,
) -> None:
    """Each way to call, served by the module: in batches, inline, and alone."""
    model = Pair()
    predict = torchpool.wrap(model, runtime=runtime, **options)
    assert predict(X).tolist() == [[2 * OLD] * 4]
    got = written_in_halves(predict, model, lambda: WAYS[way](predict), others, unrelated)
    assert got.tolist() == [[2 * NEW] * 4]


@pytest.mark.graphs
@pytest.mark.parametrize("way", WAYS)
def test_calls_that_a_graph_serves_wait_too(
    way: str, runtime: torchpool.Runtime, others: ThreadPoolExecutor, unrelated: torchpool.Predictor
) -> None:
    """A captured graph, whose packed constants are of the weights as they were."""
    model = Traced()
    predict = torchpool.wrap(model, runtime=runtime)
    predict(X)
    assert predict.ready(HANG)
    assert predict.explain().contracts
    got = written_in_halves(predict, model, lambda: WAYS[way](predict), others, unrelated)
    assert got.tolist() == [[2 * NEW] * 4]


def test_scripts_wait_too(
    runtime: torchpool.Runtime, others: ThreadPoolExecutor, unrelated: torchpool.Predictor
) -> None:
    """A ScriptModule, which runs on the compute workers."""
    model = torch.jit.script(Traced().eval())
    predict = torchpool.wrap(model, runtime=runtime)
    predict(X)
    got = written_in_halves(predict, model, lambda: predict.submit(X).result(HANG), others, unrelated)
    assert got.tolist() == [[2 * NEW] * 4]


def test_a_call_that_is_learned_from_waits(
    runtime: torchpool.Runtime, others: ThreadPoolExecutor, unrelated: torchpool.Predictor
) -> None:
    """The learner runs the model some times: none of its runs is in the update, and what it finds is not mixed."""
    model = Pair()
    predict = torchpool.wrap(model, runtime=runtime)
    got = written_in_halves(predict, model, lambda: predict(X), others, unrelated)
    assert got.tolist() == [[2 * NEW] * 4]


def test_all_predictors_of_a_module_and_of_its_parts_wait(
    runtime: torchpool.Runtime, others: ThreadPoolExecutor, unrelated: torchpool.Predictor
) -> None:
    """A second predictor, one of a module around it, one of a module that shares its weights only."""
    model = Pair()
    shares = Pair()
    shares.first, shares.second = model.first, model.second
    predict = torchpool.wrap(model, runtime=runtime)
    relatives = [torchpool.wrap(one, runtime=runtime) for one in (model, nn.Sequential(model), shares, model.forward)]
    for one in relatives:
        one(X)
    with predict.updating():
        fill(model.first, NEW)
        futures = [others.submit(one, X) for one in relatives]
        made_meanwhile = torchpool.wrap(model, batch=False, runtime=runtime)
        futures.append(others.submit(made_meanwhile, X))
        for _ in range(20):
            unrelated.submit(X).result(HANG)
        assert not any(future.done() for future in futures)
        fill(model.second, NEW)
    for future in futures:
        assert future.result(HANG).tolist() == [[2 * NEW] * 4]


def test_what_runs_ends_with_the_old_weights(others: ThreadPoolExecutor) -> None:
    """Entering waits for it; calls that come meanwhile wait as well, and get the new weights."""
    model = Pair()
    predict = torchpool.wrap(model, batch=False)
    predict(X)
    model.held = True
    running = others.submit(predict, X)
    assert model.entered.acquire(timeout=HANG)
    entered = threading.Event()

    def update() -> None:
        with predict.updating():
            entered.set()
            fill(model.first, NEW)
            fill(model.second, NEW)

    updating = others.submit(update)
    assert not entered.is_set()
    model.held = False
    later = others.submit(predict, X)
    model.go_on.set()
    updating.result(HANG)
    assert running.result(HANG).tolist() == [[2 * OLD] * 4]
    assert later.result(HANG).tolist() in ([[2 * OLD] * 4], [[2 * NEW] * 4])  # it may have come before the update
    assert predict(X).tolist() == [[2 * NEW] * 4]


def test_calls_inside_of_calls_that_an_update_waits_for_go_on(others: ThreadPoolExecutor) -> None:
    """The outer one's end is waited for, which waits for the inner one."""
    inner = Pair()
    predict_inner = torchpool.wrap(inner, batch=False)
    outer = Pair()
    outer.part = inner
    outer.inside = lambda: predict_inner(X)
    predict = torchpool.wrap(outer, batch=False)
    predict(X)
    outer.held = True
    running = others.submit(predict, X)
    assert outer.entered.acquire(timeout=HANG)
    updating = others.submit(lambda: _enter_and_leave(predict_inner))
    outer.go_on.set()
    assert running.result(HANG).tolist() == [[2 * OLD] * 4]
    updating.result(HANG)


def _enter_and_leave(predict: torchpool.Predictor) -> None:
    with predict.updating():
        pass


def test_a_deadline_ends_a_call_that_waits_for_an_update(others: ThreadPoolExecutor) -> None:
    """However long the update takes."""
    predict = torchpool.wrap(Pair())
    predict(X)
    with predict.updating(), pytest.raises(TimeoutError):
        others.submit(predict.options(deadline=0.01), X).result(HANG)
    assert predict(X).tolist() == [[2 * OLD] * 4]


@pytest.mark.parametrize("way", WAYS)
def test_the_thread_that_updates_cannot_call(way: str) -> None:
    """It would wait for itself."""
    predict = torchpool.wrap(Pair())
    predict(X)
    with predict.updating(), pytest.raises(RuntimeError, match="inside of its own updating"):
        WAYS[way](predict)
    assert WAYS[way](predict).tolist() == [[2 * OLD] * 4]


def test_an_exception_in_the_block_ends_it() -> None:
    """Calls go on with what was written."""
    model = Pair()
    predict = torchpool.wrap(model)
    predict(X)
    with pytest.raises(KeyError), predict.updating():
        fill(model.first, NEW)
        raise KeyError("half way")
    assert predict(X).tolist() == [[NEW + OLD] * 4]


def test_a_call_cannot_update_its_own_model() -> None:
    """It would wait for its own end."""
    model = Pair()
    predict = torchpool.wrap(model, batch=False)
    model.inside = lambda: _enter_and_leave(predict)
    with pytest.raises(RuntimeError, match="inside of a call of the same model"):
        predict(X)
    model.inside = lambda: None
    assert predict(X).tolist() == [[2 * OLD] * 4]


def test_updates_of_one_module_take_turns_and_nest(others: ThreadPoolExecutor) -> None:
    """In one thread an update may be inside of another; another thread's waits for the outer one."""
    model = Pair()
    one, other = torchpool.wrap(model), torchpool.wrap(model)
    order = []

    def second() -> None:
        with other.updating():
            order.append("second")

    with one.updating():
        with other.updating():
            waiting = others.submit(second)
            order.append("first")
        order.append("still first")
    waiting.result(HANG)
    assert order == ["first", "still first", "second"]


def test_two_threads_that_would_wait_for_each_other_are_told(others: ThreadPoolExecutor) -> None:
    """Of updates that are entered in opposite orders one raises, and the other one goes on."""
    predictors = [torchpool.wrap(Pair()) for _ in range(2)]
    barrier = threading.Barrier(2)

    def both(order: list[int]) -> str:
        with predictors[order[0]].updating():
            barrier.wait(HANG)
            try:
                with predictors[order[1]].updating():
                    return "entered"
            except RuntimeError as error:
                return str(error)

    results = [future.result(HANG) for future in [others.submit(both, [0, 1]), others.submit(both, [1, 0])]]
    assert sorted("for each other" in result for result in results) == [False, True]
    assert all(predict(X).tolist() == [[2 * OLD] * 4] for predict in predictors)


def test_an_update_is_used_once() -> None:
    """A second with block over the same object would hide an error."""
    update = torchpool.wrap(Pair()).updating()
    with update:
        pass
    with pytest.raises(RuntimeError, match="was used"), update:
        pass


@pytest.mark.graphs
@pytest.mark.parametrize("assign", [False, True], ids=["copied", "replaced"])
def test_calls_that_wait_get_the_weights_that_were_put_in_place(assign: bool, others: ThreadPoolExecutor) -> None:
    """Also where tensors were replaced, which a graph that was captured before does not read."""
    model, new = Traced(), Traced()
    predict = torchpool.wrap(model)
    predict(X)
    assert predict.ready(HANG)
    fill(new.first, NEW)
    fill(new.second, NEW)
    with predict.updating():
        futures = [others.submit(lambda: predict.submit(X).result(HANG)) for _ in range(3)]
        model.load_state_dict(new.state_dict(), assign=assign)
    assert [future.result(HANG).tolist() for future in futures] == [[[2 * NEW] * 4]] * 3


@pytest.mark.graphs
def test_writes_that_leave_no_trace_are_seen() -> None:
    """A raw write into the middle of a large weight, which no sample of it sees."""
    model = build(lambda: nn.Sequential(nn.Linear(400, 400), nn.Tanh()))
    predict = torchpool.wrap(model)
    x = draw(1, 400)
    predict(x)
    assert predict.ready(HANG)
    with predict.updating():
        model[0].weight.detach().numpy()[150:250, 100:200] = 0.5
    with torch.no_grad():
        torch.testing.assert_close(predict(x), model(x))
