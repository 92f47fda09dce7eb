"""Captures in a process of their own.

torch.export sets flags and patches classes for the whole process, makes fake tensors that end up wherever a module
keeps what it computes, takes the interpreter's lock for a second or more and leaves 100 MB of modules behind. None of
that is for a process that serves calls. A forked child has the module at hand, whatever it is made of and wherever it
was defined, and gives back plain data. It computes nothing but shapes: what the parent's threads held at the fork (a
lock of a math library) it would wait for in vain, until its time is up. Whether its programs are right, the parent
proves.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from multiprocessing.connection import Connection
from typing import NoReturn

import torch

from torchpool import _core
from torchpool.capture_source import Source, brief
from torchpool.program import CaptureError, Programs

_LIMIT_SECONDS = 300
_LOOK_SECONDS = 0.1  # how often to see whether the child lives and the interpreter stays


def capture_elsewhere(source: Source) -> Programs:
    """The programs of the source. Raises CaptureError, which says why there are none.

    Waits with the interpreter's lock released, and gives up when the interpreter exits.
    """
    reader, writer = multiprocessing.Pipe(duplex=False)
    with reader:
        with writer:
            try:
                child = _core.fork(_LIMIT_SECONDS)
            except OSError as error:
                raise CaptureError(f"the process cannot be forked to capture in: {error.strerror}") from error
            if child == 0:
                _serve(writer, source)
        try:
            return _receive(reader, child)
        finally:
            _end(child)


def _receive(reader: Connection, child: int) -> Programs:
    started = time.monotonic()
    try:
        while not reader.poll(_LOOK_SECONDS):
            if not threading.main_thread().is_alive():
                raise CaptureError("the interpreter exits")
            if time.monotonic() - started > _LIMIT_SECONDS:
                raise CaptureError(f"capturing took more than {_LIMIT_SECONDS} s")
        programs, error = pickle.loads(reader.recv_bytes())
    except EOFError:
        raise CaptureError(f"the process that captured it ended without a word ({_fate(child)})") from None
    if error is not None:
        raise CaptureError(error)
    assert isinstance(programs, Programs)
    return programs


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


def _answer(source: Source) -> tuple[Programs | None, str | None]:
    try:
        from torchpool.capture_programs import programs_of  # torch.export takes a second to import

        return programs_of(source), None
    except CaptureError as error:
        return None, str(error)
    except Exception as error:
        return None, f"capturing failed: {brief(error)}"


def _let_go(keep: int) -> None:
    """Of the parent's files and sockets, whose other ends would otherwise not see that the parent closed them."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nowhere, standard)
    os.closerange(3, keep)
    os.closerange(keep + 1, os.sysconf("SC_OPEN_MAX"))
    torch.set_num_threads(1)  # the threads behind the others did not come along
