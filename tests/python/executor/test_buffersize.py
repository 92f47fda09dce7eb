"""map(buffersize=): bounded reading ahead, which the standard executor has from Python 3.14 on.

Results do not keep their executor: one that a test drops submits no more than the buffer holds.
"""

from __future__ import annotations

import itertools
import sys
from typing import Any

import pytest
from executor_support import Refused, Thing, blocked, freed, refuse
from support import HANG, Gate

HAVE_IT = ["torchpool", *(["standard"] if sys.version_info >= (3, 14) else [])]
pytestmark = pytest.mark.parametrize("executor_class", HAVE_IT, indirect=True)


class Taken:
    """0, 1, 2, ... without an end, and how many were taken."""

    def __init__(self) -> None:
        self.count = 0

    def __iter__(self) -> Taken:
        return self

    def __next__(self) -> int:
        self.count += 1
        return self.count - 1


@pytest.mark.parametrize("size", ["2", 2.0, [2]])
def test_a_size_that_is_no_integer_is_a_type_error(make_executor: Any, size: Any) -> None:
    with pytest.raises(TypeError, match=r"^buffersize must be an integer or None$"):
        make_executor(1).map(abs, [1], buffersize=size)


@pytest.mark.parametrize("size", [0, -1])
def test_a_size_must_be_positive(make_executor: Any, size: int) -> None:
    with pytest.raises(ValueError, match=r"^buffersize must be None or > 0$"):
        make_executor(1).map(abs, [1], buffersize=size)


@pytest.mark.parametrize("size", [1, 2, 7, 100, None])
def test_the_results_are_those_of_map(make_executor: Any, size: int | None) -> None:
    executor = make_executor(2)
    assert list(executor.map(abs, range(-20, 0), buffersize=size)) == list(range(20, 0, -1))


def test_without_a_size_all_is_read_at_the_call(make_executor: Any) -> None:
    numbers = Taken()
    make_executor(1).map(abs, itertools.islice(numbers, 20), buffersize=None)
    assert numbers.count == 20


@pytest.mark.parametrize("size", [1, 4])
def test_as_many_as_the_buffer_holds_are_read_at_the_call(make_executor: Any, size: int) -> None:
    numbers = Taken()
    make_executor(2).map(abs, numbers, buffersize=size)
    assert numbers.count == size


@pytest.mark.parametrize("size", [1, 4])
def test_each_result_that_is_taken_reads_one_more(make_executor: Any, size: int) -> None:
    numbers = Taken()
    executor = make_executor(2)
    results = executor.map(abs, numbers, buffersize=size)
    for taken in range(10):
        assert next(results) == taken
        assert numbers.count == size + taken + 1


def test_an_endless_input_is_served(make_executor: Any) -> None:
    executor = make_executor(2)
    results = executor.map(pow, itertools.count(), itertools.repeat(2), buffersize=3)
    assert list(itertools.islice(results, 5)) == [0, 1, 4, 9, 16]


def test_an_input_shorter_than_the_buffer_is_served(make_executor: Any) -> None:
    assert list(make_executor(2).map(abs, [-1], buffersize=10)) == [1]


@pytest.mark.parametrize("inputs", [(), ([],), ([], [1])])
def test_nothing_to_do_gives_nothing(make_executor: Any, inputs: Any) -> None:
    assert list(make_executor(1).map(max, *inputs, buffersize=2)) == []


def test_what_is_read_runs_before_it_is_asked_for(make_executor: Any, gate: Gate) -> None:
    make_executor(2).map(lambda n: gate.pass_through(), itertools.count(), buffersize=2)
    gate.wait_entered(2)


def test_what_is_read_at_the_call_is_submitted_and_no_more(make_executor: Any) -> None:
    executor, ran = make_executor(1), []
    executor.map(ran.append, itertools.count(), buffersize=3)
    executor.shutdown()
    assert ran == [0, 1, 2]


def test_an_error_is_raised_in_its_place(make_executor: Any) -> None:
    executor = make_executor(1)
    results = executor.map(divmod, itertools.count(), [1, 0, 1], buffersize=1)
    assert next(results) == (0, 0)
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []


def test_an_error_of_the_input_within_the_buffer_is_raised_at_the_call(make_executor: Any) -> None:
    with pytest.raises(Refused):
        make_executor(1).map(abs, map(refuse, [1]), buffersize=2)


def test_an_error_of_the_input_past_the_buffer_is_raised_when_it_is_read(make_executor: Any) -> None:
    numbers = itertools.chain([0, 1], map(refuse, [2]))
    executor = make_executor(1)
    results = executor.map(abs, numbers, buffersize=2)
    with pytest.raises(Refused):
        next(results)


def test_a_timeout_holds_for_a_buffer_too(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    results = executor.map(lambda n: gate.pass_through(), itertools.count(), buffersize=2, timeout=0.01)
    with pytest.raises(TimeoutError):
        next(results)


def test_closing_cancels_what_has_not_started(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []
    results = executor.map(
        lambda n: (ran.append(n), gate.pass_through() if n else None), itertools.count(), buffersize=3
    )
    next(results)
    gate.wait_entered()
    results.close()
    gate.open()
    executor.shutdown()
    assert ran == [0, 1]


def test_a_waiting_reader_has_read_ahead_by_one(make_executor: Any, gate: Gate) -> None:
    numbers = Taken()
    executor = make_executor(1)
    results = executor.map(lambda n: gate.pass_through(), numbers, buffersize=2)
    waiting = blocked(next, results)
    gate.open()
    assert waiting.value() is None
    assert numbers.count == 3


def test_the_executor_may_go_before_the_results(make_executor: Any) -> None:
    executor = make_executor(2)
    gone = freed(executor)
    results = executor.map(abs, itertools.count(), buffersize=3)
    del executor
    assert gone.wait(HANG)
    assert list(results) == [0, 1, 2]  # no more is submitted


def test_no_result_is_kept_that_was_given(make_executor: Any) -> None:
    executor = make_executor(2)
    for thing in executor.map(lambda n: Thing(), range(10), buffersize=3):
        gone = freed(thing)
        del thing
        assert gone.wait(HANG)


def test_submit_may_be_overridden(make_executor: Any) -> None:
    executor, submitted = make_executor(2), []
    own = executor.submit

    def submit(fn: Any, /, *args: Any) -> Any:
        submitted.append(args)
        return own(fn, *args)

    executor.submit = submit
    results = executor.map(abs, itertools.count(), buffersize=2)
    next(results)
    assert submitted == [(0,), (1,), (2,)]
    del executor.submit
