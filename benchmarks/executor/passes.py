"""What `benchmarks.executor.tasks` measures: each function runs one pass on executors of one class.

A pass has an executor of its own whose threads all run before the clock starts, and nothing of it is left for the next
one: neither threads nor garbage. Seconds are those between the first submit and the last result; that the results are
right is checked when the clock has stopped.
"""

import asyncio
import concurrent.futures
import gc
import itertools
import os
import statistics
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import cast

New = Callable[[int], Executor]  # the class: called with the number of threads

WORKERS = 4
COUNT = 100_000  # tasks of a burst
FEW = 10_000  # of what waits in other ways
PRODUCERS, BATCHES, BATCH = 8, 50, 50
PING_PONGS = 20_000
SPINS, SPINNING_TASKS, SUBMITTERS = 3_000, 500, 4  # turns of a loop that take about 100 us; tasks of each submitter
BLOCKING_WORKERS, SLEEPS, READS = 8, 500, 5_000
LATENCIES = 100
HANG_S = 60.0


def no_op() -> None:
    pass


def same(x: int) -> int:
    return x


def keyword(a: int, *, b: int) -> int:
    return b


def fail() -> None:
    raise ValueError("on purpose")


def spin(turns: int) -> int:
    total = 0
    for number in range(turns):
        total += number
    return total


def check(right: bool, what: str) -> None:
    if not right:
        raise RuntimeError(f"wrong: {what}")


@contextmanager
def started(new: New, workers: int = WORKERS) -> Iterator[Executor]:
    """An executor whose threads all run, which a barrier shows that needs every one of them."""
    gc.collect()
    with new(workers) as executor:
        barrier = threading.Barrier(workers, timeout=HANG_S)
        held = [executor.submit(barrier.wait) for _ in range(workers)]
        check(sorted(future.result(HANG_S) for future in held) == list(range(workers)), "threads")
        yield executor


def serves(new: New) -> dict[str, float]:
    """Nothing is timed: every task is run once, which tasks that do nothing cannot show."""
    with started(new) as executor:
        numbers = itertools.count()  # next() on it is atomic
        ran = list(executor.map(lambda _: next(numbers), range(FEW)))
    check(sorted(ran) == list(range(FEW)), "a task ran twice or not at all")
    return {}


def burst(new: New) -> dict[str, float]:
    with started(new) as executor:
        start = time.perf_counter()
        futures = [executor.submit(no_op) for _ in range(COUNT)]
        results = [future.result() for future in futures]
        seconds = time.perf_counter() - start
    check(results == [None] * COUNT, "burst")
    return {"seconds": seconds}


def mapped(new: New) -> dict[str, float]:
    with started(new) as executor:
        start = time.perf_counter()
        results = list(executor.map(same, range(COUNT)))
        seconds = time.perf_counter() - start
    check(results == list(range(COUNT)), "map")
    return {"seconds": seconds}


def keywords(new: New) -> dict[str, float]:
    with started(new) as executor:
        start = time.perf_counter()
        futures = [executor.submit(keyword, 1, b=number) for number in range(COUNT)]
        results = [future.result() for future in futures]
        seconds = time.perf_counter() - start
    check(results == list(range(COUNT)), "burst with keyword arguments")
    return {"seconds": seconds}


def raising(new: New) -> dict[str, float]:
    """Half of the errors are raised by result() and caught, half are asked for."""
    errors: list[BaseException | None] = []
    with started(new) as executor:
        start = time.perf_counter()
        futures = [executor.submit(fail) for _ in range(COUNT)]
        for future in futures[::2]:
            try:
                future.result()
            except ValueError as error:
                errors.append(error)
        errors += [future.exception() for future in futures[1::2]]
        seconds = time.perf_counter() - start
    check(len(set(map(id, errors))) == COUNT, "a task's error")
    check(all(type(error) is ValueError and error.args == ("on purpose",) for error in errors), "an error's kind")
    return {"seconds": seconds}


def _from_threads(count: int, body: Callable[[], None]) -> float:
    """Seconds from the moment at which so many threads are there to when the last of them has run the body.

    The threads read the clock: one that only watches them would wait for the interpreter's lock.
    """
    start, ends = [], []
    gate = threading.Barrier(count, action=lambda: start.append(time.perf_counter()), timeout=HANG_S)

    def run() -> None:
        gate.wait()
        body()
        ends.append(time.perf_counter())

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    check(len(ends) == count, "a thread failed")
    return max(ends) - start[0]


def producers(new: New) -> dict[str, float]:
    """Threads that submit a batch, wait for it, and submit the next."""
    results: list[None] = []  # extend() is atomic where it gets a list

    def produce() -> None:
        for _ in range(BATCHES):
            futures = [executor.submit(no_op) for _ in range(BATCH)]
            results.extend([future.result() for future in futures])

    with started(new) as executor:
        seconds = _from_threads(PRODUCERS, produce)
    check(results == [None] * (PRODUCERS * BATCHES * BATCH), "producers")
    return {"seconds": seconds}


def ping_pong(new: New, count: int = PING_PONGS) -> dict[str, float]:
    """One task at a time: each is a hand-over to a thread that waits, and one back."""
    with started(new) as executor:
        start = time.perf_counter()
        results = [executor.submit(no_op).result() for _ in range(count)]
        seconds = time.perf_counter() - start
    check(results == [None] * count, "ping-pong")
    return {"seconds": seconds}


def gathered(new: New) -> dict[str, float]:
    async def gather() -> tuple[float, list[None]]:
        loop = asyncio.get_running_loop()
        start = time.perf_counter()
        results = await asyncio.gather(*[loop.run_in_executor(executor, no_op) for _ in range(FEW)])
        return time.perf_counter() - start, results

    with started(new) as executor:
        seconds, results = asyncio.run(gather())
    check(results == [None] * FEW, "gather")
    return {"seconds": seconds}


def waited(new: New) -> dict[str, float]:
    with started(new) as executor:
        start = time.perf_counter()
        futures = [executor.submit(no_op) for _ in range(FEW)]
        done, pending = concurrent.futures.wait(futures)
        seconds = time.perf_counter() - start
    check(done == set(futures) and not pending, "wait")
    check([future.result() for future in futures] == [None] * FEW, "wait's results")
    return {"seconds": seconds}


def spinning(new: New) -> dict[str, float]:
    """Tasks that hold the interpreter's lock for 100 us, submitted by several threads: nothing to gain."""
    results: list[int] = []

    def submit() -> None:
        futures = [executor.submit(spin, SPINS) for _ in range(SPINNING_TASKS)]
        results.extend([future.result() for future in futures])

    with started(new) as executor:
        seconds = _from_threads(SUBMITTERS, submit)
    check(results == [spin(SPINS)] * (SUBMITTERS * SPINNING_TASKS), "spinning tasks")
    return {"seconds": seconds}


def sleeping(new: New) -> dict[str, float]:
    with started(new, BLOCKING_WORKERS) as executor:
        start = time.perf_counter()
        futures = [executor.submit(time.sleep, 0.001) for _ in range(SLEEPS)]
        results = [future.result() for future in futures]
        seconds = time.perf_counter() - start
    check(results == [None] * SLEEPS, "sleeps")
    return {"seconds": seconds}


def reading(new: New) -> dict[str, float]:
    """Tasks that block in a read until another process has echoed the byte that they wrote."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0) as echo:
        assert echo.stdin is not None and echo.stdout is not None
        to_echo, from_echo = echo.stdin.fileno(), echo.stdout.fileno()

        def round_trip() -> bytes:
            os.write(to_echo, b"x")
            return os.read(from_echo, 1)

        with started(new, BLOCKING_WORKERS) as executor:
            executor.submit(round_trip).result(HANG_S)  # the other process runs
            start = time.perf_counter()
            futures = [executor.submit(round_trip) for _ in range(READS)]
            results = [future.result() for future in futures]
            seconds = time.perf_counter() - start
        echo.stdin.close()
    check(results == [b"x"] * READS, "reads")
    return {"seconds": seconds}


def latency(new: New) -> dict[str, float]:
    """From submit to done of a task that does nothing, beside one that never rests; done is when its callbacks run.

    Who gets the interpreter's lock first decides between next to nothing and whole switch intervals, 5 ms each.
    """
    running, stop = threading.Event(), False
    seconds: list[float] = []

    def never_rest() -> None:
        running.set()
        while not stop:
            pass

    with started(new) as executor:
        long = executor.submit(never_rest)
        check(running.wait(HANG_S), "the long task")
        for _ in range(LATENCIES):
            start = time.perf_counter()
            future: Future[None] = executor.submit(no_op)
            future.add_done_callback(lambda _, start=start: seconds.append(time.perf_counter() - start))  # type: ignore[misc]
            future.result()
        stop = True
        long.result(HANG_S)
    check(len(seconds) == LATENCIES, "callbacks")
    return {
        "mean": statistics.mean(seconds),
        "median": statistics.median(seconds),
        "p99": statistics.quantiles(seconds, n=100)[98],
    }


def resident_bytes() -> int:
    """From smaps_rollup, which is exact; the line in status lags behind."""
    with open("/proc/self/smaps_rollup") as rollup:
        return next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Rss:"))


def pending(new: New) -> dict[str, float]:
    """Resident bytes of a future that waits, with all that the queue holds for it.

    By the resident size and not by tracemalloc, which does not see what C++ allocates beside Python's allocator. That
    needs a process in which nothing was freed that the futures could take up: the first pass in it.
    """
    gate, futures = threading.Event(), cast(list[Future[None]], [None] * COUNT)  # its room is taken before
    with started(new) as executor:
        held = [executor.submit(gate.wait, HANG_S) for _ in range(WORKERS)]
        before = resident_bytes()
        for number in range(COUNT):
            futures[number] = executor.submit(no_op)
        grown = resident_bytes() - before
        waiting = not any(future.done() for future in futures)
        gate.set()
        results = [future.result() for future in futures]
    check(waiting and results == [None] * COUNT and all(future.result() for future in held), "held futures")
    return {"bytes": grown / COUNT}
