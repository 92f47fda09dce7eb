"""Captures in a child process.

torch.export must not run in a process that serves calls. It sets flags and patches classes for the whole process. It
leaves fake tensors wherever a module keeps computed values. It holds the interpreter's lock for a second or more, and
leaves 100 MB of imported modules behind. A forked child has the module at hand, whatever the module is made of and
wherever it was defined. The child computes shapes only and gives back plain data; the parent proves that its programs
are right. A lock that one of the parent's threads held at the fork is never free in the child, and export may wait for
it: a child that uses no processor time for a while is ended, and another one forked.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import NoReturn

import torch

from torchpool import _core
from torchpool.capture import linear_choice
from torchpool.capture.program import CaptureError, Programs, ProvenRows
from torchpool.capture.source import Source
from torchpool.contract import RowsVerdict, brief

_LIMIT_SECONDS = 300
_LOOK_SECONDS = 0.1  # how often to see what the child does, and whether the interpreter stays
_IDLE_SECONDS = 5.0
_ATTEMPTS = 3


class _Stuck(Exception):
    """The child has stopped making progress."""


def capture_elsewhere(source: Source, wanted: Callable[[], bool] = lambda: True) -> Programs:
    """The programs of the source. Raises CaptureError, which says why there are none.

    Waits with the interpreter's lock released, and gives up when the interpreter exits or it is
    `wanted` no longer.
    """
    for _ in range(_ATTEMPTS):
        try:
            return _capture_once(source, wanted)
        except _Stuck:
            continue
    raise CaptureError(f"{_ATTEMPTS} processes that were to capture it came to a standstill")


def _capture_once(source: Source, wanted: Callable[[], bool]) -> Programs:
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader:
        with writer:
            try:
                child = _core.fork(_LIMIT_SECONDS)
            except OSError as error:
                raise CaptureError(f"the process cannot be forked to capture in: {error.strerror}") from error
            if child == 0:
                _serve(writer, source)
        _core.lend_cores(1)
        try:
            return _receive(reader, child, wanted)
        finally:
            _core.lend_cores(-1)
            _end(child)


def _receive(reader: Connection, child: int, wanted: Callable[[], bool]) -> Programs:
    started = last_moved = time.monotonic()
    used = 0.0
    try:
        while not reader.poll(_LOOK_SECONDS):
            if not threading.main_thread().is_alive():
                raise CaptureError("the interpreter exits")
            if not wanted():
                raise CaptureError("nobody waits for it any more")
            now = time.monotonic()
            if now - started > _LIMIT_SECONDS:
                raise CaptureError(f"capturing took more than {_LIMIT_SECONDS} s")
            if (spent := _processor_seconds(child)) > used:
                used, last_moved = spent, now
            elif now - last_moved > _IDLE_SECONDS:
                raise _Stuck
        programs, error, rows, proven = pickle.loads(reader.recv_bytes())
    except EOFError:
        raise CaptureError(f"the process that captured it ended without a word ({_fate(child)})") from None
    if error is not None:
        raise CaptureError(error, rows, proven)
    assert isinstance(programs, Programs)
    linear_choice.learn(choice for choice in programs.linears if choice.times)
    return programs


def _processor_seconds(child: int) -> float:
    # The clock of another process, as clock_getcpuclockid() makes it; gone when somebody else has reaped the child.
    try:
        return time.clock_gettime(~child << 3 | 2)
    except OSError:
        return 0.0


def _fate(child: int) -> str:
    try:
        _, status = os.waitpid(child, 0)
    except ChildProcessError:
        return "how is not known"  # somebody waits for all children
    return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit code {os.WEXITSTATUS(status)}"


def _end(child: int) -> None:
    with contextlib.suppress(ProcessLookupError, ChildProcessError):
        if os.waitpid(child, os.WNOHANG) == (0, 0):
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


def _serve(writer: Connection, source: Source) -> NoReturn:
    """What the child does."""
    try:
        _let_go(writer.fileno())
        writer.send_bytes(pickle.dumps(_answer(source)))
        os._exit(0)
    finally:
        os._exit(1)


def _answer(source: Source) -> tuple[Programs | None, str | None, RowsVerdict | None, ProvenRows | None]:
    try:
        from torchpool.capture.programs import programs_of  # torch.export takes a second to import

        return programs_of(source), None, None, None
    except CaptureError as error:
        return None, str(error), error.rows, error.proven
    except Exception as error:
        return None, f"capturing failed: {brief(error, 2)}", None, None


def _let_go(keep: int) -> None:
    """Of the parent's files and sockets, whose other ends would otherwise not see that the parent closed them."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    torch.set_num_threads(1)  # the threads behind the others did not come along
