"""torchpool.ThreadPoolExecutor beside the standard class: `python -m benchmarks.executor.tasks [burst mapped ...]`.

Each class is measured in a process of its own, which has no threads of the other's, and the passes alternate: the other
process waits meanwhile, without threads of an executor. What a process has imported is frozen, so that torch's objects,
which only one of the two has, do not count in the garbage collections that the futures cause.

Figures are how many times faster torchpool is, by the best pass of each; by the medians of the passes where the best is
luck: where other processes keep the cores busy, and of latencies, which are multiples of the interpreter's switch
interval or next to nothing, as it happens, and nearly always the latter when something else keeps a core busy. "No
worse" is what nothing is to be gained in, because the tasks themselves hold the interpreter's lock or block; its limit
leaves room for noise. `--against-itself` has the standard class stand in for torchpool's, to show that noise: all
ratios would be 1.
"""

import argparse
import faulthandler
import gc
import multiprocessing
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from benchmarks.executor import passes as measured
from benchmarks.harness.wanted import Figure, report

ROUNDS = 5
LIMIT_S = 120  # of a pass; a process that hangs ends with its stacks on stderr
NO_WORSE = 0.95
STANDARD, TORCHPOOL, NOT_SPINNING = "standard", "torchpool", "torchpool without spinning"


@dataclass(frozen=True)
class Measurement:
    """A function of benchmarks.executor.passes, which class is compared with the standard one, and what is wanted."""

    task: str
    wanted: dict[str, float]  # by what the function returns
    what: str
    ours: str = TORCHPOOL
    busy: bool = False  # every core is kept busy by another process
    times: int = 1  # passes a round: more where they are short or vary
    pick: Callable[[Sequence[float]], float] = min


MEASUREMENTS = {
    "burst": Measurement("burst", {"seconds": 25}, "100,000 submitted at once"),
    "mapped": Measurement("mapped", {"seconds": 25}, "map of 100,000"),
    "keywords": Measurement("keywords", {"seconds": 8}, "100,000 with keyword arguments"),
    "raising": Measurement("raising", {"seconds": 8}, "100,000 that raise"),
    "producers": Measurement("producers", {"seconds": 6}, "8 threads that submit 50 and wait", times=2),
    "ping-pong": Measurement("ping_pong", {"seconds": 10}, "one at a time, idle cores"),
    "ping-pong-busy": Measurement(
        "ping_pong", {"seconds": 2}, "one at a time, busy cores", busy=True, times=2, pick=statistics.median
    ),
    "ping-pong-not-spinning": Measurement(
        "ping_pong", {"seconds": 1.1}, "one at a time, without spinning", ours=NOT_SPINNING
    ),
    "gathered": Measurement("gathered", {"seconds": 2}, "asyncio.gather of 10,000", times=2),
    "waited": Measurement("waited", {"seconds": 2}, "10,000 and concurrent.futures.wait", times=2),
    "spinning": Measurement("spinning", {"seconds": NO_WORSE}, "no worse: tasks of 100 us in Python", times=4),
    "sleeping": Measurement("sleeping", {"seconds": NO_WORSE}, "no worse: tasks that sleep 1 ms", times=4),
    "reading": Measurement("reading", {"seconds": NO_WORSE}, "no worse: tasks that wait for a pipe", times=4),
    "latency": Measurement(
        "latency",
        {"mean": NO_WORSE, "median": NO_WORSE, "p99": NO_WORSE},
        "no worse: latency beside a busy task",
        times=2,
        pick=statistics.median,
    ),
}
PENDING = "pending"
PENDING_WANTED = 0.1

_BURN = """
import os, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(0)), daemon=True).start()
print(flush=True)
while True: pass
"""


@contextmanager
def burning(processes: int) -> Iterator[None]:
    """So many processes that never rest; they end with this one too, whose end closes their input."""
    with ExitStack() as stack:
        for _ in range(processes):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", _BURN], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            assert process.stdin is not None and process.stdout is not None
            stack.callback(process.stdin.close)
            process.stdout.readline()
        yield


def _class(name: str) -> measured.New:
    if name == STANDARD:
        from concurrent.futures import ThreadPoolExecutor as Standard

        return Standard
    import torchpool

    ours: measured.New = torchpool.ThreadPoolExecutor
    return ours


def _set_up(name: str) -> None:
    """Runs first in a class's process."""
    if "torchpool" in sys.modules:
        raise RuntimeError("torchpool is imported already: it may have read the environment")
    if name == NOT_SPINNING:
        os.environ["TORCHPOOL_SPIN"] = "0"
    _class(name)
    gc.collect()
    gc.freeze()


def _run(name: str, task: str) -> dict[str, float]:
    """One pass, in a class's process."""
    faulthandler.dump_traceback_later(LIMIT_S, exit=True)
    try:
        found: dict[str, float] = getattr(measured, task)(_class(name))
        return found
    finally:
        faulthandler.cancel_dump_traceback_later()


@contextmanager
def process_of(name: str) -> Iterator[Callable[[str], dict[str, float]]]:
    """Runs passes on one class in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=spawn, initializer=_set_up, initargs=(name,)) as process:
        yield lambda task: process.submit(_run, name, task).result()


def _alternate(
    measurement: Measurement, sides: dict[str, Callable[[str], dict[str, float]]], rounds: int
) -> dict[str, Any]:
    """The passes of both classes; every other time the other one is first."""
    passes: dict[str, list[dict[str, float]]] = {name: [] for name in sides}
    cores = len(os.sched_getaffinity(0)) if measurement.busy else 0
    for number in range(rounds * measurement.times):
        for name in list(sides)[:: -1 if number % 2 else 1]:
            with burning(cores):
                passes[name].append(sides[name](measurement.task))
    return {key: {name: [one[key] for one in passes[name]] for name in passes} for key in measurement.wanted}


def measure(names: Sequence[str] = (), rounds: int = ROUNDS, against_itself: bool = False) -> dict[str, Any]:
    """All passes: by the measurement, what it returns, and the side, standard or torchpool."""
    names = names or [*MEASUREMENTS, PENDING]
    name_of = {ours: STANDARD if against_itself else ours for ours in (TORCHPOOL, NOT_SPINNING)}
    found: dict[str, Any] = {}
    with ExitStack() as stack:
        processes: dict[str, Callable[[str], dict[str, float]]] = {}
        for name in [STANDARD, *dict.fromkeys(MEASUREMENTS[name].ours for name in names if name != PENDING)]:
            processes[name] = stack.enter_context(process_of(name_of.get(name, name)))
            processes[name]("serves")
        for name in names:
            if name != PENDING:
                measurement = MEASUREMENTS[name]
                sides = {STANDARD: processes[STANDARD], TORCHPOOL: processes[measurement.ours]}
                found[name] = _alternate(measurement, sides, rounds)
    if PENDING in names:
        found[PENDING] = {"bytes": {}}
        for name in (STANDARD, TORCHPOOL):
            with process_of(name_of.get(name, name)) as run:  # a fresh one, in which nothing was freed yet
                found[PENDING]["bytes"][name] = [run("pending")["bytes"]]
    return found


def _picked(name: str, passes: dict[str, list[float]]) -> tuple[float, float]:
    """What stands for the passes of the standard class and of torchpool's."""
    pick = MEASUREMENTS[name].pick if name in MEASUREMENTS else min
    return pick(passes[STANDARD]), pick(passes[TORCHPOOL])


def figures(found: dict[str, Any]) -> list[Figure]:
    result = []
    for name, by_key in found.items():
        for key, passes in by_key.items():
            standard, ours = _picked(name, passes)
            if name == PENDING:
                result.append(
                    Figure("a pending future's memory, part of a standard one's", ours / standard, PENDING_WANTED)
                )
                continue
            measurement = MEASUREMENTS[name]
            what = measurement.what if len(by_key) == 1 else f"{measurement.what}, {key}"
            result.append(Figure(what, standard / ours, measurement.wanted[key], at_least=True, form="{:.2f} x"))
    return result


def describe(found: dict[str, Any]) -> str:
    """What stands behind the ratios."""
    lines = [f"  {'':40}{'standard':>14}{'torchpool':>14}{'spread':>16}"]
    for name, by_key in found.items():
        for key, passes in by_key.items():
            unit, scale = ("bytes", 1.0) if key == "bytes" else ("ms", 1e3)
            both = [f"{value * scale:,.2f} {unit}" for value in _picked(name, passes)]
            spread = [max(values) / min(values) for values in passes.values()]
            what = name if len(by_key) == 1 else f"{name}, {key}"
            lines.append(f"  {what:40}{both[0]:>14}{both[1]:>14}" + "".join(f"{one:>8.2f}" for one in spread))
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join([*MEASUREMENTS, PENDING])}")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--against-itself", action="store_true", help="the standard class in both places")
    args = parser.parse_args()
    if unknown := set(args.names) - {*MEASUREMENTS, PENDING}:
        parser.error(f"no such measurement: {', '.join(sorted(unknown))}")
    found = measure(args.names, args.rounds, args.against_itself)
    print(describe(found))
    return report(figures(found))


if __name__ == "__main__":
    raise SystemExit(main())
