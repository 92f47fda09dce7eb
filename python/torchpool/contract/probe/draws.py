"""Whether a model draws from Python's or numpy's generators, which all calls share, whoever seeds them.

torch's own draws are operators, which the probe sees. Of these others the code of the model tells which it has at hand;
whether a run draws from one is seen by whether that moves. What the model keeps for itself is put back.
"""

from __future__ import annotations

import copy
import random
import sys
import types
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from torchpool.contract.probe.reachable import TooMany, names_of, reachable

P = ParamSpec("P")
T = TypeVar("T")

_NUMPY_RANDOM = "numpy.random"  # looked for among what is imported: to import it takes 90 ms
_NUMPY = ("RandomState", "Generator")


class PlainDraws:
    """Of one kind of calls, seen in the runs that are watched: of generators that anybody may use in the first one."""

    def __init__(self, target: Any) -> None:
        """`target` is what the runs run."""
        self._generators, self._seeds = _generators(target)
        self._first = True
        self._began: dict[int, Any] = {}
        self._left: dict[int, Any] = {}
        self.drawn: str | None = None
        """Whose numbers were drawn or seeded, in words; None where none were."""

    @property
    def possible(self) -> bool:
        """Whether the code names a generator of these at all."""
        return bool(self._generators)

    def watched(self, run: Callable[P, T]) -> Callable[P, T]:
        """The run, which is watched."""

        def made(*args: P.args, **kwargs: P.kwargs) -> T:
            looked_at = [one for one in self._generators if self._first or not _is_shared(one)]
            first, self._first = self._first, False
            if not looked_at:
                return run(*args, **kwargs)
            before = {id(one): _state(one) for one in looked_at}
            for number, state in before.items():
                if number not in self._left or self._left[number] != state:  # others have drawn since
                    self._began[number] = state
            try:
                result = run(*args, **kwargs)
            finally:
                self._left.update((id(one), _state(one)) for one in looked_at)
            moved = [one for one in looked_at if self._left[id(one)] != before[id(one)]]
            # Whoever seeds a generator leaves it as the last call with that seed did.
            if moved or (first and self._seeds):
                whose = "Python" if isinstance((moved or looked_at)[0], random.Random) else "numpy"
                self.drawn = f"model draws or seeds random numbers ({whose}'s)"
            return result

        return made

    def put_back(self) -> None:
        """Sets generators that the model keeps to where they were before the runs, if nobody has drawn since."""
        for one in self._generators:
            if id(one) in self._left and not _is_shared(one) and _state(one) == self._left[id(one)]:
                _set_state(one, self._began[id(one)])
        self._left.clear()


def _generators(target: Any) -> tuple[list[Any], bool]:
    """Those that the target's code names, the global ones among them; and whether it names their seed."""
    found: dict[int, Any] = {}
    seeds = False
    try:
        for one in reachable(target):
            owner: Any = getattr(one, "__self__", None) if isinstance(one, types.BuiltinMethodType) else one
            if one is random:
                owner = random._inst
            elif owner is not None and one is sys.modules.get(_NUMPY_RANDOM):
                owner = owner.mtrand._rand
            elif isinstance(one, types.FunctionType):
                seeds |= "seed" in names_of(one)
            is_numpys = str(type(owner).__module__).startswith("numpy.random") and type(owner).__name__ in _NUMPY
            if (isinstance(owner, random.Random) and not isinstance(owner, random.SystemRandom)) or is_numpys:
                found[id(owner)] = owner
    except TooMany:
        pass
    return list(found.values()), seeds


def _is_shared(generator: Any) -> bool:
    """Whether it is the one of the whole process."""
    numpys: Any = sys.modules.get(_NUMPY_RANDOM)
    return generator is random._inst or (numpys is not None and generator is numpys.mtrand._rand)


def _state(generator: Any) -> Any:
    """To be compared, and set again."""
    if isinstance(generator, random.Random):
        return generator.getstate()
    if type(generator).__name__ == "RandomState":
        return _Arrays(generator.get_state(legacy=False))
    return _Arrays(generator.bit_generator.state)


def _set_state(generator: Any, state: Any) -> None:
    if isinstance(generator, random.Random):
        generator.setstate(state)
    elif type(generator).__name__ == "RandomState":
        generator.set_state(state.of)
    else:
        generator.bit_generator.state = state.of


class _Arrays:
    """A state of numpy's: nested dicts with arrays, which cannot be compared as they are."""

    def __init__(self, of: dict[str, Any]) -> None:
        self.of = copy.deepcopy(of)
        self._text = _text(self.of)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Arrays) and self._text == other._text

    __hash__ = None  # type: ignore[assignment]


def _text(value: Any) -> str:
    if isinstance(value, dict):
        return str({key: _text(inner) for key, inner in value.items()})
    return value.tobytes().hex() if hasattr(value, "tobytes") else repr(value)
