"""What became of a scene's tasks, in a file that outlives the processes that note it: they may end in any way.

A byte for each task and each thing that can be noted of it. A forked child notes on a side of its own.
"""

import mmap
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

CAPACITY = 60_000  # tasks of a scene
ACCEPTED, RAN, CALLED, OUTCOME = range(4)  # CALLED: its done callback was; OUTCOME: the future's, at the very end
PENDING, RESULT, ERROR, CANCELLED, BROKEN, OTHER = range(1, 7)  # outcomes; 0 where none was noted
PARENT, CHILD = range(2)

_COLUMNS = 4
_HEADER = 2  # for each side whether its last code ran
_SIZE = _HEADER + 2 * _COLUMNS * CAPACITY

SLEEPS_EVERY, NESTED_EVERY, FAILS_EVERY = 97, 89, 101  # which tasks sleep, submit another one, and raise


class Board:
    """Zeros at first; without a path one that only the process and its children see."""

    def __init__(self, path: Path | None = None) -> None:
        if path is None:
            self._bytes = mmap.mmap(-1, _SIZE)
        else:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
            os.ftruncate(descriptor, _SIZE)
            self._bytes = mmap.mmap(descriptor, _SIZE)
            os.close(descriptor)

    def note(self, side: int, column: int, number: int, value: int | None = None) -> None:
        """Counts where no value is given."""
        place = _HEADER + (side * _COLUMNS + column) * CAPACITY + number
        self._bytes[place] = self._bytes[place] + 1 if value is None else value

    def note_last(self, side: int) -> None:
        self._bytes[side] = 1

    def reached_last(self, side: int) -> bool:
        return self._bytes[side] == 1

    def column(self, side: int, column: int) -> bytes:
        start = _HEADER + (side * _COLUMNS + column) * CAPACITY
        return self._bytes[start : start + CAPACITY]

    def tasks(self, side: int) -> Iterator[tuple[int, int, int, int]]:
        """Of each task what was noted, in the order of the columns."""
        columns = [self.column(side, column) for column in range(_COLUMNS)]
        used = max(len(column.rstrip(b"\0")) for column in columns)
        return zip(*(column[:used] for column in columns), strict=True)

    def close(self) -> None:
        self._bytes.close()


def _fault_of_accepted(number: int, ran: int, called: int, outcome: int, calls: bool, cancels: bool) -> str:
    """What is wrong with an accepted task, empty where nothing is."""
    if outcome == PENDING:
        return "is pending when all is over"
    if outcome in (BROKEN, OTHER):
        return "failed otherwise than by its own error"
    if outcome == CANCELLED and not cancels:
        return "was cancelled by nobody"
    if outcome == CANCELLED and ran:
        return "ran and was cancelled"
    if outcome in (RESULT, ERROR) and not ran:
        return "is done and did not run"
    if outcome in (RESULT, ERROR) and (outcome == ERROR) != (number % FAILS_EVERY == 0):
        return "has another task's outcome"
    if not outcome and not ran and not cancels:
        return "was lost"
    if outcome and called != calls:
        return f"had its callback called {called} times"
    return ""


def faults(board: Board, *, calls: bool, cancels: bool, loses: bool, forks: bool, child_ends_early: bool) -> list[str]:
    """What is wrong with the scene's tasks. `calls`: they have callbacks; `cancels`: a shutdown cancels what waits;
    `loses`: an impatient end may lose tasks; `child_ends_early`: the child runs no last code."""
    seen: Counter[str] = Counter()
    for number, (accepted, ran, called, outcome) in enumerate(board.tasks(PARENT)):
        if ran > 1:
            seen["a task ran more than once"] += 1
        if called > 1:
            seen["a callback was called more than once"] += 1
        if accepted and not loses and (fault := _fault_of_accepted(number, ran, called, outcome, calls, cancels)):
            seen[f"a task {fault}"] += 1
    if not loses and not board.reached_last(PARENT):
        seen["the program's last code did not run"] += 1
    if forks:
        for number, (accepted, ran, called, outcome) in enumerate(board.tasks(CHILD)):
            if ran > 1:
                seen["in the child: a task ran more than once"] += 1
            if accepted and not child_ends_early:
                if fault := _fault_of_accepted(number, ran, called, outcome, calls, False):
                    seen[f"in the child: a task {fault}"] += 1
            elif not accepted and ran:
                seen["in the child: a task of the parent ran"] += 1
            elif not accepted and outcome in (PENDING, OTHER):
                seen["in the child: a task of the parent is neither done nor broken"] += 1
        if not child_ends_early and not board.reached_last(CHILD):
            seen["the child's last code did not run"] += 1
    return [f"{fault} ({count} times)" for fault, count in seen.items()]
