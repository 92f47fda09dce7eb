"""When the interpreter ends and when it forks: who acts then, in one order for the whole package.

Each module that has something to end, or to make afresh in a forked child, registers it here under a phase. The phases
are the order; within one, what was registered first acts first. This module knows nobody who registers.
"""

from __future__ import annotations

import atexit
import concurrent.futures.thread  # noqa: F401  the interpreter calls hooks last in, first out: ours before its own
import enum
import functools
import os
import threading
from collections.abc import Callable

Hook = Callable[[], None]


class Exit(enum.IntEnum):
    """The steps of the interpreter's end, in their order."""

    EXECUTORS = 1
    """Before the standard library waits for executors' threads, and before it joins any other: executors refuse what is
    new from now on, and predictors' calls that they accepted, which have no thread of theirs, are waited for."""
    RUNTIMES = 2
    """All threads but daemons have ended, and were served until then: workers end."""
    CALLBACKS = 3
    """Everything is settled: callbacks that wait for their thread are run."""


class Child(enum.IntEnum):
    """The steps in a forked child, in their order. Only the forking thread survived: locks may be held for ever."""

    TIMERS = 1
    """The timer's thread and what it had to call."""
    EXTENSION = 2
    """What the extension keeps for the process, and which runtime is the default one."""
    FUTURES = 3
    """The thread that runs callbacks."""
    CAPTURES = 4
    """The thread that captures."""
    RUNTIMES = 5
    """Workers, which start with the first work."""
    PREDICTORS = 6
    """What callers of one wait for. The rest of a predictor is made anew when it is called next, so that a child that
    does not use it does nothing for it."""
    EXECUTORS = 7
    """Threads and tasks, and the calls that executors have sent into predictors."""


class Lifecycle:
    """Hooks by phase. The process has one, whose `at_exit` and `in_child` are this module's."""

    def __init__(self) -> None:
        self._at_exit: dict[Exit, list[Hook]] = {phase: [] for phase in Exit}
        self._in_child: dict[Child, list[Hook]] = {phase: [] for phase in Child}
        self._before_fork: list[Hook] = []
        self._in_parent: list[Hook] = []

    def at_exit(self, phase: Exit, hook: Hook) -> None:
        """Calls hook() when the interpreter ends, in that phase."""
        self._at_exit[phase].append(hook)

    def in_child(self, phase: Child, hook: Hook) -> None:
        """Calls hook() in each forked child, in that phase, before anything else runs there."""
        self._in_child[phase].append(hook)

    def around_fork(self, before: Hook, in_parent: Hook) -> None:
        """Calls before() when the process is about to fork, and in_parent() afterwards, in the parent only."""
        self._before_fork.append(before)
        self._in_parent.append(in_parent)

    def before_threads_are_joined(self) -> None:
        """The interpreter has begun to end."""
        _call(self._at_exit[Exit.EXECUTORS])

    def after_threads_were_joined(self) -> None:
        """Nothing runs any more but daemons and workers. A hook that raises, as Ctrl-C makes it, ends the rest."""
        for phase in (Exit.RUNTIMES, Exit.CALLBACKS):
            _call(self._at_exit[phase])

    def forked(self, phase: Child) -> None:
        """In the child: the hooks of one phase."""
        _call(self._in_child[phase])

    def forks(self) -> None:
        """The process is about to fork."""
        _call(self._before_fork)

    def has_forked(self) -> None:
        """In the parent, where a fork failed, too."""
        _call(self._in_parent)

    def attach(self) -> None:
        """Has the interpreter call all this from now on."""
        threading._register_atexit(self.before_threads_are_joined)  # type: ignore[attr-defined]
        atexit.register(self.after_threads_were_joined)
        os.register_at_fork(before=self.forks, after_in_parent=self.has_forked)
        for phase in Child:  # apart: where a hook raises, the interpreter reports it and goes on with the next phase
            os.register_at_fork(after_in_child=functools.partial(self.forked, phase))


def _call(hooks: list[Hook]) -> None:
    for hook in hooks:
        hook()


_process = Lifecycle()
_process.attach()
at_exit, in_child, around_fork = _process.at_exit, _process.in_child, _process.around_fork
