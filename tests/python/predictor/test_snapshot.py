"""Inputs that their owner writes while the call waits: small ones are copied at the call, large ones are watched."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from bad_models import busy
from support import HANG, assert_close, build, draw, draws, eager, run_threads
from torch import nn

import torchpool

Tensor = torch.Tensor


def _layer() -> nn.Module:
    return nn.Linear(4, 3)


def test_a_small_input_written_after_submit_gives_the_old_values_result(runtime: torchpool.Runtime) -> None:
    model = build(_layer)
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    x = draw(1, 4)
    expected = eager(model, x)
    with busy(runtime):
        future = predict.submit(x)
        x.fill_(100.0)
    assert_close(future.result(HANG), expected)


def test_one_buffer_filled_again_for_each_submit_gives_each_its_own_result() -> None:
    model = build(_layer)
    predict = torchpool.wrap(model, example=draw(1, 4))
    buffer = torch.zeros(1, 4)
    futures = []
    for i in range(50):
        buffer.fill_(float(i))
        futures.append(predict.submit(buffer))
    for i, future in enumerate(futures):
        assert_close(future.result(HANG), eager(model, torch.full((1, 4), float(i))))


@pytest.mark.parametrize("leaky", [False, True], ids=["merged", "alone"])
def test_a_large_input_written_after_submit_is_an_error_that_names_clone(
    leaky: bool, runtime: torchpool.Runtime
) -> None:
    class Wide(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x - x.mean() if leaky else x * 2)[:, :3]

    predict = torchpool.wrap(Wide().eval(), example=draw(2, 20_000), runtime=runtime)
    x, other = draws(2, 2, 20_000)
    with busy(runtime):
        future = predict.submit(x)
        untouched = predict.submit(other)
        x[0, 0] = 100.0
    with pytest.raises(RuntimeError, match=r"written to after it was submitted .* clone\(\)"):
        future.result(HANG)
    assert_close(untouched.result(HANG), eager(Wide(), other))


def test_a_large_input_written_after_its_result_is_no_error(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(nn.ReLU().eval(), example=draw(1, 20_000), runtime=runtime)
    x = draw(1, 20_000)
    for _ in range(3):
        expected = x.relu()
        y = predict.submit(x).result(HANG)
        x.add_(1)
        assert_close(y, expected)


def test_a_synchronous_call_reads_the_callers_own_memory_only_while_it_runs() -> None:
    predict = torchpool.wrap(nn.ReLU().eval(), example=draw(1, 4))

    def work(number: int) -> None:
        x = draw(1, 4, seed=number)
        for _ in range(20):
            expected = x.relu()
            y = predict(x)
            x.add_(1)
            assert_close(y, expected)

    run_threads(4, work)


class Select(nn.Module):
    def forward(self, x: Tensor, where: slice) -> Tensor:
        return x[:, where] * 2


def test_a_small_input_beside_an_argument_that_cannot_be_taken_apart_is_copied(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Select().eval(), runtime=runtime)
    x = draw(1, 4)
    expected = eager(Select(), x, slice(0, 2))
    with busy(runtime):
        future = predict.submit(x, slice(0, 2))
        x.fill_(100.0)
    assert_close(future.result(HANG), expected)


def test_an_input_written_through_numpy_after_submit_gives_the_old_values_result(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(_layer), example=draw(1, 4), runtime=runtime)
    array = np.full((1, 4), 0.5, dtype=np.float32)
    expected = eager(predict.model, torch.full((1, 4), 0.5))
    with busy(runtime):
        future = predict.submit(torch.from_numpy(array))
        array[:] = 100.0
    assert_close(future.result(HANG), expected)


def test_a_list_changed_after_submit_gives_the_old_lists_result(runtime: torchpool.Runtime) -> None:
    class Total(nn.Module):
        def forward(self, xs: list[Tensor], factors: list[float]) -> Tensor:
            return sum(x * f for x, f in zip(xs, factors, strict=True))

    predict = torchpool.wrap(Total().eval(), example=(draws(2, 1, 4), [1.0, 2.0]), runtime=runtime)
    xs, factors = draws(2, 1, 4), [1.0, 2.0]
    expected = eager(Total(), list(xs), list(factors))
    with busy(runtime):
        future = predict.submit(xs, factors)
        xs.clear()
        factors[0] = 9.0
    assert_close(future.result(HANG), expected)


def test_large_rows_of_map_are_not_written_by_anyone_and_merge(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(nn.ReLU().eval(), example=draw(1, 20_000), runtime=runtime)
    xs = draw(6, 1, 20_000)
    for x, y in zip(xs, predict.map(xs), strict=True):
        assert_close(y, x.relu())
