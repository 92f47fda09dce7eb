"""The thread that captures: what ends one capture ends no other, and nobody waits for what will never be."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from support import HANG, assert_clean, build, row, run_python

import torchpool
from torchpool.predictor import graphs
from torchpool.predictor.graphs import Capturer

pytestmark = pytest.mark.graphs


def test_jobs_are_done_one_after_the_other() -> None:
    capturer, seen, done = Capturer(), list[int](), threading.Event()
    gate = threading.Event()
    capturer.add(lambda: gate.wait(HANG) and seen.append(0))
    for number in range(1, 4):
        capturer.add(lambda number=number: seen.append(number))  # type: ignore[misc]
    capturer.add(done.set)
    assert not seen
    gate.set()
    assert done.wait(HANG)
    assert seen == [0, 1, 2, 3]


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), ValueError("broken")])
def test_a_job_that_raises_anything_ends_by_itself(error: BaseException) -> None:
    capturer, done = Capturer(), threading.Event()

    def fail() -> None:
        raise error

    capturer.add(fail)
    capturer.add(done.set)
    assert done.wait(HANG)


def test_a_capture_that_is_ended_says_so_and_others_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(*args: Any, **kwargs: Any) -> Any:
        raise SystemExit(3)

    predict = torchpool.wrap(build(lambda: torch.nn.Linear(4, 3)))
    with monkeypatch.context() as patch:
        patch.setattr(graphs, "build", ended)
        predict(row(1))
        assert predict.ready(HANG)
    assert "SystemExit" in str(predict.explain())
    predict.refresh()
    predict(row(1))
    assert predict.ready(HANG)
    assert predict.explain().to_dict()["contracts"]
    assert "SystemExit" not in str(predict.explain())


def test_a_program_that_waits_for_its_graphs_at_its_end_ends() -> None:
    done = run_python("""
import threading
from support import *
predictors = [torchpool.wrap(build(lambda: torch.nn.Linear(4, 3)), example=row()) for _ in range(3)]
told = []
def wait():
    told.append(predictors[2].ready())
    print(told, "the interpreter exits" in str(predictors[2].explain()))
threading.Thread(target=wait).start()
""")
    assert_clean(done)
    assert done.stdout == "[True] True\n"
