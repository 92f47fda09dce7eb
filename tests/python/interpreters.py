"""Programs in interpreters: fresh ones, or children of one that has imported torch.

Importing torch takes 1.6 s of the 1.7 s that most programs of the tests take. A warm interpreter has imported it, and
nothing of torchpool: what torchpool does at its import, at a fork and at the end is the same in its children. They run
their program in the main module, and end as any interpreter does.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import gc
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import CodeType
from typing import Any

COMMAND = [sys.executable, "-X", "faulthandler", "-c"]
_LARGEST = 1 << 20  # bytes of a message

fresh_only = False
"""Whether all programs get a fresh interpreter; set by conftest."""


def run_fresh(program: str, timeout: float) -> subprocess.CompletedProcess[str]:
    pipe = subprocess.PIPE
    with subprocess.Popen([*COMMAND, program], stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            output, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGABRT)  # the fault handler shows the stacks
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.communicate(timeout=5)
            _kill_group(process.pid)
            output, errors = process.communicate()
            errors += f"\nit hung for {timeout} s"
    return subprocess.CompletedProcess([], process.returncode, output, errors)


def run_warm(program: str, timeout: float) -> subprocess.CompletedProcess[str]:
    child = _warm().start(program)
    hung = not child.communicate(timeout)
    if hung:
        os.kill(child.pid, signal.SIGABRT)
        child.communicate(5)
        _kill_group(child.pid)
        child.communicate(None)
    code = child.wait()
    output, errors = (bytes(stream).decode() for stream in child.said)
    return subprocess.CompletedProcess([], code, output, f"{errors}\nit hung for {timeout} s" if hung else errors)


def _kill_group(leader: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(leader, signal.SIGKILL)  # with the children that it may have forked


class _Warm:
    """The interpreter that forks. It serves one program at a time, and ends when nobody can ask it any more."""

    def __init__(self) -> None:
        self._asks, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        descriptor = theirs.fileno()
        find = f"import sys\nsys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        program = f"{find}import interpreters\nexec(interpreters.serve({descriptor}))"
        with theirs:
            self._process = subprocess.Popen(
                [*COMMAND, program],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # numpy's would start one at the import
                pass_fds=[descriptor],
                start_new_session=True,
            )
        atexit.register(self.close)

    def start(self, program: str) -> _Child:
        out, err = os.pipe(), os.pipe()
        request = json.dumps({"program": program, "folder": os.getcwd(), "environment": dict(os.environ)})
        try:
            socket.send_fds(self._asks, [request.encode()], [out[1], err[1]])
        finally:
            os.close(out[1])
            os.close(err[1])
        return _Child(self._asks, (out[0], err[0]))

    def close(self) -> None:
        self._asks.close()
        self._process.wait()


@functools.cache
def _warm() -> _Warm:
    return _Warm()


class _Child:
    """A program that runs."""

    def __init__(self, asks: socket.socket, streams: tuple[int, int]) -> None:
        self._asks = asks
        self._selector = selectors.DefaultSelector()
        self.said = (bytearray(), bytearray())
        for descriptor, said in zip(streams, self.said, strict=True):
            self._selector.register(descriptor, selectors.EVENT_READ, said)
        self.pid = int(self._answer())

    def _answer(self) -> bytes:
        answer = self._asks.recv(_LARGEST)
        assert answer, "the warm interpreter ended"
        return answer

    def communicate(self, timeout: float | None) -> bool:
        """Reads what it says until nobody can say more; False when time ran out."""
        end = None if timeout is None else time.monotonic() + timeout
        while self._selector.get_map():
            left = None if end is None else end - time.monotonic()
            if left is not None and left <= 0:
                return False
            for key, _ in self._selector.select(left):
                said = os.read(key.fd, _LARGEST)
                key.data.extend(said)
                if not said:
                    self._selector.unregister(key.fd)
                    os.close(key.fd)
        return True

    def wait(self) -> int:
        """Its exit code, as subprocess has it."""
        self._selector.close()
        return int(self._answer())


def serve(descriptor: int) -> CodeType:
    """In the warm interpreter, for good; returns in each child, which is to run the code in its main module."""
    import numpy  # noqa: F401
    import torch  # noqa: F401

    gc.collect()
    gc.freeze()  # a child that ends would look at all of torch, which takes three times as long as the rest of it
    asks = socket.socket(fileno=descriptor)
    while True:
        request, files, _, _ = socket.recv_fds(asks, _LARGEST, 2)
        if not request:
            os._exit(0)
        child = os.fork()
        if child == 0:
            asks.close()
            return _begin(json.loads(request), files)
        for file in files:
            os.close(file)
        asks.send(str(child).encode())
        _, status = os.waitpid(child, 0)
        asks.send(str(os.waitstatus_to_exitcode(status)).encode())


def _begin(request: dict[str, Any], files: list[int]) -> CodeType:
    os.setsid()
    for standard, file in enumerate(files, 1):
        os.dup2(file, standard)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    threading.main_thread()._set_native_id()  # type: ignore[attr-defined]  # which is another one since the fork
    del sys.modules[__name__]
    return compile(request["program"], "<string>", "exec")
