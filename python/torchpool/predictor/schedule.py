"""How the calls of a map are handed to workers, as OpenMP names it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["guided", "dynamic"]


@dataclass(frozen=True)
class Schedule:
    """`chunk` is in rows: the least of a batch (guided), the most of a batch (dynamic); 0: as learned."""

    kind: Kind = "guided"
    chunk: int = 0

    @classmethod
    def parse(cls, text: str | None) -> Schedule:
        """From "guided" or "dynamic", with ",chunk" behind it or without, as in OMP_SCHEDULE."""
        if text is None:
            return cls()
        if not isinstance(text, str):
            raise TypeError(f"schedule must be a str or None, got {text!r}")
        name, comma, chunk = (part.strip() for part in text.partition(","))
        kinds: dict[str, Kind] = {"guided": "guided", "dynamic": "dynamic"}
        kind = kinds.get(name)
        if kind is None or (comma and not (chunk.isdecimal() and int(chunk) > 0)):
            raise ValueError(
                f"schedule must be 'guided' or 'dynamic', perhaps with a chunk of at least 1 as in 'dynamic,16', "
                f"got {text!r}"
            )
        return cls(kind, int(chunk) if comma else 0)
