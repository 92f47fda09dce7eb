"""What the caller of a predictor is told of a call that the model refuses, and how it gets to see that."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

from torchpool.call import Call, readable_names, replace_tensors, tensors
from torchpool.contract import Leaves, refusal
from torchpool.predictor.kinds import Kind
from torchpool.predictor.notices import Notices
from torchpool.predictor.samples import shaped_like

P = ParamSpec("P")
T = TypeVar("T")


def tells_refusals(answer: Callable[P, T]) -> Callable[P, T]:
    """An answer to the extension. What is refused in it is raised as the caller of the predictor is to see it: without
    any frame of this package, not even that of the answer, since they hold samples, which are other callers' inputs."""

    @functools.wraps(answer)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return answer(*args, **kwargs)
        except refusal.Refused as refused:
            error = refused.error
        shown = refusal.without_our_frames(error.__traceback__)
        try:
            raise error
        except Exception:
            error.with_traceback(shown)
            raise  # which adds no frame, as the first one did
        finally:
            del error

    return told


class Refusals:
    """Finds the error that says how a refused call differs from those that the model took. Thread-safe."""

    def __init__(
        self,
        kinds: Mapping[int, Kind],
        lock: threading.Lock,
        parameters: Sequence[str],
        run: Callable[[tuple[Any, ...], dict[str, Any]], object],
        notices: Notices,
    ) -> None:
        """`kinds`: what was learned, by id, guarded by the lock; `parameters`: the model's; `run` runs it; `notices`
        hears of arguments that cannot be taken apart."""
        self._kinds = kinds
        self.lock = lock
        self._parameters = parameters
        self._run = run
        self._notices = notices
        self._opaque: set[refusal.Argument] = set()

    def saw_opaque(self, path: str, type_name: str) -> None:
        """A call with an argument that cannot be taken apart came, and runs alone."""
        argument = self._argument(path, type_name)
        with self.lock:
            self._opaque.add(argument)
        self._notices.runs_opaque(argument)

    def opaque_arguments(self) -> list[str]:
        """The arguments seen that cannot be taken apart, in words."""
        with self.lock:
            return list(map(str, sorted(self._opaque)))

    def _argument(self, path: str, type_name: str) -> refusal.Argument:
        return refusal.Argument(readable_names([path], self._parameters)[0], type_name)

    def of_opaque(self, path: str, type_name: str) -> TypeError | None:
        """For a call with an argument that is no tensor, which the model refused: the error that says so, if a tensor
        was learned there, or it is known to be something that is to be taken apart first."""
        argument = self._argument(path, type_name)
        learned = [kind for kind in self._taken_apart() if argument.name in kind.names]
        return refusal.not_a_tensor(argument, learned[0] if learned else None)

    def of_values(self, args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Exception | None:
        """For a call without any tensor, which the model refused: the error that says so, if tensors were learned."""
        kind = Kind.of([], (args, kwargs or {}), [], self._parameters)
        for other in self._taken_apart():
            if found := refusal.difference(kind, other):
                advice = refusal.advice_for_values(found[1])
                return found[0](f"{found[1]} as in earlier calls, and the model refuses it: {advice}")
        return None

    def later(self, kind_id: int, paths: list[str], message: str | None) -> Callable[..., BaseException]:
        """What a call is told that the model refuses with some error, as a function of its arguments and the error: one
        that departs from its kind's contract, or (`message` is None) whose kind is not known yet."""

        def told(args: tuple[Any, ...], kwargs: dict[str, Any] | None, error: BaseException) -> BaseException:
            if not isinstance(error, Exception):
                return error
            call: Call = (args, kwargs or {})
            if message is not None:
                return self.of_size(kind_id, call, message, error) or error
            kind = Kind.of(paths, call, [leaf.detach() for leaf in tensors(call)], self._parameters)
            return self.of_kind(kind, call, error) or error

        return told

    def of_size(self, kind_id: int, call: Call, message: str, error: Exception) -> ValueError | None:
        """For a call that departs from its kind's contract, which the model refuses with `error`: the error that says
        so, unless of this size it takes others."""
        error.with_traceback(refusal.without_our_frames(error.__traceback__))
        kind = self._known().get(kind_id)
        if kind is not None and self._takes_others_like(call, kind.samples[0]):
            return None  # the values are at fault
        typed = ValueError(f"{message}; the model refuses it: {refusal.brief(error)}")
        typed.__cause__ = error
        return typed

    def of_kind(self, kind: Kind, call: Call, error: Exception) -> Exception | None:
        """For a call that the model refuses with `error`: the typed error, where it differs from the kinds it took."""
        others = [other for other in self._known().values() if other.samples]
        differences = [refusal.difference(kind, other) for other in others]
        if None in differences:
            return None  # calls of this form were taken
        for other, difference in zip(others, differences, strict=True):
            known = dict(zip(other.names, other.samples[0], strict=True))
            if difference is None:
                continue
            if not known.keys() >= set(kind.names):
                if not any(refusal.tensors_inside(kind, name) for name in other.names):
                    continue  # calls with other arguments, which say nothing of these
            elif self._takes_others_like(call, [known[name] for name in kind.names]):
                return None  # its values are at fault, not its form
            cls, text = difference
            typed = cls(f"{text} as in earlier calls; the model refuses it: {refusal.brief(error)}")
            typed.__cause__ = error.with_traceback(refusal.without_our_frames(error.__traceback__))
            return typed
        return None

    def _taken_apart(self) -> list[Kind]:
        return [kind for kind in self._known().values() if kind.route != "direct"]

    def _known(self) -> dict[int, Kind]:
        with self.lock:
            return dict(self._kinds)

    def _takes_others_like(self, call: Call, sample: Leaves) -> bool:
        """Whether the model takes a sample that was fine, brought to this call's dtypes and sizes."""
        try:
            others = [shaped_like(s, leaf) for s, leaf in zip(sample, tensors(call), strict=True)]
            self._run(*replace_tensors(call, others))
        except Exception:
            return False
        return True
