"""queue_size= and overflow=: submitters wait for room, or are told that there is none."""

from __future__ import annotations

import threading
from concurrent.futures.thread import BrokenThreadPool
from typing import Any

import pytest
from executor_support import Gates, Refused, blocked, fail, hold_threads, run_program, wait_until
from support import HANG, Gate, assert_clean

import torchpool

TORCHPOOL_ONLY = True  # the standard one has no bound


def waiting(executor: Any) -> int:
    return executor.stats()["waiting"]


# --- block ------------------------------------------------------------------------------------------------------------


def test_a_submitter_waits_until_there_is_room(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=2)
    hold_threads(executor, gate)
    first = [executor.submit(abs, -n) for n in range(2)]
    third = blocked(executor.submit, abs, -2)
    assert third.thread.is_alive()
    assert waiting(executor) == 2
    gate.open()
    assert [future.result(HANG) for future in [*first, third.value()]] == [0, 1, 2]


def test_one_place_lets_one_submitter_in(make_executor: Any, gates: Gates) -> None:
    executor, one, two = make_executor(1, queue_size=1), gates(), gates()
    hold_threads(executor, one)
    executor.submit(two.pass_through)
    submitters = [blocked(executor.submit, int) for _ in range(3)]
    one.open()
    two.wait_entered()
    wait_until(lambda: sum(not started.thread.is_alive() for started in submitters) == 1)
    assert waiting(executor) == 1
    two.open()
    assert [started.value().result(HANG) for started in submitters] == [0] * 3


def test_submitters_are_let_in_in_their_order(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    hold_threads(executor, gate)
    order: list[int] = []
    executor.submit(order.append, -1)
    submitters = [blocked(executor.submit, order.append, n) for n in range(8)]
    gate.open()
    for started in submitters:
        started.value().result(HANG)
    assert order == [-1, *range(8)]


def test_a_newcomer_does_not_overtake_a_submitter_that_waits(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    hold_threads(executor, gate)
    order: list[str] = []
    last = executor.submit(order.append, "queued")
    waits = blocked(executor.submit, order.append, "waits")
    last.cancel()
    newcomer = blocked(executor.submit, order.append, "newcomer")
    assert newcomer.thread.is_alive()
    gate.open()
    for started in (waits, newcomer):
        started.value().result(HANG)
    assert order == ["waits", "newcomer"]


def test_a_cancelled_task_frees_its_place_at_once(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    running = hold_threads(executor, gate)
    first = executor.submit(int)
    second = blocked(executor.submit, abs, -2)
    assert first.cancel()
    future = second.value()
    assert running[0].running()
    assert waiting(executor) == 1
    gate.open()
    assert future.result(HANG) == 2


def test_running_tasks_take_no_place(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(3, queue_size=1)
    hold_threads(executor, gate, 3)
    assert executor.submit(abs, -1) is not None
    assert waiting(executor) == 1


def test_growing_lets_submitters_in(make_executor: Any, gates: Gates) -> None:
    executor, one, two = make_executor(1, queue_size=1), gates(), gates()
    hold_threads(executor, one)
    executor.submit(two.pass_through)
    third = blocked(executor.submit, int)
    executor.resize(2)
    two.wait_entered()
    assert not third.value().done()


def test_many_submitters_lose_nothing(make_executor: Any) -> None:
    executor = make_executor(2, queue_size=3)
    results: list[list[int]] = [[] for _ in range(4)]

    def submit(number: int) -> None:
        futures = [executor.submit(abs, -n) for n in range(300)]
        results[number] = [future.result(HANG) for future in futures]

    for started in [blocked(submit, number) for number in range(4)]:
        started.value()
    assert results == [list(range(300))] * 4


def test_shutdown_wakes_submitters_with_its_error(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    hold_threads(executor, gate)
    first = executor.submit(int)
    submitters = [blocked(executor.submit, int) for _ in range(3)]
    executor.shutdown(wait=False)
    for started in submitters:
        with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
            started.value()
    gate.open()
    assert first.result(HANG) == 0
    assert executor.stats()["accepted"] == 2


def test_a_shutdown_that_cancels_wakes_submitters_with_its_error(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    hold_threads(executor, gate)
    first = executor.submit(int)
    second = blocked(executor.submit, int)
    executor.shutdown(wait=False, cancel_futures=True)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        second.value()
    assert first.cancelled()


def test_a_failing_initializer_wakes_submitters_with_its_error(make_executor: Any, gate: Gate) -> None:
    def broken() -> None:
        gate.pass_through()
        raise Refused

    executor = make_executor(1, queue_size=1, initializer=broken)
    first = executor.submit(int)
    second = blocked(executor.submit, int)
    gate.open()
    with pytest.raises(BrokenThreadPool):
        second.value()
    assert isinstance(first.exception(HANG), BrokenThreadPool)


def test_tasks_that_submit_tasks_never_wait_for_room(make_executor: Any) -> None:
    executor = make_executor(1, queue_size=1)
    futures = executor.submit(lambda: [executor.submit(abs, -n) for n in range(50)]).result(HANG)
    assert [future.result(HANG) for future in futures] == list(range(50))


def test_tasks_of_another_executor_wait_for_room(make_executor: Any, gate: Gate) -> None:
    executor, other = make_executor(1, queue_size=1), make_executor(1)
    hold_threads(executor, gate)
    executor.submit(int)
    future = other.submit(executor.submit, abs, -2)
    wait_until(future.running)
    assert waiting(executor) == 1
    gate.open()
    assert future.result(HANG).result(HANG) == 2


def test_a_map_waits_for_room(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=2)
    hold_threads(executor, gate)
    taken: list[int] = []

    def numbers() -> Any:
        for n in range(10):
            taken.append(n)
            yield n

    mapping = blocked(executor.map, abs, numbers())
    assert taken == [0, 1, 2]
    gate.open()
    assert list(mapping.value()) == list(range(10))


def test_a_buffered_map_fits_a_queue_of_its_size(make_executor: Any) -> None:
    executor = make_executor(2, queue_size=3)
    assert list(executor.map(abs, range(-100, 0), buffersize=3)) == list(range(100, 0, -1))


def test_a_shutdown_ends_a_map_that_waits_for_room(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    hold_threads(executor, gate)
    mapping = blocked(executor.map, abs, range(10))
    executor.shutdown(wait=False)
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        mapping.value()


def test_views_share_the_bound(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1)
    hold_threads(executor, gate)
    first = executor.options(priority=1).submit(abs, -1)
    second = blocked(executor.options(priority=9).submit, abs, -2)
    assert second.thread.is_alive()
    gate.open()
    assert [first.result(HANG), second.value().result(HANG)] == [1, 2]


CTRL_C = """
from executor_support import wait_until_asleep
executor = ThreadPoolExecutor(1, queue_size=1)
gate, entered = threading.Event(), threading.Event()
executor.submit(lambda: (entered.set(), gate.wait(HANG)))
entered.wait(HANG)
first = executor.submit(int)
def interrupt():
    wait_until_asleep(threading.main_thread())
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
try:
    threading.Thread(target=interrupt).start()
    executor.submit(int)
    print("submitted")
except KeyboardInterrupt:
    print("interrupted")
gate.set()
print(first.result(HANG), executor.submit(abs, -1).result(HANG), executor.stats()["accepted"])
"""


def test_ctrl_c_interrupts_a_submitter_that_waits() -> None:
    done = run_program(torchpool.ThreadPoolExecutor, CTRL_C)
    assert_clean(done)
    assert done.stdout == "interrupted\n0 1 3\n"


def test_an_interrupted_submitter_passes_its_place_on() -> None:
    program = CTRL_C.replace("gate.set()\nprint(first", "print(first").replace(
        "try:", "other = threading.Thread(target=lambda: executor.submit(print, 'other'))\nother.start()\ntry:"
    )
    program = program.replace("print(first.result", "gate.set()\nother.join(HANG)\nprint(first.result")
    done = run_program(torchpool.ThreadPoolExecutor, program)
    assert_clean(done)
    assert sorted(done.stdout.splitlines()) == ["0 1 4", "interrupted", "other"]


# --- reject -----------------------------------------------------------------------------------------------------------


def test_a_full_queue_is_told_at_once(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=2, overflow="reject")
    hold_threads(executor, gate)
    first = [executor.submit(abs, -n) for n in range(2)]
    with pytest.raises(torchpool.QueueFull, match=r"2 tasks wait, queue_size=2"):
        executor.submit(int)
    gate.open()
    assert [future.result(HANG) for future in first] == [0, 1]


def test_what_was_rejected_is_counted_and_never_runs(make_executor: Any, gate: Gate) -> None:
    executor, ran = make_executor(1, queue_size=1, overflow="reject"), []
    hold_threads(executor, gate)
    executor.submit(int)
    for _ in range(3):
        with pytest.raises(torchpool.QueueFull):
            executor.submit(ran.append, 1)
    gate.open()
    executor.shutdown()
    stats = executor.stats()
    assert (stats["rejected"], stats["accepted"], stats["resolved"]) == (3, 2, 2)
    assert ran == []


def test_there_is_room_again_when_a_task_was_taken_or_cancelled(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1, overflow="reject")
    hold_threads(executor, gate)
    assert executor.submit(int).cancel()
    future = executor.submit(abs, -1)
    gate.open()
    assert future.result(HANG) == 1
    assert executor.submit(abs, -2).result(HANG) == 2


def test_a_map_raises_when_there_is_no_room(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=2, overflow="reject")
    hold_threads(executor, gate)
    with pytest.raises(torchpool.QueueFull):
        executor.map(abs, range(3))


def test_tasks_that_submit_tasks_are_never_rejected(make_executor: Any) -> None:
    executor = make_executor(1, queue_size=1, overflow="reject")
    futures = executor.submit(lambda: [executor.submit(abs, -n) for n in range(50)]).result(HANG)
    assert [future.result(HANG) for future in futures] == list(range(50))
    assert executor.stats()["rejected"] == 0


def test_a_view_rejects_too(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1, queue_size=1, overflow="reject")
    hold_threads(executor, gate)
    executor.submit(int)
    with pytest.raises(torchpool.QueueFull):
        executor.options(priority=9).submit(int)


def test_an_error_in_a_task_frees_its_thread_for_the_next(make_executor: Any) -> None:
    executor = make_executor(1, queue_size=1)
    errors = [executor.submit(fail, Refused()) for _ in range(20)]
    assert [type(future.exception(HANG)) for future in errors] == [Refused] * 20


# --- what it takes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, -1, 1.5, "2"])
def test_a_queue_size_must_be_a_positive_int(size: Any) -> None:
    with pytest.raises(ValueError, match="queue_size must be an int of at least 1, or None"):
        torchpool.ThreadPoolExecutor(1, queue_size=size)


@pytest.mark.parametrize("overflow", ["drop", "", None, 1])
def test_overflow_must_be_known(overflow: Any) -> None:
    with pytest.raises(ValueError, match="overflow must be 'block' or 'reject'"):
        torchpool.ThreadPoolExecutor(1, overflow=overflow)


@pytest.mark.parametrize("overflow", ["block", "reject"])
def test_without_a_queue_size_there_is_no_bound(make_executor: Any, gate: Gate, overflow: str) -> None:
    executor = make_executor(1, overflow=overflow)
    hold_threads(executor, gate)
    futures = [executor.submit(int) for _ in range(5000)]
    assert waiting(executor) == 5000
    assert threading.active_count() < 100
    gate.open()
    assert [future.result(HANG) for future in futures] == [0] * 5000
