"""When calls are probed and captured again whose probing did not end, or met weights that never rested: the machine may
have been busy, and an optimiser may come to its end."""

from __future__ import annotations

from collections.abc import Mapping

from torchpool.predictor.kinds import Kind

_FIRST_PAUSE, _LONGEST_PAUSE = 10.0, 3600.0  # seconds


class Retries:
    """Of one predictor."""

    def __init__(self, kinds: Mapping[int, Kind], *, ever: bool = True) -> None:
        """`kinds`: what was learned, by id. `ever`: whether calls may come to be served otherwise than before."""
        self._kinds, self._ever = kinds, ever
        self._tries: dict[object, int] = {}
        """By what tells kinds apart, whatever their ids."""

    @property
    def when(self) -> str:
        """When calls of which nothing could be told are tried again, in words."""
        return "it is tried again later" if self._ever else "refresh() tries again"

    def again_in(self, kind_id: int) -> float | None:
        """In how many seconds a kind that was learned just now is to be learned again; None: not at all."""
        kind = self._kinds.get(kind_id)
        return self.pause_of(kind_id) if kind is not None and kind.unsettled and self._ever else None

    def pause_of(self, kind_id: int) -> float | None:
        """In how many seconds a kind is to be tried again of which nothing could be told now; longer each time."""
        kind = self._kinds.get(kind_id)
        if kind is None or not self._ever:
            return None
        tries = self._tries[kind.key] = self._tries.get(kind.key, 0) + 1
        return min(_FIRST_PAUSE * 2.0 ** (tries - 1), _LONGEST_PAUSE)

    def forget(self) -> None:
        """The model is another one."""
        self._tries.clear()
