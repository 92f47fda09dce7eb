"""Sees what a run of the model on this thread draws and writes, without looking at what other threads do.

torch's generator and the module's tensors belong to the whole process: that they moved says nothing of who moved them.
A dispatch mode belongs to its thread, and sees each operator before it runs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode, _pop_mode, _push_mode

# Tagged as drawing, though they never do.
_DRAW_NOTHING = frozenset({"aten::_fused_sdp_choice", "aten::_nested_tensor_softmax_with_shape"})
# What an operator draws by: none where it is zero, or where it is not for training.
_RATES, _SWITCHES = ("dropout_p", "dropout", "p"), ("train", "training")
# Operators that write running statistics without saying so in their schema.
_UNSAID = {
    "aten::native_batch_norm": ("running_mean", "running_var"),
    "aten::cudnn_batch_norm": ("running_mean", "running_var"),
    "aten::miopen_batch_norm": ("running_mean", "running_var"),
}


class Stopped(BaseException):
    """The model is about to do what no run may do. Not an Exception: models catch these."""


class Drew(Stopped):
    """It is about to draw a random number."""


class Counts(Stopped):
    """It is about to count a call among those that it was trained on."""


@dataclass(frozen=True)
class _Traits:
    """What an operator may do beside giving a result; its arguments by name and place."""

    draws: bool
    written: tuple[str, ...]
    places: Mapping[str, tuple[int, Any]]
    """With the defaults."""

    @staticmethod
    def of(func: Any) -> _Traits:
        schema = getattr(func, "_schema", None)
        if schema is None:  # a higher-order operator
            return _NOTHING
        places = {argument.name: (place, argument.default_value) for place, argument in enumerate(schema.arguments)}
        unsaid = _UNSAID.get(schema.name, ())
        written = tuple(
            argument.name
            for argument in schema.arguments
            if argument.name in unsaid or (argument.alias_info is not None and argument.alias_info.is_write)
        )
        draws = torch.Tag.nondeterministic_seeded in func.tags and schema.name not in _DRAW_NOTHING
        return _Traits(draws, written, places)

    def value(self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """An argument's value."""
        place, default = self.places[name]
        return args[place] if place < len(args) else kwargs.get(name, default)

    def draws_with(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
        """Whether it does so with these arguments."""
        switches = [self.value(name, args, kwargs) for name in _SWITCHES if name in self.places]
        if any(switch is False for switch in switches):
            return False
        rated = [name for name in _RATES if name in self.places]
        # Of bernoulli, p is no rate of what is dropped: it always draws.
        dropping = rated and (rated[0] != "p" or bool(switches))
        return not (dropping and not self.value(rated[0], args, kwargs))


_TRAITS: dict[Any, _Traits] = {}
_NOTHING = _Traits(False, (), {})


class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is entered, tells of this thread's draws and writes."""

    supports_higher_order_operators = True

    def __init__(
        self,
        before_write: Callable[[Sequence[torch.Tensor]], Any],
        after_write: Callable[[Any], None],
        ends_draws: bool = True,
    ) -> None:
        """`before_write` gets the tensors that an operator is about to write into, `after_write` what it returned,
        unless that is empty. `ends_draws`: Drew is raised in a draw's place."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._before, self._after, self._ends_draws = before_write, after_write, ends_draws
        self.drew: str | None = None
        """The operator that was about to draw, or the last that drew."""
        self.counts: str | None = None
        """The statistics that were about to change."""

    @property
    def stopped(self) -> bool:
        """Whether the run was stopped."""
        return self.drew is not None or self.counts is not None

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else the first run would import torch._dynamo, which takes a second and 100 MB."""
        return False

    # As the base class has them, which also set flags of the whole process: two threads that enter and leave in turn
    # would leave them set, and torch.compile would compile nothing any more.

    def __enter__(self) -> Watch:
        _push_mode(self)
        return self

    def __exit__(self, *raised: object) -> None:
        _pop_mode()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operator, unless it would draw."""
        kwargs = kwargs or {}
        traits = _TRAITS.get(func)
        if traits is None:
            traits = _Traits.of(func)
            # Most do neither: one object for all of them is the quickest to tell.
            _TRAITS[func] = traits = traits if traits.draws or traits.written else _NOTHING
        if traits is _NOTHING:
            return func(*args, **kwargs)
        if traits.draws and traits.draws_with(args, kwargs):
            self.drew = str(func)
            if self._ends_draws:
                raise Drew(self.drew)
        try:
            written = self._before([t for name in traits.written for t in _tensors(traits.value(name, args, kwargs))])
        except Counts as counts:
            self.counts = str(counts)
            raise
        result = func(*args, **kwargs)
        if written:
            self._after(written)
        return result


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    return [item for item in value if isinstance(item, torch.Tensor)] if isinstance(value, list | tuple) else []
