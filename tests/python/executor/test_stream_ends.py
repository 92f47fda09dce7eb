"""Streams to their end: drained, cancelled, broken, held, and in a forked child."""

from __future__ import annotations

import concurrent.futures
import contextvars
import threading
from collections.abc import Callable, Iterator
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
import torch
from stream_support import flood, mapped, rows, seen
from support import HANG, MARK, MarkerModule, assert_all_close, assert_clean, build, draw, eager, row, run_python
from torch import nn

import torchpool
from torchpool.executor.backlog import Stream, SubmitStream
from torchpool.executor.map_stream import MapStream

Outcomes = Callable[[], list[Any]]  # waits for all calls: results, or exceptions in their places


def submitted(calls: Any, values: list[float], *, held: bool = False) -> tuple[Stream, Outcomes]:
    stream = SubmitStream(held=held)
    futures = [stream.submit(calls, (row(value),), {}) for value in values]

    def outcome(future: Any) -> Any:
        try:
            return future.result(HANG)
        except (Exception, concurrent.futures.CancelledError) as error:
            return error

    return stream, lambda: [outcome(future) for future in futures]


def in_map(calls: Any, values: list[float], *, held: bool = False) -> tuple[Stream, Outcomes]:
    stream, results = mapped(calls, rows(*values), held=held)

    def outcomes() -> list[Any]:
        found: list[Any] = []
        try:
            for result in results:
                found.append(result)
        except (Exception, concurrent.futures.CancelledError) as error:
            found += [error] * (len(values) - len(found))  # the standard map ends with the first, too
        return found

    return stream, outcomes


WAYS = pytest.mark.parametrize("start", [submitted, in_map])


def assert_results(outcomes: list[Any], held: Any, values: Any) -> None:
    assert_all_close(outcomes, (eager(held.model.linear, row(value)) for value in values))


@WAYS
def test_drain_waits_for_everything_accepted(hold: Any, start: Any) -> None:
    held = hold(queue_size=2)
    held.hold()
    stream, outcomes = start(held.predict, list(range(20)))
    assert not stream.drain(until=0.0)
    assert stream.pending == 20
    threading.Thread(target=held.gate.open).start()
    assert stream.drain()
    assert stream.pending == 0
    assert seen(held) == list(range(20))
    assert_results(outcomes(), held, range(20))
    assert stream.drain()


@WAYS
@pytest.mark.parametrize("queue_size", [1, 3, 100])
def test_cancel_waiting_cancels_what_has_not_started(hold: Any, start: Any, queue_size: int) -> None:
    held = hold(queue_size=queue_size)
    first = held.hold()
    stream, outcomes = start(held.predict, list(range(20)))
    stream.cancel_waiting()
    assert {type(outcome) for outcome in outcomes()} == {concurrent.futures.CancelledError}
    assert stream.drain()
    assert stream.pending == 0
    held.gate.open()
    assert first.result(HANG).shape == (1, 3)
    held.predict.close()
    assert seen(held) == []
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"]


@WAYS
def test_cancel_waiting_lets_what_runs_finish(hold: Any, start: Any) -> None:
    held = hold(max_batch=1)
    stream, outcomes = start(held.predict, [MARK, 1, 2])
    held.gate.wait_entered()
    stream.cancel_waiting()
    assert not stream.drain(until=0.0)
    held.gate.open()
    assert stream.drain()
    first, *rest = outcomes()
    assert_results([first], held, [MARK])
    assert {type(outcome) for outcome in rest} == {concurrent.futures.CancelledError}


@WAYS
def test_nothing_is_fed_while_a_stream_is_held(hold: Any, start: Any) -> None:
    held = hold()
    held.gate.open()
    stream, outcomes = start(held.predict, list(range(5)), held=True)
    assert stream.pending == 5
    assert not stream.drain(until=0.0)
    assert seen(held) == []
    assert held.predict.stats()["accepted"] == 0
    stream.release()
    assert stream.drain()
    assert_results(outcomes(), held, range(5))
    assert seen(held) == list(range(5))


def test_whoever_iterates_waits_while_a_stream_is_held(hold: Any) -> None:
    held = hold()
    held.gate.open()
    for buffersize in (None, 2):
        stream, results = mapped(held.predict, rows(*range(5)), buffersize=buffersize, held=True)
        threading.Thread(target=stream.release).start()
        assert_results(list(results), held, range(5))
    _, results = mapped(held.predict, rows(1), held=True, timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)


@WAYS
def test_a_broken_stream_fails_what_waits(hold: Any, start: Any) -> None:
    held = hold()
    stream, outcomes = start(held.predict, list(range(5)), held=True)
    stream.break_(BrokenThreadPool("the initializer failed"))
    for outcome in outcomes():
        assert isinstance(outcome, BrokenThreadPool)
        assert outcome.args == ("the initializer failed",)
    assert stream.drain()
    assert stream.pending == 0
    assert held.predict.stats()["accepted"] == 0


def test_a_broken_stream_fails_what_comes_later_with_exceptions_of_their_own(hold: Any) -> None:
    held = hold()
    stream = SubmitStream(held=True)
    futures = [stream.submit(held.predict, (row(1),), {})]
    stream.break_(BrokenThreadPool("the initializer failed"))
    futures.append(stream.submit(held.predict, (row(2),), {}))
    errors = [future.exception(HANG) for future in futures]
    assert [type(error) for error in errors] == [BrokenThreadPool] * 2
    assert errors[0] is not errors[1]
    assert stream.drain()


def test_a_cancelled_stream_cancels_what_comes_later(hold: Any) -> None:
    stream = SubmitStream()
    stream.cancel_waiting()
    assert stream.submit(hold().predict, (row(1),), {}).cancelled()
    assert stream.drain()


def test_with_buffersize_nothing_is_read_after_read_no_more(hold: Any) -> None:
    held = hold()
    held.gate.open()
    for error in (RuntimeError("cannot schedule new futures after shutdown"), None):
        stream, results = mapped(held.predict, rows(*range(9)), buffersize=2)
        stream.read_no_more(error)
        assert_results([next(results), next(results)], held, range(2))
        with pytest.raises(StopIteration if error is None else RuntimeError):
            next(results)
        assert stream.drain()
        assert stream.finished


def test_a_map_that_still_reads_its_input_is_stopped(hold: Any) -> None:
    held = hold()
    pulled: list[int] = []

    def inputs() -> Iterator[torch.Tensor]:
        for n in range(100):
            pulled.append(n)
            if n == 3:
                stream.read_no_more(RuntimeError("cannot schedule new futures after shutdown"))
            yield row(n)

    stream = MapStream(held.predict, (inputs(),))
    with pytest.raises(RuntimeError, match="after shutdown"):
        stream.start()
    assert pulled == [0, 1, 2, 3]
    assert stream.drain()
    assert stream.finished


# --- the state of the calling thread ----------------------------------------------------------------------------------

variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable", default=0)


class Sees(nn.Module):
    """Multiplies by the context variable."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * variable.get()


@WAYS
def test_calls_in_the_backlog_keep_the_context_they_were_made_in(start: Any, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Sees().eval(), example=row(), runtime=runtime, queue_size=1, backend="python")
    token = variable.set(3)
    stream, outcomes = start(predict, list(range(300)))
    variable.reset(token)
    assert_all_close(outcomes(), [row(n) * 3 for n in range(300)])
    assert stream.drain()


@WAYS
@pytest.mark.parametrize("stream_is_held", [True, False])
def test_calls_in_the_backlog_keep_autocast(start: Any, runtime: torchpool.Runtime, stream_is_held: bool) -> None:
    model = build(lambda: nn.Linear(4, 3))
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime, queue_size=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        stream, outcomes = start(predict, list(range(200)), held=stream_is_held)
        expected = [eager(model, row(n)).dtype for n in range(200)]
    stream.release()
    assert [outcome.dtype for outcome in outcomes()] == expected
    stream, outcomes = start(predict, list(range(200)), held=stream_is_held)
    stream.release()
    with torch.autocast("cpu", dtype=torch.bfloat16):  # of who iterates: not of who made the calls
        assert {outcome.dtype for outcome in outcomes()} == {torch.float32}


def test_inputs_that_require_grad_are_taken_under_no_grad(hold: Any) -> None:
    held = hold(queue_size=1)
    flood(held)
    inputs = [row(n).requires_grad_() for n in range(5)]
    with torch.no_grad():
        stream = SubmitStream()
        futures = [stream.submit(held.predict, (x,), {}) for x in inputs]
        _, results = mapped(held.predict, inputs)
    held.gate.open()
    assert_results([future.result(HANG) for future in futures], held, range(5))
    assert_results(list(results), held, range(5))


def test_under_a_torch_mode_calls_run_where_they_are_made(hold: Any) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row())
    with torch.device("cpu"):
        _, results = mapped(predict, rows(*range(300)))
        assert predict.stats()["inline"] == 300
        future = SubmitStream().submit(predict, (row(1),), {})
        assert future.done()
    assert_all_close(results, (eager(predict.model, row(n)) for n in range(300)))


# --- forks ------------------------------------------------------------------------------------------------------------


def test_in_a_forked_child_what_is_pending_fails() -> None:
    done = run_python(
        """
        import os
        from support import *
        from stream_support import *
        from torchpool.executor.backlog import SubmitStream

        held = Held(queue_size=2)
        held.hold()
        submits = SubmitStream()
        futures = [submits.submit(held.predict, (row(n),), {}) for n in range(5)]
        stream, results = mapped(held.predict, rows(*range(5)))
        child = os.fork()
        if child == 0:
            code = 1
            try:
                for one in (submits, stream):
                    one.after_fork_in_child(RuntimeError("forked"))
                    assert one.drain() and one.pending == 0
                assert all(str(future.exception(0)) == "forked" for future in futures)
                try:
                    next(results)
                except RuntimeError as error:
                    assert str(error) == "forked"
                    code = 0
                held.gate.open()
                again = submits.submit(held.predict, (row(7),), {})
                assert again.result(60).shape == (1, 3)
            except BaseException:
                import traceback

                traceback.print_exc()
                code = 2
            os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        held.gate.open()
        for n, future in enumerate(futures):
            assert_close(future.result(60), eager(held.model.linear, row(n)))
        assert_all_close(results, (eager(held.model.linear, row(n)) for n in range(5)))
        held.release()
        """
    )
    assert_clean(done)
