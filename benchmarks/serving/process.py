"""A serving layer's process from the outside: started, asked once, and ended with all that it has started."""

import ctypes
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDS = {
    "echo": ("uvloop",),
    "torchpool": ("uvloop",),
    "batched": ("uvloop", "batched"),
    "batched-32": ("uvloop", "batched"),
    "ray": ("uvloop", "ray"),
    "ray-32": ("uvloop", "ray"),
    "litserve": ("uvloop", "litserve", "aiohttp"),
}
LIMIT = 120.0  # seconds that a process may take beside those that it is told to measure for
SET_CHILD_SUBREAPER = 36  # of prctl(2)


def missing(layer: str) -> str:
    """Why a layer cannot run here and how to change that; empty where it can."""
    absent = [module for module in NEEDS[layer] if importlib.util.find_spec(module) is None]
    return f"{' and '.join(absent)} not installed: run `make bench-serving`" if absent else ""


def ask(model: str, layer: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """What `benchmarks.serving.child` measures; RuntimeError where it fails, with the end of what it printed."""
    measured = wanted["warm_seconds"] + wanted["capacity_seconds"] + len(wanted["rates"]) * wanted["load_seconds"]
    limit = LIMIT + 3 * measured
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "RAY_USAGE_STATS_ENABLED": "0"}
    with tempfile.TemporaryFile() as log, descendants_ended():
        child = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.serving.child", model, layer],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=environment,
            text=True,
        )
        try:
            reply, _ = child.communicate(json.dumps(wanted), timeout=limit)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"{layer} took more than {limit:.0f} s; {_end_of(log)}") from None
        if child.returncode != 0 or not reply.strip():
            raise RuntimeError(f"{layer} ended with code {child.returncode}; {_end_of(log)}")
        found: dict[str, Any] = json.loads(reply)
        return found


def _end_of(log: Any) -> str:
    log.seek(0)
    lines = log.read().decode(errors="replace").strip().splitlines()
    return f"it last printed: {lines[-1]}" if lines else "it printed nothing"


@contextmanager
def descendants_ended() -> Iterator[None]:
    """Ends all processes that were started meanwhile, also those whose parents have ended: they are this process's
    children then, since it asks for that as an init process would."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = set(psutil.Process().children(recursive=True))
    if libc.prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0) < 0:
        raise OSError(ctypes.get_errno(), f"prctl: {os.strerror(ctypes.get_errno())}")
    try:
        yield
    finally:
        try:
            _end(before)
        finally:
            libc.prctl(SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _end(kept: set[psutil.Process]) -> None:
    for patience, stop in ((2.0, psutil.Process.terminate), (5.0, psutil.Process.kill)):
        left = [one for one in psutil.Process().children(recursive=True) if one not in kept]
        for one in left:
            try:
                stop(one)
            except psutil.NoSuchProcess:
                continue  # it ended by itself
        psutil.wait_procs(left, timeout=patience)
    if left := [one for one in psutil.Process().children(recursive=True) if one not in kept]:
        raise RuntimeError(f"processes that do not end: {', '.join(str(one.pid) for one in left)}; end them by hand")
