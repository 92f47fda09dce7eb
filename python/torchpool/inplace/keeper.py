"""What an entrance asks for its module's predictor, and tells what came by."""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable

import torch
from torch import nn

from torchpool import _core
from torchpool.inplace.gradients import gradients_in
from torchpool.inplace.made_class import plain_class
from torchpool.inplace.twin import give_class, twin_of
from torchpool.predictor import Entered, Options, Predictor, has_lazy_weights
from torchpool.runtime import Runtime

log = logging.getLogger("torchpool")

_MOST_CHANGES = 100  # each has it learned anew
_GRADIENTS = (
    "{} calls of {} go to the module itself, at its own speed: grad mode is on and its weights require grad, so that "
    "their results have gradients. Call it under torch.no_grad(), or freeze it by requires_grad_(False)"
)
_INSIDE = "; a module inside that is given tensors may be accelerated instead"
# What a user may want to know of calls that were passed on, by the entrance's word for why.
_PASSED = {
    "class changed": "its class was changed after accelerate(): restore() it and accelerate it again",
    "forward replaced": "forward was set on the object, and is called itself",
    "compiled": "module.compile() answers them",
    "hooks": "the module has hooks, which want each call's own values",
    "traced": "torch traced them, or a mode was on",
    "arguments": f"an argument is no tensor or plain value, so that forward may write to it, as to a cache{_INSIDE}",
    "arguments written": f"forward writes to their arguments{_INSIDE}",
    "forward gradients": "forward-mode differentiation was on, which follows the module's code",
    "input gradients": "an input requires grad",
    "result gradients": (
        "their results have gradients, by weights that are not registered in the module or by torch.enable_grad() in "
        "its code"
    ),
    "no predictor": "there is no predictor: {}",
    "errors": "the predictor raised an error where the module did not: {}",
}


class Keeper:
    """Of one accelerated module, which it does not keep alive."""

    def __init__(self, module: nn.Module, options: Options, runtime: Runtime | None) -> None:
        self._module = weakref.ref(module)
        self._options = options
        self._runtime = runtime
        self._changes = 0  # of its class
        self._error = "the module's weights are made by its first call"
        self.entrance: _core.Entrance | None = None
        self.leave: Callable[[], None] = lambda: None
        """Gives the module its class back."""

    @property
    def name(self) -> str:
        """The model's, in messages."""
        return self._options.name

    @property
    def options(self) -> Options:
        """As they were given to accelerate()."""
        return self._options

    @property
    def runtime(self) -> Runtime | None:
        """As it was given to accelerate()."""
        return self._runtime

    def open(self) -> Predictor | None:
        """A predictor of the module; None where there can be none now."""
        module = self._module()
        if module is None or has_lazy_weights(module):
            return None
        try:
            twin = twin_of(module, plain_class(module))
            return Predictor(twin, self._options, self._runtime, entered=Entered(self._module, self.notes))
        except Exception as error:
            self.failed(error)
            raise

    def class_changed(self) -> bool:
        """A class was put over the module's, as parametrizations put theirs, or taken away: whether its predictor knows
        the module with it from now on."""
        module, self._changes = self._module(), self._changes + 1
        if module is None or self.entrance is None or self._changes > _MOST_CHANGES:
            return False
        predictor = self.entrance.opened
        return predictor is None or give_class(predictor.__wrapped__, plain_class(module), module)

    def why_none(self) -> str:
        """Why there is no predictor, in words."""
        return self._error

    def tell(self, why: str) -> None:
        """The first call was passed on for this reason."""
        if why == "gradients":
            log.warning(_GRADIENTS.format("the", self.name))

    def has_gradients(self, result: object) -> bool:
        """Whether the result of a first call wants gradients, so that calls of its structure are the module's own."""
        return gradients_in(result, leaves=torch.is_grad_enabled())

    def serves_first(self) -> bool:
        """Whether the predictor answers the first call of a structure, too, after the module has shown what it is."""
        return self._options.invariant

    def failed(self, error: BaseException) -> None:
        """The predictor raised an error that no caller saw."""
        text = f"{type(error).__name__}: {error}"
        if text != self._error:
            log.warning(
                "calls of %s go to the module itself for a while, since its predictor raised %s", self.name, text
            )
        self._error = text

    def notes(self) -> list[str]:
        """For explain(): how many calls came by, and why some were passed on."""
        counts = {} if self.entrance is None else self.entrance.counts
        served = counts.get("served", 0)
        found = [f"accelerated in place: {served} calls were served by this predictor"]
        for why, times in counts.items():
            if why == "gradients":
                found.append(_GRADIENTS.format(times, self.name))
            elif (text := _PASSED.get(why)) is not None:
                found.append(f"{times} calls went to the module itself: {text.format(self._error)}")
        return found

    def restore(self) -> None:
        """The module is as before. Calls that are on their way end as they began."""
        self.leave()
        entrance, self.entrance = self.entrance, None
        if entrance is None:
            return
        predictor = entrance.opened
        entrance.shut(None)
        if predictor is not None:
            predictor.close(wait=False)
