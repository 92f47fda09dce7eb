"""Are children served that a process forks while its predictor is in any state? `python -m benchmarks.predict.forks`.

In each round the process forks three children in each of five states of a predictor: just wrapped, learned, while a
graph is captured, with a graph ready, and with calls in flight, whose results other threads wait for. In a child eight
threads use the predictor first, all at once; then the thread that was forked does, and computes on all cores by itself.
The parent goes on, and all that it has in flight comes back right.

A child has failed when it hangs for 30 s, when a result is wrong, or when a call raises: `of 3 children hung, wrong,
raised`. A child that hangs shows its stacks. About 15 s a round on two cores.
"""

import argparse
import contextlib
import faulthandler
import os
import signal
import sys
import threading
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

import torchpool

ROUNDS = 20
CHILDREN = 3
THREADS = 8
CALLS = 4  # of each thread
HANG_S = 30
BOUND = 1e-5

JUST_WRAPPED, LEARNED, CAPTURING, READY, IN_FLIGHT = STATES = (
    "just wrapped",
    "learned",
    "capturing",
    "graph ready",
    "calls in flight",
)
RIGHT, WRONG, RAISED, HUNG = "right", "wrong", "raised", "hung"
CODES = {0: RIGHT, 3: WRONG, 4: RAISED, -signal.SIGALRM: HUNG}


class Case:
    """A model, what it gives, and a predictor of it."""

    def __init__(self) -> None:
        layers = nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 256), nn.LogSigmoid(), nn.Linear(256, 4)
        self.model = nn.Sequential(*layers).eval()
        self.xs = [torch.randn(1, 64) for _ in range(THREADS * CALLS)]
        with torch.no_grad():
            self.want = [self.model(x) for x in self.xs]
        self.predict = torchpool.wrap(self.model)

    def check(self, number: int, result: torch.Tensor) -> None:
        want = self.want[number]
        if result.shape != want.shape or not (result - want).abs().max() <= BOUND * want.abs().max():
            raise Wrong(f"call {number} gave {result}, the model gives {want}")

    def by_threads(self) -> None:
        """Every thread's first call comes at the same moment; some call, some submit, some map."""
        start, errors = threading.Barrier(THREADS), list[BaseException]()

        def work(thread: int) -> None:
            numbers = range(thread * CALLS, (thread + 1) * CALLS)
            try:
                start.wait()
                for number, result in zip(numbers, self._results(thread, numbers), strict=True):
                    self.check(number, result)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(thread,)) for thread in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise next((error for error in errors if isinstance(error, Wrong)), errors[0])

    def _results(self, thread: int, numbers: range) -> Iterator[torch.Tensor]:
        xs = [self.xs[number] for number in numbers]
        if thread % 4 == 0:
            return iter([future.result() for future in [self.predict.submit(x) for x in xs]])
        if thread % 4 == 1:
            return iter(self.predict.map(xs))
        return map(self.predict, xs)

    def by_this_thread(self) -> None:
        for number, result in enumerate(self.predict.map(self.xs)):
            self.check(number, result)
        for number, x in enumerate(self.xs):
            self.check(number, self.predict(x))
        torch.set_num_threads(2)
        torch.ones(1 << 20).add(1).sum()


class Wrong(AssertionError):
    """A result that is not the model's."""


def child_of(case: Case) -> int:
    """Forks one that uses the predictor; its pid."""
    pid = os.fork()
    if pid:
        return pid
    code = 4
    try:
        faulthandler.dump_traceback_later(HANG_S - 5, exit=False)
        signal.alarm(HANG_S)
        case.by_threads()
        case.by_this_thread()
        code = 0
    except Wrong as error:
        print(error, file=sys.stderr, flush=True)
        code = 3
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


@contextlib.contextmanager
def calls_in_flight(case: Case) -> Iterator[None]:
    """Three threads call and submit meanwhile."""
    stop, errors = threading.Event(), list[BaseException]()

    def work(first: int) -> None:
        number = first
        try:
            while not stop.is_set():
                number = (number + 1) % len(case.xs)
                future = case.predict.submit(case.xs[number])
                case.check(number, case.predict(case.xs[number]))
                case.check(number, future.result(HANG_S))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(first,)) for first in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    if errors:
        raise errors[0]


def bring_to(case: Case, state: str) -> None:
    """Requires that the case is in the state before it."""
    if state == LEARNED:
        case.predict(case.xs[0])
    elif state == CAPTURING:
        case.predict.refresh()
        case.predict(case.xs[0])
    elif state == READY and not case.predict.ready(HANG_S):
        raise RuntimeError("there is no graph")


def forked(case: Case, state: str) -> Counter[str]:
    """How children fare that are forked in the state."""
    bring_to(case, state)
    busy: Callable[[Case], contextlib.AbstractContextManager[None]]
    busy = calls_in_flight if state == IN_FLIGHT else contextlib.nullcontext
    with busy(case):
        pids = [child_of(case) for _ in range(CHILDREN)]
        codes = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
    case.check(0, case.predict(case.xs[0]))
    return Counter(CODES.get(code, RAISED) for code in codes)


def matrix(rounds: int, say: Callable[[str], Any] = print) -> dict[str, Counter[str]]:
    """By state, how its children fared."""
    fared = {state: Counter[str]() for state in STATES}
    for number in range(rounds):
        case = Case()
        torch.ones(1 << 20).add(1)  # so that this thread has an OpenMP team
        for state in STATES:
            fared[state] += forked(case, state)
        say(f"round {number + 1} of {rounds}: {bad(fared)} failures so far")
    return fared


def bad(fared: dict[str, Counter[str]]) -> int:
    return sum(count.total() - count[RIGHT] for count in fared.values())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)  # from Python 3.12 on
    torch.manual_seed(0)
    torch.set_num_threads(2)
    fared = matrix(parser.parse_args().rounds, lambda text: print(text, file=sys.stderr, flush=True))
    for state, count in fared.items():
        print(f"{state:16} children {count.total():3}: {', '.join(f'{count[k]} {k}' for k in (HUNG, WRONG, RAISED))}")
    return 1 if bad(fared) else 0


if __name__ == "__main__":
    sys.exit(main())
