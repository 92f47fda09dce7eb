"""Log lines about calls that share no batches, one for each kind of them, and about results that are rounded."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping

from torchpool.predictor.kinds import Kind

log = logging.getLogger("torchpool")

_MOST = 64  # as in the extension's table of kinds; a model that makes more is told of these only


class Notices:
    """Of one predictor. Thread-safe without a lock, which a forked child would have to make anew."""

    def __init__(self, name: str, quiet: bool) -> None:
        """`name`: the predictor's; `quiet`: it was not asked to merge anything."""
        self._name = name
        self._level = logging.INFO if quiet else logging.WARNING
        self._told: dict[object, object] = {}

    def runs_alone(self, kind: Kind, reason: str | None) -> None:
        """Calls of a kind share no batches, for this reason."""
        self._tell(self._level, kind.key, f"calls with ({', '.join(kind.names)})", reason or "nothing is known of them")

    def stays_alone(self, kinds: Mapping[int, Kind], kind_id: int, reason: str) -> None:
        """There is no proof for calls of a kind, and will be none: unless they are merged without one they go on to run
        alone."""
        kind = kinds.get(kind_id)
        if kind is not None and kind.merging == "no" and threading.main_thread().is_alive():
            self.runs_alone(kind, reason)

    def runs_opaque(self, argument: object) -> None:
        """Calls have an argument that cannot be taken apart, as many do that are meant to."""
        self._tell(logging.INFO, argument, f"calls where {argument}", "it cannot be merged")

    def rounds(self, text: str) -> None:
        """Results are not quite the module's, since that was asked for. Of the first kind of call."""
        mine = object()
        if self._told.setdefault("rounding", mine) is mine:
            log.warning("%s: %s", self._name, text)

    def _tell(self, level: int, key: object, calls: str, reason: str) -> None:
        mine = object()
        if key in self._told or len(self._told) >= _MOST:
            return
        if self._told.setdefault(key, mine) is mine:  # of two threads one
            log.log(level, "%s: %s run alone, in no batch: %s. explain() says more", self._name, calls, reason)
