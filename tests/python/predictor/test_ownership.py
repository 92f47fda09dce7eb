"""Who owns what: results belong to their caller alone, inputs are only read."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import itertools
import traceback
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import (
    HANG,
    MARK,
    POISON,
    GateModule,
    MarkerModule,
    assert_close,
    build,
    close_and_free,
    eager,
    row,
)
from torch import nn

import torchpool


class OwnBuffer(nn.Module):
    """Writes its output into a buffer that it keeps, as models with out= do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.kept = torch.zeros(1, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.kept.shape[0] != x.shape[0]:
            self.kept = torch.zeros(x.shape[0], 3)
        return torch.addmm(self.linear.bias, x, self.linear.weight.T, out=self.kept)


class Constant(nn.Module):
    """Returns a parameter beside what depends on the input."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.linear(x), self.linear.weight


class ViewOfInput(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 1:]


class Twice(nn.Module):
    """The same tensor in two places of the output."""

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = x * 2
        return y, y


def storages(result: Any) -> set[int]:
    leaves = result if isinstance(result, tuple) else (result,)
    return {leaf.untyped_storage().data_ptr() for leaf in leaves}


def lone(predict: torchpool.Predictor, inputs: list[torch.Tensor]) -> list[Any]:
    return [predict(x) for x in inputs]


def submitted(predict: torchpool.Predictor, inputs: list[torch.Tensor]) -> list[Any]:
    return [future.result(HANG) for future in [predict.submit(x) for x in inputs]]


def mapped(predict: torchpool.Predictor, inputs: list[torch.Tensor]) -> list[Any]:
    return list(predict.map(inputs))


@pytest.mark.parametrize("way", [lone, submitted, mapped])
@pytest.mark.parametrize("model", [nn.Identity, ViewOfInput, OwnBuffer, Constant])
def test_results_share_memory_with_nobody(model: type[nn.Module], way: Callable[..., list[Any]]) -> None:
    module = build(model)
    predict = torchpool.wrap(module)
    inputs = [row(n) for n in range(40)]
    results = way(predict, inputs)
    for n, result in enumerate(results):
        first = result[0] if isinstance(result, tuple) else result
        expected = eager(build(model), row(n))
        assert_close(first, expected[0] if isinstance(expected, tuple) else expected)
    taken = [storages(x) for x in inputs] + [storages(p) for p in module.parameters()] + [storages(r) for r in results]
    for one, other in itertools.combinations(taken, 2):
        assert not one & other


def test_writing_to_a_result_changes_no_other_result(hold: Any) -> None:
    held = hold()
    held.hold()
    futures = [held.predict.submit(row(n)) for n in range(8)]
    held.gate.open()
    results = [future.result(HANG) for future in futures]
    results[3].fill_(float("nan"))
    for n in (0, 1, 2, 4, 5, 6, 7):
        assert_close(results[n], eager(held.model.linear, row(n)))


def test_two_places_of_one_tensor_are_equal_in_the_result() -> None:
    predict = torchpool.wrap(Twice().eval(), example=row())
    one, other = predict.submit(row(3.0)).result(HANG)
    assert torch.equal(one, row(3.0) * 2)
    assert torch.equal(one, other)


def test_a_small_result_does_not_keep_its_batch_alive(hold: Any) -> None:
    held = hold()
    held.hold()
    futures = [held.predict.submit(row(n)) for n in range(32)]
    held.gate.open()
    for future in futures:
        result = future.result(HANG)
        assert result.untyped_storage().nbytes() == result.nbytes
    assert held.predict.stats()["batch_rows"]["max"] > 1


def test_a_result_that_is_a_slice_of_a_large_tensor_does_not_keep_it_alive() -> None:
    class FirstOfMany(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.repeat(1, 1000)[:, :4]

    predict = torchpool.wrap(FirstOfMany().eval(), example=row())
    for result in (predict.submit(row(1.0)).result(HANG), next(predict.map([row(1.0)]))):
        assert result.untyped_storage().nbytes() == result.nbytes


def test_inputs_are_never_modified(hold: Any) -> None:
    held = hold()
    held.hold()
    inputs = [row(n) for n in range(16)]
    before = [x.clone() for x in inputs]
    versions = [x._version for x in inputs]
    futures = [held.predict.submit(x) for x in inputs]
    held.gate.open()
    for future in futures:
        future.result(HANG)
    assert [x._version for x in inputs] == versions
    for x, own in zip(inputs, before, strict=True):
        assert torch.equal(x, own)


def test_a_model_that_writes_to_its_input_does_so_to_nobody_elses(hold: Any) -> None:
    class InPlace(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mul_(2)

    predict = torchpool.wrap(InPlace().eval())
    inputs = [row(n) for n in range(8)]
    results = [future.result(HANG) for future in [predict.submit(x) for x in inputs]]
    for n, result in enumerate(results):
        assert torch.equal(result, row(n) * 2)


def test_a_small_submitted_input_may_be_overwritten_at_once(hold: Any) -> None:
    held = hold()
    held.hold()
    x = row(1.0)
    future = held.predict.submit(x)
    x.fill_(100.0)
    held.gate.open()
    assert_close(future.result(HANG), eager(held.model.linear, row(1.0)))


def test_a_large_submitted_input_that_is_overwritten_is_refused(hold: Any) -> None:
    held = hold(queue_size=100_000)
    held.hold()
    x = row(1.0, rows=10_000)
    changed, unchanged = held.predict.submit(x), held.predict.submit(row(2.0, rows=10_000))
    x.fill_(100.0)
    held.gate.open()
    with pytest.raises(RuntimeError, match="'x' was written to after it was submitted"):
        changed.result(HANG)
    assert_close(unchanged.result(HANG), eager(held.model.linear, row(2.0, rows=10_000)))


def test_a_result_may_be_trained_on_later() -> None:
    module = build(GateModule)
    predict = torchpool.wrap(module, example=row())
    for result in (predict(row(1.0)), predict.submit(row(1.0)).result(HANG)):
        assert not result.is_inference()
        weight = torch.ones(3, requires_grad=True)
        (result * weight).sum().backward()
        assert_close(weight.grad, result[0])


def test_a_future_that_is_done_keeps_only_its_result(hold: Any) -> None:
    held = hold()
    held.gate.open()
    x = row(1.0, rows=10_000)  # too large to be copied
    gone = weakref.ref(x)
    future = held.predict.submit(x)
    result = future.result(HANG)
    del x
    close_and_free(held.predict)
    assert gone() is None
    assert future.result() is result


def test_a_failed_calls_exception_keeps_nobody_elses_data_alive(hold: Any) -> None:
    held = hold()
    held.hold()
    watched: list[Any] = []
    held.gate.watch = lambda x: watched.append((x[:, 0].tolist(), weakref.ref(x)))
    futures = [held.predict.submit(row(POISON if n == 3 else n)) for n in range(8)]
    held.gate.open()
    error = futures[3].exception(HANG)
    assert isinstance(error, ValueError)
    concurrent.futures.wait(futures, HANG)
    del futures
    close_and_free(held.predict)
    assert [values for values, alive in watched if alive() is not None] == [[POISON]]  # a frame of its own run has it


def fails_in_future(predict: torchpool.Predictor) -> BaseException | None:
    return predict.submit(row(POISON)).exception(HANG)


def fails_in_map(predict: torchpool.Predictor) -> BaseException:
    return next(predict.map([row(POISON)], return_exceptions=True))


def fails_in_ended_map(predict: torchpool.Predictor) -> BaseException:
    with pytest.raises(ValueError, match="poisoned") as caught:
        list(predict.map([row(1.0), row(POISON)]))
    return caught.value


def fails_in_coroutine(predict: torchpool.Predictor) -> BaseException:
    async def main() -> BaseException:
        with pytest.raises(ValueError, match="poisoned") as caught:
            await predict.acall(row(POISON))
        return caught.value

    return asyncio.run(main())


@pytest.mark.parametrize("way", [fails_in_future, fails_in_map, fails_in_ended_map, fails_in_coroutine])
def test_an_exception_is_freed_once_the_caller_drops_it(way: Callable[..., Any]) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    gone = weakref.ref(way(predict))
    close_and_free(predict)
    gc.collect()
    assert gone() is None


def test_an_exceptions_traceback_begins_in_the_model(hold: Any) -> None:
    held = hold()
    error = held.predict.submit(row(POISON)).exception(HANG)
    frames = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    assert "_settle" not in frames
    assert frames[-1] == "forward"


def test_each_failed_call_gets_an_exception_of_its_own(hold: Any) -> None:
    held = hold()
    held.hold()
    futures = [held.predict.submit(row(POISON)) for _ in range(4)]
    held.gate.open()
    errors = [future.exception(HANG) for future in futures]
    assert len({id(error) for error in errors}) == 4
    assert all(isinstance(error, ValueError) for error in errors)


def test_a_gate_sees_each_row_once_where_nothing_fails(hold: Any) -> None:
    held = hold()
    held.hold()
    futures = [held.predict.submit(row(n)) for n in range(20)]
    held.gate.open()
    for future in futures:
        future.result(HANG)
    assert held.gate.seen == [MARK, *range(20)]
