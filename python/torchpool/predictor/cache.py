"""`wrap(cache=True)`: what was learned of a model is kept in a private folder, and found by the next process."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from torchpool.predictor import saved_file, saving
from torchpool.predictor.knowledge import Knowledge
from torchpool.predictor.options import Options
from torchpool.predictor.own_code import OwnCode

log = logging.getLogger("torchpool")

_MOST_FILES = 256
_FOLDER = "TORCHPOOL_CACHE"


class Cache:
    """Of one predictor: a file whose name tells model, options and processor apart."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: frozenset[object] = frozenset()

    @staticmethod
    def of(model: Callable[..., Any], module: torch.nn.Module | None, options: Options) -> Cache | None:
        """None, with a line in the log, where the folder is not the user's own."""
        try:
            folder = private_folder()
        except OSError as error:
            log.warning("predictor %r: what is learned is not kept: %s", options.name, error)
            return None
        deciding = {name: repr(getattr(options, name)) for name in (*saving.DECIDING, "max_batch")}
        key = [OwnCode(model, module).fingerprint().to_dict(), deciding, saved_file.machine(), saved_file.VERSION]
        digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
        return Cache(folder / f"{digest[:32]}.torchpool")

    def find(self) -> Knowledge | None:
        """What another process, or an earlier predictor, has learned of such a model with such options."""
        try:
            knowledge = saved_file.read(self._path).knowledge
            os.utime(self._path)  # those that nobody finds go first
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:  # as a crash of the machine leaves it
            log.warning("what was learned before is learned anew: %s", error)
            return None
        self._written = _told(knowledge)
        return knowledge

    def keep(self, knowledge: Knowledge | None, options: Options) -> None:
        """Writes what is known, if it is new."""
        if knowledge is None or not knowledge.kinds or _told(knowledge) <= self._written:
            return
        try:
            saving.save(self._path, knowledge, options)
            _trim(self._path.parent)
        except OSError as error:  # a full disk
            log.warning("predictor %r: what was learned is not kept: %s", options.name, error)
            return
        self._written |= _told(knowledge)


def _told(knowledge: Knowledge) -> frozenset[object]:
    """Tells whether there is more to write than was written."""
    return frozenset((kind.contract, kind.outcome is not None) for kind in knowledge.kinds)


def private_folder() -> Path:
    """$TORCHPOOL_CACHE, else torchpool in the user's cache folder; made where it is missing. Raises OSError where
    others than this user may write or read it: they could say what his models are to compute."""
    folder = Path(os.environ.get(_FOLDER) or _user_cache() / "torchpool")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{folder} must be a folder, and no link to one")
    if found.st_uid != os.geteuid():
        raise OSError(f"{folder} belongs to user {found.st_uid}, and this is user {os.geteuid()}")
    if found.st_mode & 0o077:
        raise OSError(f"{folder} may be entered by others (mode {stat.S_IMODE(found.st_mode):o}): chmod 700 {folder}")
    return folder


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def _trim(folder: Path) -> None:
    """Files that were neither written nor found for longest go, beyond what a folder may hold."""
    found = sorted(folder.glob("*.torchpool"), key=_age)
    for path in found[_MOST_FILES:]:
        with contextlib.suppress(OSError):
            path.unlink()


def _age(path: Path) -> float:
    try:
        return -path.stat().st_mtime
    except OSError:  # another process was faster
        return 0.0
