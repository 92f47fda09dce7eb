"""Captures run in a child process, which neither disturbs this one nor is disturbed by what it holds."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import threading
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import HANG, SimpleCNN, assert_clean, assert_close, build, draw, eager, run_python
from torch import nn

import torchpool
from torchpool import _core
from torchpool.capture import process as capture_process
from torchpool.predictor import graphs

pytestmark = pytest.mark.graphs

Child = Callable[..., Any]


@pytest.fixture
def child(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[Child], torchpool.Predictor]]:
    """A predictor whose captures do something else in the child, already called once."""

    def wrap(act: Child) -> torchpool.Predictor:
        monkeypatch.setattr(capture_process, "_answer", act)
        predict = torchpool.wrap(build(lambda: nn.Linear(4, 3)))
        predict(draw(1, 4))
        return predict

    yield wrap


def assert_served_by_the_module(predict: torchpool.Predictor, why: str) -> None:
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("python",)
    assert why in str(predict.explain())
    assert_close(predict(draw(2, 4)), eager(predict.model, draw(2, 4)))


def test_a_child_that_crashes_leaves_the_module_serving(child: Any) -> None:
    predict = child(lambda source: os.kill(os.getpid(), signal.SIGKILL))
    assert_served_by_the_module(predict, "the process that captured it ended without a word (signal 9)")


def test_a_child_that_ends_early_leaves_the_module_serving(child: Any) -> None:
    predict = child(lambda source: os._exit(7))
    assert_served_by_the_module(predict, "the process that captured it ended without a word (exit code 7)")


def test_a_child_that_hangs_is_ended_by_its_alarm(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fork = _core.fork
    monkeypatch.setattr(_core, "fork", lambda seconds: fork(1))
    predict = child(spin)
    assert_served_by_the_module(predict, f"signal {signal.SIGALRM.value}")


@pytest.mark.alone
def test_a_child_that_waits_in_vain_is_replaced(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_process, "_IDLE_SECONDS", 0.3)
    answer, forks = capture_process._answer, []  # type: Any, list[int]

    def fork(seconds: int, fork: Any = _core.fork) -> int:
        forks.append(seconds)
        return int(fork(seconds))

    def act(source: Any) -> Any:
        return answer(source) if len(forks) > 2 else threading.Event().wait()

    monkeypatch.setattr(_core, "fork", fork)
    predict = child(act)
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",)
    assert len(forks) == 3


def test_children_that_all_wait_in_vain_are_given_up(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture_process, "_IDLE_SECONDS", 0.3)
    predict = child(lambda source: threading.Event().wait())
    assert_served_by_the_module(predict, "3 processes that were to capture it came to a standstill")


def spin(source: Any) -> Any:
    while True:
        pass


def test_a_child_that_takes_too_long_is_given_up(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    children: list[int] = []

    def fork(seconds: int, fork: Any = _core.fork) -> int:
        children.append(fork(int(HANG)))
        return children[-1]

    monkeypatch.setattr(capture_process, "_LIMIT_SECONDS", 1)
    monkeypatch.setattr(_core, "fork", fork)
    predict = child(spin)
    assert_served_by_the_module(predict, "capturing took more than 1 s")
    (gone,) = children
    with pytest.raises(ChildProcessError):
        os.waitpid(gone, os.WNOHANG)  # it was killed, and no zombie is left


def test_a_child_that_fails_leaves_the_module_serving(child: Any) -> None:
    def act(source: Any) -> Any:
        raise ZeroDivisionError("no way")

    predict = child(act)
    assert_served_by_the_module(predict, "ended without a word (exit code 1)")


def test_a_dropped_predictor_is_freed_at_once_and_its_capture_given_up(child: Any) -> None:
    predict = child(spin)
    gone, capturing = weakref.ref(predict), graphs._capturer._thread
    del predict
    assert gone() is None
    capturing.join(HANG)
    assert not capturing.is_alive()


def test_a_closed_predictors_capture_is_given_up(child: Any) -> None:
    predict = child(spin)
    predict.close()
    assert predict.ready(HANG)


def test_a_process_that_cannot_fork_serves_by_the_module(child: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fork(seconds: int) -> int:
        raise OSError(12, "Cannot allocate memory")

    monkeypatch.setattr(_core, "fork", fork)
    predict = child(lambda source: None)
    assert_served_by_the_module(predict, "the process cannot be forked to capture in: Cannot allocate memory")


def test_a_module_that_writes_where_it_likes_leaves_nothing_here() -> None:
    """Tables that a module keeps outside of itself would hold fake tensors after an export in this process."""
    tables: dict[int, torch.Tensor] = {}

    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            length = x.shape[1]
            if length not in tables:
                tables[length] = torch.arange(length, dtype=x.dtype)[:, None]
            return self.linear(x) + tables[length]

    model = build(Cached)
    predict = torchpool.wrap(model)
    xs = [draw(1, length, 4) for length in (6, 9)]
    for x in xs:
        predict(x)
    assert predict.ready(HANG)
    assert all(type(table) is torch.Tensor for table in tables.values())
    for x in xs:
        assert_close(predict(x), eager(model, x))


def test_the_child_finalizes_nothing_of_the_parents() -> None:
    """As it would in a child of os.fork(): a connection that a thread keeps would say good-bye to its server."""
    done = run_python(
        """
        import os, threading
        from support import *
        reader, writer = os.pipe()
        class Connection:
            def __del__(self):
                os.write(writer, b"x")
        local = threading.local()
        ready, done = threading.Event(), threading.Event()
        def keep():
            local.connection = Connection()
            ready.set()
            done.wait()
        thread = threading.Thread(target=keep)
        thread.start()
        ready.wait()
        predict = torchpool.wrap(build(lambda: torch.nn.Linear(4, 3)))
        predict(draw(1, 4))
        assert predict.ready(30) and predict.explain().served_by == ("graph",), predict.explain()
        os.set_blocking(reader, False)
        try:
            raise SystemExit(f"finalized: {os.read(reader, 1)}")
        except BlockingIOError:
            pass
        done.set()
        thread.join()
        assert os.read(reader, 1) == b"x"
        """
    )
    assert_clean(done)


def test_a_class_of_the_main_program_is_captured_and_export_stays_out_of_the_process() -> None:
    done = run_python(
        """
        import sys
        from support import *
        class Scaled(torch.nn.Module):
            def forward(self, x):
                print("called")
                return x * 2
        model = Scaled().eval()
        predict = torchpool.wrap(model)
        assert_close(predict(draw(1, 4)), draw(1, 4) * 2)
        assert predict.ready(30) and predict.explain().served_by == ("graph",), predict.explain()
        print("from here on the graph")
        assert_close(predict(draw(3, 4)), draw(3, 4) * 2)
        assert "torch._dynamo" not in sys.modules and "sympy" not in sys.modules
        """
    )
    assert_clean(done)
    assert done.stdout.splitlines()[-1] == "from here on the graph"


@pytest.mark.parametrize("end", ["pass", "raise KeyboardInterrupt", "os.kill(os.getpid(), signal.SIGTERM)"])
def test_a_program_that_ends_while_it_captures_ends_at_once_and_takes_the_child_along(end: str) -> None:
    done = run_python(
        f"""
        import os, signal, sys, threading
        from support import *
        from torchpool.capture import process as capture_process
        reader, writer = os.pipe()
        capture_process._let_go = lambda keep: os.write(writer, b"%d" % os.getpid())
        capture_process._answer = lambda source: threading.Event().wait()
        predict = torchpool.wrap(build(lambda: torch.nn.Linear(4, 3)), example=draw(1, 4))
        print(int(os.read(reader, 20)), flush=True)
        {end}
        """
    )
    assert "hung" not in done.stderr
    with contextlib.suppress(ProcessLookupError):
        child = os.pidfd_open(int(done.stdout))
        assert select.select([child], [], [], HANG)[0], "the child lives on"
        os.close(child)


def test_the_program_may_reap_all_children_itself() -> None:
    done = run_python(
        """
        import os, signal
        from support import *
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        predict = torchpool.wrap(build(lambda: torch.nn.Linear(4, 3)))
        predict(draw(1, 4))
        assert predict.ready(30) and predict.explain().served_by == ("graph",), predict.explain()
        """
    )
    assert_clean(done)


def test_capturing_is_quiet(caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]) -> None:
    caplog.set_level(logging.WARNING)
    predict = torchpool.wrap(build(SimpleCNN))
    predict(draw(1, 1, 28, 28))
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",)
    assert capfd.readouterr() == ("", "")
    assert not caplog.records
