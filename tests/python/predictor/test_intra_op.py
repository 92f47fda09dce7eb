"""Calls that run on their callers' threads share the cores: they do not each take all of them."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
import torch
from support import HANG, run_threads

import torchpool
from torchpool import _core


@pytest.fixture(autouse=True)
def four_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def test_a_lone_call_has_all_cores_but_those_that_are_lent() -> None:
    seen: list[int] = []
    predict = torchpool.wrap(lambda x: seen.append(torch.get_num_threads()) or x + 1, batch=False)
    predict(torch.ones(1, 2))
    for lent, threads in ((1, 3), (5, 1)):
        _core.lend_cores(lent)
        try:
            predict(torch.ones(1, 2))
        finally:
            _core.lend_cores(-lent)
        assert seen.pop() == threads
    predict(torch.ones(1, 2))
    assert seen == [4, 4]
    assert torch.get_num_threads() == 4


def test_calls_side_by_side_share_the_cores() -> None:
    met = threading.Barrier(2)
    seen: list[int] = []

    def model(x: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_num_threads())
        met.wait(HANG)
        return x + 1

    predict = torchpool.wrap(model, batch=False)

    def work(_: int) -> None:
        torch.set_num_threads(4)
        predict(torch.ones(1, 2))

    run_threads(2, work)
    assert sorted(seen) == [2, 4], "the second one came while the first had all"


def test_a_call_within_a_call_has_what_the_outer_one_has() -> None:
    seen: list[int] = []
    inner = torchpool.wrap(lambda x: seen.append(torch.get_num_threads()) or x + 1, batch=False)
    outer = torchpool.wrap(lambda x: inner(x) * 2, batch=False)
    outer(torch.ones(1, 2))
    assert seen == [4]
