"""accelerate(), and what undoes it."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
from torch import nn

from torchpool.inplace import whole_class
from torchpool.inplace.found import module_in
from torchpool.inplace.keeper import Keeper
from torchpool.inplace.made_class import enter_by
from torchpool.predictor import Predictor, entrance_of, options_of_wrap, same_options

T = TypeVar("T")


def accelerate(model: T, **options: Any) -> T:
    """Has a model's calls answered in shared batches, in place: the same object, to be used as before.

    model: an nn.Module; an object that holds one, as a pipeline does in `.model`; or, as a decorator, a class of
        modules, whose objects are then accelerated at their first call in eval mode.
    options: those of `torchpool.wrap`.

    Every call that enters the module's forward from outside is served: model(x), model.forward(x), those in its own
    methods, in a pipeline's or a trainer's evaluation. Calls go to the module unchanged in train mode, when their
    results have gradients (so call it under torch.no_grad(), or freeze the weights), while it has hooks, when an
    argument is no tensor or plain value (a cache), and when forward writes to its arguments; `predictor_of(model)`
    explains which did. What a call runs inside of the module goes to it, too: of accelerated modules in one another the
    outermost serves. A call of arguments of a new structure is answered by the module first.

    Copies and pickles are those of the plain module. `restore(model)` undoes it, as does the end of a block
    `with torchpool.accelerate(model):`.

    Raises TypeError for what is no module, for a ScriptModule and for what torch.compile() returned; TypeError or
    ValueError for options that wrap() refuses, and for other ones than the model was accelerated with.
    """
    if isinstance(model, type):
        whole_class.accelerate_class(model, options, _accelerate_module)
        return model
    _accelerate_module(module_in(model), options)
    return model


def _accelerate_module(module: nn.Module, options: dict[str, Any]) -> None:
    read, runtime = options_of_wrap(module, options)
    before = entrance_of(module)
    if before is not None:
        if options and not (same_options(read, before.keeper.options) and runtime is before.keeper.runtime):
            raise ValueError(
                f"{read.name} is accelerated already, with other options: torchpool.restore(model) first, then "
                "accelerate it with these"
            )
        return
    if type(module).forward in (nn.Module.forward, torch.nn.modules.module._forward_unimplemented):
        raise TypeError(f"{type(module).__name__} has no forward: accelerate the module that has one")
    whole_class.take_back(module)
    keeper = Keeper(module, read, runtime)
    keeper.leave = enter_by(module, keeper)
    if read.examples:
        try:
            predictor_of(module)
        except BaseException:
            keeper.restore()
            raise


def restore(model: T) -> T:
    """Undoes `accelerate`, of a module, an object around one, or a class and all its objects; returns what it is given.

    Calls that are on their way are finished. Nothing happens to what is not accelerated.
    """
    if isinstance(model, type):
        whole_class.restore_class(model, _restore_module)
        return model
    module = module_in(model)
    whole_class.leave_out(module)
    _restore_module(module)
    return model


def _restore_module(module: nn.Module) -> None:
    entrance = entrance_of(module)
    if entrance is not None and entrance.keeper is not None:
        entrance.keeper.restore()


def predictor_of(model: Any) -> Predictor:
    """The predictor behind an accelerated module, or behind the one that an object holds: for its `stats()`,
    `explain()`, `ready()`, `map` and `updating()`.

    Who keeps it may use it after the module was dropped. Raises ValueError for a module that is not accelerated,
    RuntimeError where the predictor cannot be made yet.
    """
    module = module_in(model)
    entrance = entrance_of(module)
    if entrance is None or entrance.keeper is None:
        raise ValueError(
            f"{type(module).__name__} is not accelerated: torchpool.accelerate(model) first, or torchpool.wrap(model)"
        )
    keeper, opened = entrance.keeper, entrance.open()
    if opened is None:
        raise RuntimeError(f"{type(module).__name__} has no predictor: {keeper.why_none()}")
    assert isinstance(opened, Predictor)
    return opened
