"""Programs that end at a random moment while their executor is busy: `python -m benchmarks.executor.exit_storm`.

Each is an `exit_scene` in an interpreter of its own, which a forked child would not be: how a program ends is the
subject. Most of its time, 1.5 s, is the import of torchpool, so that 1,000 take a quarter of an hour on two cores.
The moments are spread over 50 ms; everything else about a program is drawn too, from the seed and its number.

A program has failed when it hangs for 10 s, ends with another exit code than it should, says something on stderr that
it should not, or when a task that was accepted neither ran nor was cancelled by a shutdown that cancels. A failure
shows the command that plays the scene again. `--standard` has the standard class instead, without forks: it is not made
for them.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.executor import exit_board, exit_scene
from benchmarks.executor.exit_board import Board
from benchmarks.executor.exit_scene import KINDS, Scene

ROOT = Path(__file__).resolve().parent.parent.parent
PROCESSES = 1_000
MOMENT_S = 0.05
GAP_S = 0.02
HANG_S = 10.0

_INTERRUPTED = {-signal.SIGINT, 128 + signal.SIGINT}
EXIT_CODES = {
    exit_scene.EXITS: {exit_scene.EXIT_CODE},
    exit_scene.RAISES: {1},
    exit_scene.INTERRUPTED: _INTERRUPTED,
    exit_scene.INTERRUPTED_TWICE: _INTERRUPTED | {1},
}
CANCELLING = (exit_scene.SHUTDOWN_CANCEL, exit_scene.NO_WAIT_CANCEL)
# What stderr may have: nothing, but for a traceback in programs that end by an exception.
TRACEBACKS = (exit_scene.RAISES, exit_scene.INTERRUPTED, exit_scene.INTERRUPTED_TWICE)
NEVER = ("FAULT", "Fatal Python error", "terminate called", "Timeout (", "Exception in thread", "Exception ignored")


@dataclass(frozen=True)
class Ending:
    """How a scene went."""

    scene: Scene
    spin: bool
    failures: list[str]
    stderr: str
    counts: dict[str, int]

    def __str__(self) -> str:
        environment = "" if self.spin else "TORCHPOOL_SPIN=0 "
        command = (
            f"{environment}python -X faulthandler -m benchmarks.executor.exit_scene '{json.dumps(asdict(self.scene))}'"
        )
        return "\n".join([f"{self.scene.kind}: {'; '.join(self.failures)}", command, self.stderr[-8_000:].strip()])


def draw(number: int, seed: int, executor: str, kinds: Sequence[str] = KINDS) -> tuple[Scene, bool]:
    """The number-th scene of a storm, and whether waiting threads may spin in it."""
    rng = random.Random(f"{seed}/{number}")
    main_submits = rng.random() < 0.5
    options = {"overlap": rng.choice([0, None, 8]), "queue_size": rng.choice([None, None, 100])}
    scene = Scene(
        kind=kinds[number % len(kinds)],
        moment=rng.uniform(0, MOMENT_S),
        helpers=rng.choice([0, 1] if main_submits else [1, 2]),
        main_submits=main_submits,
        daemon=rng.random() < 0.5,
        callbacks=rng.random() < 0.5,
        nested=rng.random() < 0.5,
        gap=rng.uniform(0, GAP_S),
        options=None if executor == "standard" else options,
        executor=executor,
    )
    return scene, rng.random() < 0.75


def _wrong_words(scene: Scene, stderr: str) -> list[str]:
    if scene.kind not in TRACEBACKS:
        return ["stderr is not empty"] if stderr.strip() else []
    allowed = {"Exception ignored"} if scene.kind == exit_scene.INTERRUPTED_TWICE else set()
    return [f"stderr has {words!r}" for words in NEVER if words in stderr and words not in allowed]


def play(scene: Scene, spin: bool) -> Ending:
    with tempfile.TemporaryDirectory() as folder:
        path, errors = Path(folder, "board"), Path(folder, "stderr")
        board = Board(path)
        command = [sys.executable, "-X", "faulthandler", "-m", "benchmarks.executor.exit_scene"]
        failures = []
        with (
            errors.open("wb") as stderr,
            subprocess.Popen(
                [*command, json.dumps(asdict(scene)), str(path)],
                stdout=subprocess.PIPE,
                stderr=stderr,
                cwd=ROOT,
                env={**os.environ, **({} if spin else {"TORCHPOOL_SPIN": "0"})},
                start_new_session=True,
            ) as process,
        ):
            assert process.stdout is not None
            process.stdout.readline()  # from here on it has no more time than a scene takes
            try:
                process.wait(HANG_S)
            except subprocess.TimeoutExpired:
                failures.append(f"hangs for {HANG_S:.0f} s")
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # with a child that it may have left
        text = errors.read_text(errors="replace")
        if not failures and process.returncode not in EXIT_CODES.get(scene.kind, {0}):
            failures.append(f"exit code {process.returncode}")
        failures += _wrong_words(scene, text)
        failures += exit_board.faults(
            board,
            calls=scene.callbacks,
            cancels=scene.kind in CANCELLING,
            loses=scene.kind == exit_scene.INTERRUPTED_TWICE,
            forks=scene.kind in exit_scene.FORKING,
            child_ends_early=scene.kind == exit_scene.FORKS_ENDS_EARLY,
        )
        outcomes = board.column(exit_board.PARENT, exit_board.OUTCOME)
        counts = {
            "processes": 1,
            "failed": bool(failures),
            "accepted": sum(board.column(exit_board.PARENT, exit_board.ACCEPTED)),
            "ran": sum(board.column(exit_board.PARENT, exit_board.RAN)),
            "cancelled": outcomes.count(exit_board.CANCELLED),
        }
        board.close()
    return Ending(scene, spin, failures, text, counts)


def endings(processes: int, jobs: int, seed: int, executor: str, kinds: Sequence[str]) -> list[Ending]:
    """All scenes of a storm, so many at a time; failures are printed as they come."""
    drawn = [draw(number, seed, executor, kinds) for number in range(processes)]
    found = []
    with ThreadPoolExecutor(jobs) as players:
        for playing in as_completed([players.submit(play, *scene) for scene in drawn]):
            found.append(playing.result())
            if found[-1].failures:
                print(found[-1], end="\n\n", flush=True)
    return found


def storm(processes: int, jobs: int, seed: int, executor: str = "torchpool") -> list[str]:
    """The failures, each with what it takes to see it again."""
    return [str(ending) for ending in endings(processes, jobs, seed, executor, KINDS) if ending.failures]


def table(found: Sequence[Ending]) -> str:
    columns = ("processes", "failed", "accepted", "ran", "cancelled")
    sums: dict[str, Counter[str]] = {}
    for ending in found:
        for kind in (ending.scene.kind, "all"):
            sums.setdefault(kind, Counter()).update(ending.counts)
    sums["all"] = sums.pop("all", Counter())
    lines = [f"{'':44}" + "".join(f"{column:>12}" for column in columns)]
    lines += [f"{kind:44}" + "".join(f"{of[column]:>12,}" for column in columns) for kind, of in sums.items()]
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--processes", type=int, default=PROCESSES)
    parser.add_argument("--jobs", type=int, default=2, help="at a time")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="+", choices=KINDS)
    parser.add_argument("--standard", action="store_const", const="standard", dest="executor", default="torchpool")
    args = parser.parse_args()
    kinds = args.kinds or KINDS
    if args.executor == "standard":
        kinds = [kind for kind in kinds if kind not in exit_scene.FORKING]
    started = time.perf_counter()
    found = endings(args.processes, args.jobs, args.seed, args.executor, kinds)
    print(table(found))
    print(f"{time.perf_counter() - started:.0f} s")
    return 1 if any(ending.failures for ending in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
