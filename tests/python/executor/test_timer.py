"""The timer calls each entry once, in time, and keeps no cancelled ones. No test waits for real time to pass."""

from __future__ import annotations

import gc
import logging
import threading
import weakref
from collections.abc import Iterator

import pytest
from manual_clock import ManualClock
from support import HANG, assert_clean, run_python, run_threads

from torchpool.executor.timer import Timer, default_timer


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def timer(clock: ManualClock) -> Iterator[Timer]:
    timer = Timer(clock)
    yield timer
    timer.close()


def test_entries_are_called_when_they_are_due_and_not_before(timer: Timer, clock: ManualClock) -> None:
    called: list[str] = []
    timer.call_at(clock.now() + 2, lambda: called.append("second"))
    timer.call_at(clock.now() + 1, lambda: called.append("first"))
    clock.advance(0.5)
    assert called == []
    clock.advance(0.5)
    assert called == ["first"]
    clock.advance(100)
    assert called == ["first", "second"]
    clock.advance(100)
    assert called == ["first", "second"]


def test_entries_of_one_time_are_called_in_the_order_of_their_making(timer: Timer, clock: ManualClock) -> None:
    called: list[int] = []
    for n in range(20):
        timer.call_at(clock.now() + 1, lambda n=n: called.append(n))
    clock.advance(1)
    assert called == list(range(20))


def test_an_entry_of_the_past_is_called_at_once(timer: Timer, clock: ManualClock) -> None:
    called = threading.Event()
    timer.call_at(clock.now() - 5, called.set)
    assert called.wait(HANG)


def test_an_earlier_entry_made_later_is_called_in_time(timer: Timer, clock: ManualClock) -> None:
    called: list[str] = []
    timer.call_at(clock.now() + 10, lambda: called.append("late"))
    clock.advance(1)  # the thread waits for the late one
    timer.call_at(clock.now() + 1, lambda: called.append("early"))
    clock.advance(1)
    assert called == ["early"]


def test_all_is_called_on_one_daemon_thread_of_the_timers_own(timer: Timer, clock: ManualClock) -> None:
    threads: list[threading.Thread] = []
    for n in range(3):
        timer.call_at(clock.now() + n, lambda: threads.append(threading.current_thread()))
    clock.advance(5)
    assert len(threads) == 3
    assert len(set(threads)) == 1
    assert (threads[0].name, threads[0].daemon) == ("torchpool-timer", True)


def test_no_thread_is_started_before_the_first_entry(clock: ManualClock) -> None:
    before = threading.active_count()
    Timer(clock)
    assert threading.active_count() == before


def test_a_cancelled_entry_is_never_called(timer: Timer, clock: ManualClock) -> None:
    called: list[int] = []
    kept = timer.call_at(clock.now() + 1, lambda: called.append(1))
    dropped = timer.call_at(clock.now() + 1, lambda: called.append(2))
    assert dropped.cancel()
    assert not dropped.cancel()
    clock.advance(1)
    assert called == [1]
    assert not kept.cancel()


def test_a_cancelled_entry_lets_go_of_its_function_at_once(timer: Timer, clock: ManualClock) -> None:
    class Owner:
        def call(self) -> None:
            pass

    owner = Owner()
    gone = weakref.ref(owner)
    entry = timer.call_at(clock.now() + 1, owner.call)
    del owner
    assert gone() is not None
    entry.cancel()
    gc.collect()
    assert gone() is None


def test_cancelled_entries_do_not_pile_up(timer: Timer, clock: ManualClock) -> None:
    kept = [timer.call_at(clock.now() + 1, lambda: None) for _ in range(10)]
    for _ in range(1000):
        timer.call_at(clock.now() + 1000, lambda: None).cancel()
        assert timer.entries <= 2 * len(kept) + 1
    clock.advance(1)
    assert timer.entries <= 1


def test_what_an_entry_raises_is_logged_and_ends_nothing(
    timer: Timer, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    called: list[int] = []
    errors = [ValueError("bad entry"), SystemExit(3)]

    def fail() -> None:
        raise errors[len(called)]

    with caplog.at_level(logging.ERROR, "torchpool"):
        for n in range(2):
            timer.call_at(clock.now() + 1, fail)
            clock.advance(1)
            timer.call_at(clock.now() + 1, lambda n=n: called.append(n))
            clock.advance(1)
    assert called == [0, 1]
    assert [record.exc_info[1] for record in caplog.records if record.exc_info] == errors


def test_an_entry_may_make_and_cancel_others(timer: Timer, clock: ManualClock) -> None:
    called: list[str] = []
    victim = timer.call_at(clock.now() + 2, lambda: called.append("victim"))

    def first() -> None:
        victim.cancel()
        timer.call_at(clock.now() + 1, lambda: called.append("second"))

    timer.call_at(clock.now() + 1, first)
    clock.advance(1)
    clock.advance(1)
    assert called == ["second"]


def test_a_closed_timer_calls_nothing_and_takes_nothing(clock: ManualClock) -> None:
    timer = Timer(clock)
    called: list[int] = []
    timer.call_at(clock.now() + 1, lambda: called.append(1))
    timer.close()
    timer.close()
    assert timer.entries == 0
    assert called == []
    with pytest.raises(RuntimeError, match="closed"):
        timer.call_at(clock.now(), lambda: None)


def test_an_entry_may_close_its_timer(clock: ManualClock) -> None:
    timer = Timer(clock)
    closed = threading.Event()
    timer.call_at(clock.now(), lambda: (timer.close(), closed.set()))
    assert closed.wait(HANG)


def test_entries_of_many_threads_are_called_once_each_or_cancelled(timer: Timer, clock: ManualClock) -> None:
    called: list[tuple[int, int]] = []

    def work(number: int) -> int:
        entries = [timer.call_at(clock.now() + n % 7, lambda n=n: called.append((number, n))) for n in range(200)]
        return sum(entry.cancel() for entry in entries[::2])

    cancelled = sum(run_threads(4, work))
    clock.advance(10)
    assert len(called) == len(set(called)) == 800 - cancelled
    assert timer.entries == 0


def test_the_process_has_one_timer_that_keeps_real_time() -> None:
    assert default_timer() is default_timer()
    called = threading.Event()
    default_timer().call_at(default_timer().now(), called.set)
    assert called.wait(HANG)


def test_a_forked_child_starts_afresh() -> None:
    done = run_python(
        """
        import os, threading, warnings
        from torchpool.executor.timer import default_timer

        timer, first = default_timer(), threading.Event()
        timer.call_at(timer.now(), first.set)
        assert first.wait(60)
        timer.call_at(timer.now() + 1000, lambda: None)
        timer._cond.acquire()  # as if another thread had it at the fork
        child = os.fork()
        if child == 0:
            again = threading.Event()
            assert default_timer().entries == 0
            default_timer().call_at(timer.now(), again.set)
            os._exit(0 if again.wait(60) else 1)
        timer._cond.release()
        assert os.waitpid(child, 0)[1] == 0
        assert timer.entries == 1
        """
    )
    assert_clean(done)
