"""stats(): every task that was accepted is resolved once, and counted as what it became."""

from __future__ import annotations

import random
import threading
from collections import Counter
from typing import Any

import pytest
from executor_support import Gates, Refused, fail, hold_threads, refuse, run_program, wait_until
from support import HANG, Gate, MarkerModule, assert_clean, build, row

import torchpool

TORCHPOOL_ONLY = True  # the standard one counts nothing

KINDS = ("succeeded", "failed", "cancelled", "expired")


def counts(executor: Any) -> dict[str, int]:
    """What is not zero."""
    stats = executor.stats()
    return {kind: stats[kind] for kind in (*KINDS, "rejected", "ran_inline") if stats[kind]}


def outcome(future: Any) -> str:
    if future.cancelled():
        return "cancelled"
    error = future.exception(HANG)
    return "succeeded" if error is None else "expired" if isinstance(error, TimeoutError) else "failed"


def test_a_new_executor_has_counted_nothing(make_executor: Any) -> None:
    stats = make_executor(3, thread_name_prefix="mine").stats()
    assert stats.pop("name") == "mine"
    assert stats.pop("max_workers") == 3
    assert set(stats.values()) == {0}


def test_the_keys_are_these(make_executor: Any) -> None:
    assert list(make_executor(1).stats()) == [
        "name",
        "max_workers",
        "threads",
        "idle",
        "parked",
        "waiting",
        "accepted",
        "resolved",
        *KINDS,
        "rejected",
        "ran_inline",
        "predictor_calls",
    ]


def test_threads_and_waiting_tasks_are_those_of_now(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(2)
    hold_threads(executor, gate, 2)
    for _ in range(3):
        executor.submit(int)
    stats = executor.stats()
    assert (stats["threads"], stats["idle"], stats["waiting"]) == (2, 0, 3)
    gate.open()
    wait_until(lambda: executor.stats()["idle"] == 2)
    assert executor.stats()["waiting"] == 0


def test_after_a_shutdown_there_are_no_threads(make_executor: Any) -> None:
    executor = make_executor(2)
    executor.submit(int).result(HANG)
    executor.shutdown()
    stats = executor.stats()
    assert (stats["threads"], stats["idle"], stats["accepted"], stats["resolved"]) == (0, 0, 1, 1)


def test_a_result_is_a_success(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.submit(int).result(HANG)
    assert counts(executor) == {"succeeded": 1}


@pytest.mark.parametrize("error", [Refused(), SystemExit(2), TimeoutError()], ids=lambda error: type(error).__name__)
def test_an_exception_is_a_failure_whatever_its_class(make_executor: Any, error: BaseException) -> None:
    executor = make_executor(1)
    executor.submit(fail, error).exception(HANG)
    assert counts(executor) == {"failed": 1}


def test_a_cancellation_counts_once(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    hold_threads(executor, gate)
    future = executor.submit(int)
    assert [future.cancel(), future.cancel()] == [True, True]
    assert counts(executor) == {"cancelled": 1}


def test_a_cancellation_that_comes_too_late_does_not_count(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    (running,) = hold_threads(executor, gate)
    assert not running.cancel()
    gate.open()
    running.result(HANG)
    assert not running.cancel()
    assert counts(executor) == {"succeeded": 1}


def test_what_a_shutdown_cancels_is_counted(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    hold_threads(executor, gate)
    for _ in range(4):
        executor.submit(int)
    executor.shutdown(wait=False, cancel_futures=True)
    assert counts(executor) == {"cancelled": 4}


def test_what_a_failing_initializer_fails_is_counted(make_executor: Any, gate: Gate) -> None:
    def broken() -> None:
        gate.pass_through()
        raise Refused

    executor = make_executor(1, initializer=broken)
    futures = [executor.submit(int) for _ in range(4)]
    gate.open()
    [future.exception(HANG) for future in futures]
    assert counts(executor) == {"failed": 4}


def test_what_is_refused_after_a_shutdown_is_not_counted(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.shutdown()
    with pytest.raises(RuntimeError):
        executor.submit(int)
    stats = executor.stats()
    assert (stats["accepted"], stats["rejected"], stats["resolved"]) == (0, 0, 0)


def test_what_runs_inline_is_a_success_too(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.submit(lambda: executor.submit(int).result()).result(HANG)
    assert counts(executor) == {"succeeded": 2, "ran_inline": 1}


def test_a_task_is_counted_before_its_result_is_seen(make_executor: Any) -> None:
    executor = make_executor(1)
    for number in range(1, 200):
        executor.submit(int).result(HANG)
        assert executor.stats()["succeeded"] == number


def test_futures_that_others_have_looked_into_are_counted_as_all(make_executor: Any, gate: Gate) -> None:
    executor = make_executor(1)
    hold_threads(executor, gate)
    futures = [executor.submit(int), executor.submit(refuse), executor.submit(int)]
    futures.append(executor.options(deadline=0.05).submit(int))
    for future in futures:
        assert "_state" in future.__dict__
    assert futures[2].cancel()
    assert outcome(futures[3]) == "expired"
    gate.open()
    assert [outcome(future) for future in futures] == ["succeeded", "failed", "cancelled", "expired"]
    wait_until(lambda: executor.stats()["resolved"] == 5)
    assert counts(executor) == {"succeeded": 2, "failed": 1, "cancelled": 1, "expired": 1}


def test_predictor_calls_count_on_their_own(make_executor: Any) -> None:
    executor = make_executor(1)
    with torchpool.wrap(build(MarkerModule), example=row()) as predict:
        list(executor.map(predict, [row(n) for n in range(20)]))
        executor.submit(predict, row()).result(HANG)
    wait_until(lambda: executor.stats()["predictor_calls"] == 0)
    assert executor.stats()["accepted"] == 0


def test_pending_predictor_calls_are_counted(make_executor: Any, hold: Any) -> None:
    executor, held = make_executor(1), hold()
    held.hold()
    futures = [executor.submit(held.predict, row(n)) for n in range(3)]
    mapped = executor.map(held.predict, [row(n) for n in range(4)])
    assert executor.stats()["predictor_calls"] == 7
    held.gate.open()
    [future.result(HANG) for future in futures]
    list(mapped)
    wait_until(lambda: executor.stats()["predictor_calls"] == 0)


def test_the_task_that_runs_the_initializer_is_not_one_of_the_users(make_executor: Any) -> None:
    executor = make_executor(1, initializer=int)
    with torchpool.wrap(build(MarkerModule), example=row()) as predict:
        executor.submit(predict, row()).result(HANG)
    assert executor.stats()["accepted"] == 0


def test_a_forked_child_counts_afresh() -> None:
    program = """
executor = ThreadPoolExecutor(1)
executor.submit(int).result(HANG)
pid = os.fork()
if pid == 0:
    executor.submit(int).result(HANG)
    executor.submit(int).result(HANG)
    stats = executor.stats()
    os._exit(0 if (stats["accepted"], stats["succeeded"], stats["threads"]) == (2, 2, 1) else 1)
print(os.waitpid(pid, 0)[1], executor.stats()["accepted"])
"""
    done = run_program(torchpool.ThreadPoolExecutor, program)
    assert_clean(done)
    assert done.stdout == "0 1\n"


# --- a random mix -----------------------------------------------------------------------------------------------------


class Mix:
    """Does all that may happen to tasks, in a random order, and keeps their futures."""

    def __init__(self, executor: Any, seed: int) -> None:
        self.executor = executor
        self.random = random.Random(seed)
        self.futures: list[Any] = []
        self.rejected = 0
        self._lock = threading.Lock()

    def step(self) -> None:
        executor, rng = self.executor, self.random
        priority = rng.randrange(-2, 3)
        choice = rng.randrange(8)
        try:
            if choice == 0:
                self.keep(executor.options(priority=priority).submit(refuse))
            elif choice == 1:
                self.keep(executor.options(priority=priority, deadline=0.0005 * rng.random() + 1e-6).submit(int))
            elif choice == 2:
                self.keep(executor.submit(self.nested))
            elif choice == 3 and self.futures:
                rng.choice(self.futures).cancel()
            elif choice == 4 and self.futures:
                rng.choice(self.futures).__dict__  # noqa: B018
            elif choice == 5:
                executor.resize(rng.randrange(1, 4))
            else:
                self.keep(executor.options(priority=priority).submit(abs, -1))
        except torchpool.QueueFull:
            self.rejected += 1

    def nested(self) -> int:
        inner = self.executor.submit(abs, -1)
        self.keep(inner)
        try:
            return int(inner.result())
        except BaseException as error:  # it was cancelled, or the executor was shut down
            raise Refused from error

    def keep(self, future: Any) -> None:
        with self._lock:
            self.futures.append(future)


@pytest.mark.parametrize(
    "options", [{}, {"queue_size": 5, "overflow": "reject"}, {"queue_size": 5}, {"overlap": 2}], ids=str
)
@pytest.mark.parametrize("seed", range(6))
def test_all_that_was_accepted_is_resolved_and_counted_as_what_it_became(
    make_executor: Any, options: dict[str, Any], seed: int
) -> None:
    executor = make_executor(2, **options)
    mix = Mix(executor, seed)
    for _ in range(600):
        mix.step()
    executor.shutdown(cancel_futures=seed % 2 == 0)
    stats = executor.stats()
    outcomes = Counter(outcome(future) for future in mix.futures)
    assert {kind: stats[kind] for kind in KINDS} == {kind: outcomes[kind] for kind in KINDS}
    assert stats["accepted"] == stats["resolved"] == len(mix.futures)
    assert stats["rejected"] == mix.rejected
    assert (stats["waiting"], stats["threads"], stats["parked"]) == (0, 0, 0)


@pytest.mark.parametrize("seed", range(3))
def test_it_holds_with_several_threads_at_work(make_executor: Any, gates: Gates, seed: int) -> None:
    executor = make_executor(3)
    mixes = [Mix(executor, 10 * seed + number) for number in range(3)]

    def work(mix: Mix) -> None:
        for _ in range(300):
            mix.step()

    threads = [threading.Thread(target=work, args=(mix,)) for mix in mixes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
        assert not thread.is_alive()
    executor.shutdown()
    stats = executor.stats()
    outcomes = Counter(outcome(future) for mix in mixes for future in mix.futures)
    assert {kind: stats[kind] for kind in KINDS} == {kind: outcomes[kind] for kind in KINDS}
    assert stats["accepted"] == stats["resolved"] == sum(outcomes.values())
