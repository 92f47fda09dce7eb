"""A model that raises for one row: that caller alone sees it, as the unwrapped model raises it for that call alone."""

from __future__ import annotations

import asyncio
import random
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bad_models import POISON, Embedder, Raiser, ScriptRaiser, busy, outcome, together
from support import HANG, assert_close, build, draw, eager, run_threads
from torch import nn

import torchpool

Tensor = torch.Tensor


@dataclass
class Poisonable:
    model: Callable[..., Any]
    predict: torchpool.Predictor
    runtime: torchpool.Runtime
    good: Callable[[int], Tensor]
    bad: Callable[[int], Tensor]

    def inputs(self, count: int, *, poisoned: set[int]) -> list[Tensor]:
        return [self.bad(i) if i in poisoned else self.good(i) for i in range(count)]

    def check(self, inputs: list[Tensor], results: list[Any]) -> None:
        """Each result is eager's; each exception has the type and text of eager's and is an object of its own."""
        errors = [result for result in results if isinstance(result, BaseException)]
        assert len({id(error) for error in errors}) == len(errors)
        for x, result in zip(inputs, results, strict=True):
            expected = outcome(self.model, x)
            assert type(result) is type(expected), (result, expected)
            if isinstance(expected, Exception):
                assert str(result) == str(expected)
            else:
                assert_close(result, expected)


def _rows(value: float) -> Tensor:
    x = torch.full((1, 4), 0.5)
    x[0, 0] = value
    return x


def _ids(first: int) -> Tensor:
    return torch.tensor([[first, 1, 2]])


def _embedder() -> nn.Module:
    return build(Embedder)


KINDS: dict[str, tuple[Callable[[], Callable[..., Any]], Callable[[int], Tensor], Callable[[int], Tensor]]] = {
    "embedding": (_embedder, lambda i: _ids(i % 20), lambda i: _ids(1000 + i)),
    "marker": (lambda: build(Raiser), lambda i: _rows(i), lambda i: _rows(POISON)),
    "traced embedding": (
        lambda: torch.jit.trace(_embedder(), _ids(0)),
        lambda i: _ids(i % 20),
        lambda i: _ids(1000 + i),
    ),
    "scripted embedding": (
        lambda: torch.jit.script(_embedder()),
        lambda i: _ids(i % 20),
        lambda i: _ids(1000 + i),
    ),
    "scripted raise": (
        lambda: torch.jit.script(build(ScriptRaiser)),
        lambda i: _rows(i),
        lambda i: _rows(POISON),
    ),
}


@pytest.fixture(params=KINDS)
def served(request: pytest.FixtureRequest) -> Iterator[Poisonable]:
    make, good, bad = KINDS[request.param]
    model = make()
    runtime = torchpool.Runtime(1)
    predict = torchpool.wrap(model, example=good(0), runtime=runtime)
    assert predict.explain().contracts[0].mode == "merge"
    yield Poisonable(model, predict, runtime, good, bad)
    runtime.close()


def test_only_the_poisoned_call_fails(served: Poisonable) -> None:
    xs = served.inputs(16, poisoned={3, 4, 11})
    served.check(xs, together(served.predict, served.runtime, [(x,) for x in xs]))


def test_a_batch_of_nothing_but_poison_fails_each_with_its_own(served: Poisonable) -> None:
    xs = served.inputs(5, poisoned=set(range(5)))
    served.check(xs, together(served.predict, served.runtime, [(x,) for x in xs]))


def test_only_the_poisoned_call_fails_among_threads(served: Poisonable) -> None:
    def work(number: int) -> list[tuple[Tensor, Any]]:
        chance = random.Random(number)
        xs = [served.bad(i) if chance.random() < 0.01 else served.good(i) for i in range(30)]
        return [(x, outcome(served.predict, x)) for x in xs]

    pairs = [pair for pairs in run_threads(64, work) for pair in pairs]
    assert any(isinstance(result, Exception) for _, result in pairs)
    served.check([x for x, _ in pairs], [result for _, result in pairs])
    stats = served.predict.stats()
    assert stats["accepted"] == stats["resolved"]


def test_map_puts_exceptions_in_their_places(served: Poisonable) -> None:
    xs = served.inputs(40, poisoned={0, 7, 39})
    served.check(xs, list(served.predict.map(xs, return_exceptions=True)))


def test_map_raises_the_first_exception_after_the_results_before_it(served: Poisonable) -> None:
    xs = served.inputs(10, poisoned={4, 6})
    results = served.predict.map(xs)
    for x in xs[:4]:
        assert_close(next(results), eager(served.model, x))
    expected = outcome(served.model, xs[4])
    with pytest.raises(type(expected)) as caught:
        next(results)
    assert str(caught.value) == str(expected)
    assert list(results) == []


def test_asyncio_callers_get_their_own_exceptions(served: Poisonable) -> None:
    xs = served.inputs(40, poisoned={2, 17, 18})

    async def main() -> list[Any]:
        return await asyncio.gather(*(served.predict.acall(x) for x in xs), return_exceptions=True)

    served.check(xs, asyncio.run(main()))


def test_a_call_of_several_rows_fails_as_a_whole(served: Poisonable) -> None:
    several = torch.cat(served.inputs(4, poisoned={2}))
    xs = [served.good(0), several, served.good(1)]
    served.check(xs, together(served.predict, served.runtime, [(x,) for x in xs]))


def test_a_poisoned_first_call_is_not_learned_from(served: Poisonable) -> None:
    predict = torchpool.wrap(served.model)
    served.check([served.bad(0)], [outcome(predict, served.bad(0))])
    served.check([served.good(0)], [outcome(predict, served.good(0))])
    assert predict.explain().contracts[0].mode == "merge"


def test_poison_in_an_input_of_another_length_is_the_models_own_error() -> None:
    model = _embedder()
    predict = torchpool.wrap(model, example=torch.tensor([[1, 2, 3]]))
    for ids in ([[99]], [[1, 99, 2, 3, 4]]):
        with pytest.raises(IndexError, match="index out of range"):
            predict(torch.tensor(ids))


def test_no_frame_of_the_exception_holds_another_callers_rows() -> None:
    model = build(Raiser)
    runtime = torchpool.Runtime(1)
    predict = torchpool.wrap(model, example=_rows(0), runtime=runtime)
    calls = [(_rows(i),) for i in range(6)]
    calls[2] = (_rows(POISON),)
    error = together(predict, runtime, calls)[2]
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    assert "raise self.error()" in "".join(traceback.format_exception(error))
    assert error.__context__ is None and error.__cause__ is None
    seen = 0
    for frame in frames:
        for value in frame.f_locals.values():
            if isinstance(value, Tensor):
                seen += 1
                assert len(value) == 1 and value[0, 0] == POISON
    assert seen, "the model's own frame is in the traceback, with its own input"
    runtime.close()


@pytest.mark.parametrize("rows", [1, 2])
def test_a_poisoned_first_call_shows_the_models_frames_and_none_of_the_probes(rows: int) -> None:
    predict = torchpool.wrap(build(Raiser))
    error = outcome(predict, torch.cat([_rows(POISON)] * rows))
    assert _frames(error)[-2:] == ["_call_impl", "forward"]
    assert not {"learn", "find", "contract"} & set(_frames(error))


def test_a_call_that_is_refused_with_a_typed_error_shows_none_of_the_probes_frames() -> None:
    predict = torchpool.wrap(build(Raiser), example=_rows(0))
    error = outcome(predict, _rows(0).double())
    assert isinstance(error, TypeError) and error.__cause__ is not None
    assert not {"learn", "find", "contract"} & {*_frames(error), *_frames(error.__cause__)}


def _frames(error: BaseException) -> list[str]:
    return [frame.f_code.co_name for frame, _ in traceback.walk_tb(error.__traceback__)]


def test_an_exception_keeps_no_other_callers_input_alive() -> None:
    runtime = torchpool.Runtime(1)
    good = torch.full((1, 40_000), 0.5)  # above what submit() copies
    predict = torchpool.wrap(_Wide().eval(), example=good.clone(), runtime=runtime)
    with busy(runtime):
        ours = predict.submit(torch.full_like(good, POISON))
        other = predict.submit(good)
    error = ours.exception(HANG)
    assert isinstance(error, ValueError)
    other.result(HANG)
    watch = weakref.ref(good)
    del other, good
    predict(torch.ones(1, 40_000))  # a later call drops what earlier ones left
    assert watch() is None
    runtime.close()


def test_an_exception_keeps_its_own_input_only_as_long_as_it_lives() -> None:
    predict = torchpool.wrap(build(Raiser), example=_rows(0))
    bad = _rows(POISON)
    watch = weakref.ref(bad)
    error = outcome(predict, bad)
    assert isinstance(error, ValueError)
    del bad, error
    predict(_rows(0))
    assert watch() is None


class _Wide(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        if bool((x[:, 0] == POISON).any()):
            raise ValueError("a poisoned row")
        return x[:, :3] * 2


@pytest.mark.parametrize("cls", [KeyboardInterrupt, SystemExit])
def test_a_models_keyboard_interrupt_or_exit_reaches_its_caller_only(cls: type[BaseException]) -> None:
    model = build(lambda: Raiser(lambda: cls("from the model")))
    runtime = torchpool.Runtime(1)
    predict = torchpool.wrap(model, example=_rows(0), runtime=runtime)
    with busy(runtime):
        futures = [predict.submit(_rows(POISON if i == 1 else i)) for i in range(4)]
    with pytest.raises(cls, match="from the model"):
        futures[1].result(HANG)
    for i in (0, 2, 3):
        assert_close(futures[i].result(HANG), eager(model, _rows(i)))
    with pytest.raises(cls, match="from the model"):
        predict(_rows(POISON))
    with pytest.raises(cls, match="from the model"):
        list(predict.map([_rows(POISON)], return_exceptions=True))
    assert_close(predict(_rows(5)), eager(model, _rows(5)))
    runtime.close()


class Picky(Exception):
    def __init__(self, code: int, *, why: str) -> None:
        super().__init__(f"{why} ({code})")
        self.code, self.why = code, why


def test_an_exception_of_the_users_own_class_keeps_its_attributes() -> None:
    model = build(lambda: Raiser(lambda: Picky(7, why="marked")))
    runtime = torchpool.Runtime(1)
    predict = torchpool.wrap(model, example=_rows(0), runtime=runtime)
    error = together(predict, runtime, [(_rows(0),), (_rows(POISON),)])[1]
    assert isinstance(error, Picky) and (error.code, error.why) == (7, "marked")
    runtime.close()


class Chained(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        try:
            return {0.5: x * 2}[float(x.max())] if bool((x == POISON).any()) else x * 2
        except KeyError as error:
            raise RuntimeError("no such row") from error


def test_an_exception_keeps_its_cause() -> None:
    runtime = torchpool.Runtime(1)
    predict = torchpool.wrap(Chained().eval(), example=_rows(0), runtime=runtime)
    error = together(predict, runtime, [(_rows(0),), (_rows(POISON),)])[1]
    assert isinstance(error, RuntimeError) and isinstance(error.__cause__, KeyError)
    runtime.close()


ONE_FOR_ALL = ValueError("always this one")


def test_a_model_that_raises_one_object_for_all_is_served_like_any_other() -> None:
    model = build(lambda: Raiser(lambda: ONE_FOR_ALL))
    runtime = torchpool.Runtime(1)
    predict = torchpool.wrap(model, example=_rows(0), runtime=runtime)
    calls = [(_rows(POISON if i in (1, 2) else i),) for i in range(4)]
    results = together(predict, runtime, calls)
    assert results[1] is ONE_FOR_ALL and results[2] is ONE_FOR_ALL
    assert_close(results[0], eager(model, *calls[0]))
    assert_close(results[3], eager(model, *calls[3]))
    runtime.close()


def test_a_raised_stop_iteration_comes_out_of_calls_as_it_is() -> None:
    model = build(lambda: Raiser(lambda: StopIteration("odd")))
    predict = torchpool.wrap(model, example=draw(1, 4))
    with pytest.raises(StopIteration, match="odd"):
        predict(_rows(POISON))
    with pytest.raises(RuntimeError, match="StopIteration"):
        asyncio.run(_call(predict, _rows(POISON)))


async def _call(predict: torchpool.Predictor, x: Tensor) -> Any:
    return await predict.acall(x)
