"""What finished calls held is freed though nobody calls again; what waits for room holds no copies."""

from __future__ import annotations

import asyncio
import threading
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import HANG, Gate, Poisoned, assert_clean, assert_close, build, eager, row, run_python
from torch import nn

import torchpool


class Argument:
    """Of a type that cannot be taken apart."""


def watched(thing: Any) -> threading.Event:
    freed = threading.Event()
    weakref.finalize(thing, freed.set)
    return freed


def answer(argument: Argument) -> int:
    return 1


def test_an_argument_is_freed_though_nobody_calls_again(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(answer, runtime=runtime)
    freed = []
    for _ in range(3):
        argument = Argument()
        freed.append(watched(argument))
        assert predict.submit(argument).result(HANG) == 1
        del argument
    assert all(event.wait(HANG) for event in freed)


def test_an_exception_is_freed_though_nobody_calls_again(runtime: torchpool.Runtime) -> None:
    def refuse(x: torch.Tensor) -> torch.Tensor:
        raise Poisoned("a poisoned row")

    predict = torchpool.wrap(refuse, runtime=runtime)
    error = predict.submit(row()).exception(HANG)
    assert isinstance(error, Poisoned)
    freed = watched(error)
    del error
    assert freed.wait(HANG)


def test_inputs_of_a_batch_are_freed_though_nobody_calls_again(hold: Any) -> None:
    held = hold()
    held.hold()
    x = torch.zeros(40_000, 4)  # above what is copied
    freed = watched(x)
    future = held.predict.submit(x)
    del x
    held.gate.open()
    assert future.result(HANG).shape == (40_000, 3)
    assert freed.wait(HANG)


def test_a_process_ends_while_something_is_to_be_freed() -> None:
    assert_clean(
        run_python(
            """
            import torchpool

            class Argument:
                pass

            predict = torchpool.wrap(lambda argument: 1)
            for _ in range(100):
                assert predict.submit(Argument()).result() == 1
            """
        )
    )


def after_a_write(held: Any) -> list[Any]:
    """The results of two awaited calls, the second of which is written to before either runs."""
    x = row(2)

    def write() -> None:
        x.zero_()
        held.gate.open()

    return asyncio.run(beside(held.predict, x, write))


async def beside(predict: torchpool.Predictor, x: torch.Tensor, then: Callable[[], None]) -> list[Any]:
    """Two awaited calls, with something done once both are made."""
    calls = [predict.acall(row(1)), predict.acall(x)]
    then()
    return await asyncio.gather(*calls, return_exceptions=True)


def test_an_awaited_call_that_waits_for_room_holds_no_copy(hold: Any) -> None:
    held = hold(queue_size=1)
    held.hold()
    first, second = after_a_write(held)
    assert_close(first, eager(held.model, row(1)))
    assert "was written to after it was submitted" in str(second)


def test_one_that_has_room_is_copied(hold: Any) -> None:
    held = hold(queue_size=2)
    held.hold()
    _, second = after_a_write(held)
    assert_close(second, eager(held.model, row(2)))


@pytest.mark.parametrize("bound", [{"queue_size": 1}, {"queue_bytes": 16}])
def test_awaited_calls_keep_to_the_bounds(hold: Any, bound: dict[str, int]) -> None:
    held = hold(**bound)
    held.hold()

    async def many() -> list[Any]:
        calls = [held.predict.acall(row(number)) for number in range(1, 51)]
        assert held.predict.stats()["waiting_rows"] == 1
        held.gate.open()
        return await asyncio.gather(*calls)

    for number, result in enumerate(asyncio.run(many()), 1):
        assert_close(result, eager(held.model, row(number)))


def test_an_argument_beside_others_holds_no_copy_either(runtime: torchpool.Runtime) -> None:
    gate = Gate()

    class Takes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("count", torch.zeros(()))

        def forward(self, x: torch.Tensor, argument: Argument) -> torch.Tensor:
            self.count += 1  # so that calls run one by one
            gate.pass_through()
            return x * 2

    predict = torchpool.wrap(build(Takes), runtime=runtime, queue_size=1)
    x, argument = row(2), Argument()

    async def calls() -> list[Any]:
        running = predict.acall(row(0), argument)
        await asyncio.to_thread(gate.wait_entered)
        waiting = [predict.acall(row(1), argument), predict.acall(x, argument)]
        x.zero_()
        gate.open()
        return await asyncio.gather(running, *waiting, return_exceptions=True)

    zero, one, two = asyncio.run(calls())
    assert_close([zero, one], [row(0) * 2, row(1) * 2])
    assert "was written to after it was submitted" in str(two)


def kept_bytes(predict: torchpool.Predictor) -> int:
    kinds = predict._learner.kinds.values()
    return sum(leaf.nbytes for kind in kinds for sample in kind.samples for leaf in sample)


@pytest.mark.parametrize("merges", [True, False])
def test_what_is_kept_to_learn_from_is_bounded_in_bytes(merges: bool) -> None:
    class Sums(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.sum((1, 2)) if merges else x.sum((1, 2)) + x.sum()

    predict = torchpool.wrap(build(Sums))
    for length in (100, 120, 140, 160):
        predict(torch.ones(16, length, 4000))  # rows of 1.6 MB and more
    assert 0 < kept_bytes(predict) <= 4 << 20


def test_of_one_row_that_is_larger_than_that_one_is_kept() -> None:
    predict = torchpool.wrap(nn.ReLU().eval())
    predict(torch.ones(3, 2 << 20))
    assert kept_bytes(predict) == 8 << 20
