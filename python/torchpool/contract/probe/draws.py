"""Whether a model draws from Python's or numpy's generators, which all calls share, whoever seeds them.

torch's own draws are operators, which the probe sees. Of these others the code of the model tells which it has at hand;
whether a run draws from one is seen by whether that moves.
"""

from __future__ import annotations

import random
import sys
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torchpool.contract.probe.reachable import TooMany, names_of, reachable

P = ParamSpec("P")
T = TypeVar("T")

_NUMPY = ("RandomState", "Generator")


class PlainDraws:
    """Of one kind of calls, seen in the first run that is watched."""

    def __init__(self, target: Any) -> None:
        """`target` is what the runs run."""
        self._generators, self._seeds = _generators(target)
        self._watching = bool(self._generators)
        self.drawn: str | None = None
        """Whose numbers were drawn or seeded, in words; None where none were."""

    def watched(self, run: Callable[P, T]) -> Callable[P, T]:
        """The run, of which the first one is watched."""

        def made(*args: P.args, **kwargs: P.kwargs) -> T:
            if not self._watching:
                return run(*args, **kwargs)
            self._watching = False
            before = [_state(generator) for generator in self._generators]
            result = run(*args, **kwargs)
            after = zip(self._generators, before, strict=True)
            moved = [generator for generator, state in after if _state(generator) != state]
            # Whoever seeds a generator leaves it as the last call with that seed did.
            if moved or self._seeds:
                whose = "Python" if isinstance((moved or self._generators)[0], random.Random) else "numpy"
                self.drawn = f"model draws or seeds random numbers ({whose}'s)"
            return result

        return made


def _generators(target: Any) -> tuple[list[Any], bool]:
    """Those that the target's code names, the global ones among them; and whether it names their seed."""
    numpy: Any = sys.modules.get("numpy")
    found: dict[int, Any] = {}
    seeds = False
    try:
        for one in reachable(target):
            owner = getattr(one, "__self__", None) if isinstance(one, types.BuiltinMethodType) else one
            if one is random:
                owner = random._inst
            elif numpy is not None and one is numpy.random:
                owner = numpy.random.mtrand._rand
            elif isinstance(one, types.FunctionType):
                seeds |= "seed" in names_of(one)
            is_numpys = type(owner).__module__.startswith("numpy.random") and type(owner).__name__ in _NUMPY
            if (isinstance(owner, random.Random) and not isinstance(owner, random.SystemRandom)) or is_numpys:
                found[id(owner)] = owner
    except TooMany:
        pass
    return list(found.values()), seeds


def _state(generator: Any) -> object:
    if isinstance(generator, random.Random):
        return generator.getstate()
    if type(generator).__name__ == "RandomState":
        name, keys, *rest = generator.get_state()
        return name, keys.tobytes(), *rest
    return repr(generator.bit_generator.state)
