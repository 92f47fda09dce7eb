"""One program that ends while its executor is busy: `python -m benchmarks.executor.exit_scene SCENE [BOARD]`.

SCENE is a Scene in JSON. Threads submit tasks as fast as they can; at the scene's moment the main thread ends the
program, or shuts the executor down, or forks. The tasks, their callbacks and an exit handler note on the board what
became of them; the handler is registered first, so that it is called last, when all accepted tasks are to be done. A
line on stdout says that the tasks come now; what is wrong by then is a line on stderr. `exit_storm` runs many.
"""

import atexit
import concurrent.futures
import faulthandler
import gc
import itertools
import json
import os
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future
from concurrent.futures.thread import BrokenThreadPool
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.executor import exit_board
from benchmarks.executor.exit_board import CHILD, PARENT, Board

WORKERS = 4
PATIENCE_S = 6.0  # for what has to happen at once
STACKS_S = 8.0  # a program that takes longer shows what its threads do
CHILDS_TASKS = 200
LEFT_FOR_CHILD = 1_000
EXIT_CODE = 3

FALLS, EXITS, RAISES = "falls off the end", "sys.exit", "raises"
INTERRUPTED, INTERRUPTED_TWICE = "interrupted", "interrupted twice"
FORKS, FORKS_ENDS_EARLY = "forks", "forks, child os._exit"
SHUTDOWN, SHUTDOWN_CANCEL = "shutdown(wait=True)", "shutdown(wait=True, cancel_futures=True)"
NO_WAIT, NO_WAIT_CANCEL = "shutdown(wait=False)", "shutdown(wait=False, cancel_futures=True)"
DROPS = "drops the executor"
SHUTDOWNS = {
    SHUTDOWN: {"wait": True, "cancel_futures": False},
    SHUTDOWN_CANCEL: {"wait": True, "cancel_futures": True},
    NO_WAIT: {"wait": False, "cancel_futures": False},
    NO_WAIT_CANCEL: {"wait": False, "cancel_futures": True},
}
FORKING = (FORKS, FORKS_ENDS_EARLY)
KINDS = (FALLS, EXITS, RAISES, INTERRUPTED, INTERRUPTED_TWICE, *FORKING, *SHUTDOWNS, DROPS)


@dataclass(frozen=True)
class Scene:
    kind: str
    moment: float  # seconds after the first submit
    helpers: int = 1  # threads that submit beside the main thread
    main_submits: bool = False  # otherwise it waits for results meanwhile
    daemon: bool = False  # the helpers
    callbacks: bool = False
    nested: bool = False  # some tasks submit another one
    gap: float = 0.0  # seconds between two interrupts
    options: dict[str, Any] | None = None  # of torchpool's executor
    executor: str = "torchpool"  # or "standard"


def fault(text: str) -> None:
    os.write(2, f"FAULT: {text}\n".encode())


def _new_executor(scene: Scene) -> concurrent.futures.Executor:
    if scene.executor == "standard":
        return concurrent.futures.ThreadPoolExecutor(WORKERS)
    import torchpool

    ours: concurrent.futures.Executor = torchpool.ThreadPoolExecutor(WORKERS, **scene.options or {})
    return ours


class Play:
    """The scene, under way."""

    def __init__(self, scene: Scene, board: Board) -> None:
        atexit.register(self._last)
        self._scene = scene
        self._board = board
        self._main = os.getpid()
        self._kept = [_new_executor(scene)]  # the only reference that lasts
        self._executor = weakref.ref(self._kept[0])
        self._numbers = itertools.count()  # next() on it is atomic
        self._futures: dict[int, Future[int]] = {}
        self._latest: Future[int] | None = None

    def _side(self) -> int:
        return PARENT if os.getpid() == self._main else CHILD

    def _task(self, number: int) -> int:
        self._board.note(self._side(), exit_board.RAN, number)
        if number % exit_board.SLEEPS_EVERY == 0:
            time.sleep(0.001)
        if self._scene.nested and number % exit_board.NESTED_EVERY == 0:
            self._submit()
        if number % exit_board.FAILS_EVERY == 0:
            raise ValueError("on purpose")
        return number

    def _called(self, number: int, future: Future[int]) -> None:
        self._board.note(self._side(), exit_board.CALLED, number)
        if not future.done():
            fault("a callback before its future is done")

    def _submit(self) -> bool:
        """Whether there may be another one."""
        executor, number = self._executor(), next(self._numbers)
        # On a slow machine all numbers may be gone before the fork: some are left for the child.
        last = exit_board.CAPACITY - (LEFT_FOR_CHILD if self._side() == PARENT else 0)
        if executor is None or number >= last:
            return False
        try:
            future = executor.submit(self._task, number)
        except RuntimeError as error:
            if "shutdown" not in str(error):
                fault(f"refused: {error!r}")
            return False
        self._futures[number] = self._latest = future
        if self._scene.callbacks:
            future.add_done_callback(partial(self._called, number))
        self._board.note(self._side(), exit_board.ACCEPTED, number)
        return True

    def _help(self) -> None:
        while self._submit():
            pass

    def _keep_busy(self, end: float) -> None:
        """The main thread's part until the moment comes, or an interrupt."""
        submits = self._scene.main_submits
        while time.perf_counter() < end:
            submits = submits and self._submit()
            if not submits and (latest := self._latest) is not None:
                with suppress(ValueError, TimeoutError, CancelledError):
                    latest.result(0.01)

    def _interrupt(self) -> None:
        time.sleep(self._scene.moment)
        os.kill(self._main, signal.SIGINT)
        if self._scene.kind == INTERRUPTED_TWICE:
            time.sleep(self._scene.gap)
            os.kill(self._main, signal.SIGINT)

    def run(self) -> None:
        kind = self._scene.kind
        print(flush=True)
        faulthandler.dump_traceback_later(STACKS_S, exit=False)
        for _ in range(self._scene.helpers):
            threading.Thread(target=self._help, daemon=self._scene.daemon).start()
        if kind in (INTERRUPTED, INTERRUPTED_TWICE):
            threading.Thread(target=self._interrupt, daemon=True).start()
            self._keep_busy(time.perf_counter() + PATIENCE_S)
            fault("no interrupt came")
        self._keep_busy(time.perf_counter() + self._scene.moment)
        if kind == EXITS:
            sys.exit(EXIT_CODE)
        if kind == RAISES:
            raise LookupError("on purpose")
        if kind in FORKING:
            self._fork()
        if kind in SHUTDOWNS:
            self._kept[0].shutdown(**SHUTDOWNS[kind])
            if SHUTDOWNS[kind]["wait"] and not all(future.done() for future in list(self._futures.values())):
                fault("shutdown() did not wait")
        if kind == DROPS:
            self._kept.clear()
            gc.collect()
            self._wait_for(list(self._futures.values()), (ValueError,))

    def _wait_for(self, futures: list[Future[int]], errors: tuple[type[BaseException], ...]) -> None:
        end = time.monotonic() + PATIENCE_S
        for future in futures:
            try:
                future.result(max(0.0, end - time.monotonic()))
            except errors:
                pass
            except BaseException as error:
                fault(f"a future in {'the child' if self._side() == CHILD else 'the program'}: {error!r}")
                return

    def _fork(self) -> None:
        faulthandler.cancel_dump_traceback_later()  # a child would wait for that thread, which is not forked
        child = os.fork()
        faulthandler.dump_traceback_later(STACKS_S, exit=False)
        if child:
            self._keep_busy(time.perf_counter() + 0.005)
            _, status = os.waitpid(child, 0)
            if status:
                fault(f"the child's status is {os.waitstatus_to_exitcode(status)}")
            return
        inherited = dict(self._futures)
        self._wait_for(list(inherited.values()), (ValueError, BrokenThreadPool))
        for _ in range(CHILDS_TASKS):
            self._submit()
        own = [future for number, future in self._futures.items() if number not in inherited]
        if len(own) < CHILDS_TASKS:
            fault(f"the child's executor took {len(own)} tasks")
        self._wait_for(own, (ValueError,))
        for _ in range(CHILDS_TASKS):  # some are left to the end
            self._submit()
        if self._scene.kind == FORKS_ENDS_EARLY:
            os._exit(0)

    def _last(self) -> None:
        side = self._side()
        for number, future in list(self._futures.items()):
            self._board.note(side, exit_board.OUTCOME, number, _outcome(future))
        self._board.note_last(side)


def _outcome(future: Future[int]) -> int:
    if not future.done():
        return exit_board.PENDING
    if future.cancelled():
        return exit_board.CANCELLED
    error = future.exception()
    if error is None:
        return exit_board.RESULT
    if type(error) is ValueError:
        return exit_board.ERROR
    return exit_board.BROKEN if isinstance(error, BrokenThreadPool) else exit_board.OTHER


def main() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)  # one that a shell starts in the background ignores it
    scene = Scene(**json.loads(sys.argv[1]))
    board = Board(Path(sys.argv[2]) if len(sys.argv) > 2 else None)
    Play(scene, board).run()


if __name__ == "__main__":
    main()
