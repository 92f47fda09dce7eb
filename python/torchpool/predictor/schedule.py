"""How the calls of a map are handed to workers, as OpenMP names it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sized
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["guided", "dynamic", "static"]


@dataclass(frozen=True)
class Schedule:
    """`chunk` is in rows: least of a batch (guided), most (dynamic), exactly so many calls (static); 0: as learned."""

    kind: Kind = "guided"
    chunk: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Schedule:
        """From "guided", "dynamic", "static", each with ",chunk" behind it or without, as in OMP_SCHEDULE."""
        if text is None:
            return cls()
        if not isinstance(text, str):
            raise TypeError(f"schedule must be a str or None, got {text!r}")
        name, comma, chunk = (part.strip() for part in text.partition(","))
        kinds: dict[str, Kind] = {"guided": "guided", "dynamic": "dynamic", "static": "static"}
        kind = kinds.get(name)
        if kind is None or (comma and not (chunk.isdecimal() and int(chunk) > 0)):
            raise ValueError(
                f"schedule must be 'guided', 'dynamic' or 'static', perhaps with a chunk of at least 1 as in "
                f"'dynamic,16', got {text!r}"
            )
        return cls(kind, int(chunk) if comma else 0)

    def calls_a_batch(self, sources: Iterable[Iterable[Any]], rows: int, workers: int) -> int:
        """Of a static schedule: equal batches, of at most `rows` calls, as many for each worker."""
        lengths = [len(source) for source in sources if isinstance(source, Sized)]
        if not lengths:
            raise ValueError(
                "schedule='static' needs an iterable of known length, to part it beforehand: pass a list, or 'dynamic'"
            )
        if self.chunk:
            return self.chunk
        calls = max(1, min(lengths))
        return math.ceil(calls / (workers * math.ceil(calls / (workers * rows))))
