"""Names what keeps a predictor from being pickled: pickle itself says only of which type it is."""

from __future__ import annotations

import functools
import io
import pickle
import types
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch

# Whether these can be pickled depends on who pickles (cloudpickle takes lambdas); he names those that he does not take.
_BY_NAME = (types.FunctionType, types.BuiltinFunctionType, type, types.ModuleType, types.CodeType)
_MAX_DEPTH = 12


class _Skeleton(pickle.Pickler):
    """Pickles everything but what is large, what has no inside, and what the given types are of."""

    def __init__(self, left_out: tuple[type, ...]) -> None:
        super().__init__(io.BytesIO(), pickle.HIGHEST_PROTOCOL)
        self._left_out = (torch.Tensor, torch.UntypedStorage, *_BY_NAME, *left_out)
        # What multiprocessing alone can send, but for what others can, too.
        sent: set[type] = set(ForkingPickler._extra_reducers)  # type: ignore[attr-defined]
        self._sent = sent - {types.MethodType, functools.partial}

    def persistent_id(self, value: Any) -> object:
        """Of what is left out."""
        return id(value) if isinstance(value, self._left_out) or type(value) in self._sent else None


def refuse_unpicklable(name: str, parts: Sequence[tuple[str, Any]], left_out: tuple[type, ...]) -> None:
    """Raises TypeError for a predictor of which a part (a name and a value) cannot be pickled. It says where that lies.
    Values of the types `left_out` are not looked at."""
    for part, value in parts:
        error = _failure(value, left_out)
        if error is not None:
            path, culprit, error = _innermost(part, value, error, left_out)
            kind = f"{type(culprit).__module__}.{type(culprit).__qualname__}"
            raise TypeError(
                f"predictor {name!r} cannot be pickled: {path} is a {kind} ({error}). Leave it out of the pickle by "
                "__getstate__ of what holds it, or wrap the model in the other process"
            ) from error


def _failure(value: Any, left_out: tuple[type, ...]) -> Exception | None:
    try:
        _Skeleton(left_out).dump(value)
    except Exception as error:  # whatever a __reduce__ raises
        return error
    return None


def _innermost(path: str, value: Any, error: Exception, left_out: tuple[type, ...]) -> tuple[str, Any, Exception]:
    for _ in range(_MAX_DEPTH):
        failures = ((name, part, _failure(part, left_out)) for name, part in _parts(value))
        found = next(((name, part, failure) for name, part, failure in failures if failure is not None), None)
        if found is None:
            break
        path, value, error = path + found[0], found[1], found[2]
    return path, value, error


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """What pickle would look at next, each with its step of the path."""
    if isinstance(value, types.MethodType):
        yield ".__self__", value.__self__
    elif isinstance(value, torch.nn.Module):
        state = _state_of(value)
        for name, child in state.pop("_modules", {}).items():
            yield f".{name}", child
        yield from ((f".{name}", part) for name, part in state.items())
    elif isinstance(value, dict):
        yield from ((f"[{key!r}]", part) for key, part in value.items())
    elif isinstance(value, list | tuple | set | frozenset):
        yield from ((f"[{index}]", part) for index, part in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from ((".func", value.func), (".args", value.args), (".keywords", value.keywords))
    else:
        yield from ((f".{name}", part) for name, part in _state_of(value).items())


def _state_of(value: Any) -> dict[str, Any]:
    """What the value gives to pickle, where that is a dict of its attributes."""
    get: Callable[[], Any] | None = getattr(value, "__getstate__", None)
    try:
        state = vars(value) if get is None else get()
    except Exception:  # by the user's code, or a value without attributes: the failure stands with the value itself
        return {}
    if isinstance(state, tuple) and len(state) == 2:  # of attributes and of slots
        return {**(state[0] or {}), **(state[1] or {})}
    return dict(state) if isinstance(state, dict) else {}
