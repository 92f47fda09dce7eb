"""What is told to who gives wrap() something else than a model, or an option that it does not have."""

from __future__ import annotations

import difflib
import functools
import inspect
import os
import zipfile
from collections.abc import Callable, Iterable, Mapping
from typing import ParamSpec, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

P = ParamSpec("P")
T = TypeVar("T")

_WORKERS = "the number of workers belongs to the runtime: wrap(model, runtime=torchpool.Runtime(4))"
_DEVICE = "a model is served where its weights are: model.to(device) before wrap(model)"
# What other libraries call something that is said in another way here.
_ELSEWHERE = {
    "batch_size": "the most rows of a batch are max_batch=; below it the cheapest size is learned",
    "batchsize": "the most rows of a batch are max_batch=; below it the cheapest size is learned",
    "max_batch_size": "the most rows of a batch are max_batch=",
    "batch_dim": "dims that hold rows are stated by batch={'input': 0}; without it they are found",
    "timeout": "calls have deadlines by predict.options(deadline=seconds); how long one may be held for others to join "
    "its batch is max_delay=",
    "batch_timeout": "how long a call may be held for others to join its batch is max_delay=",
    "max_wait": "how long a call may be held for others to join its batch is max_delay=",
    "max_latency": "how long a call may be held for others to join its batch is max_delay=",
    "num_workers": _WORKERS,
    "max_workers": f"{_WORKERS}; threads for a loop's body are torchpool.ThreadPoolExecutor(max_workers)",
    "workers": _WORKERS,
    "threads": _WORKERS,
    "num_threads": _WORKERS,
    "device": _DEVICE,
    "device_map": _DEVICE,
    "priority": "calls have priorities by predict.options(priority=1)",
    "deadline": "calls have deadlines by predict.options(deadline=seconds)",
    "padding": "right-padding is stated by pad={'input': value}, or pad=tokenizer",
    "tokenizer": "right-padding as a tokenizer has it is pad=tokenizer",
    "overlap": "it belongs to the executor: torchpool.ThreadPoolExecutor(4, overlap=32)",
}


def nearest(word: object, words: Iterable[str]) -> str | None:
    """The one of the words that was probably meant."""
    return next(iter(difflib.get_close_matches(str(word), list(words), 1)), None)


def refuse_unknown_options(given: Iterable[str], known: Iterable[str], function: str) -> None:
    """Raises TypeError, with what was probably meant, for an option that the function does not have."""
    names = list(known)
    for name in given:
        if name in names:
            continue
        meant = nearest(name.lower(), names)
        advice = _ELSEWHERE.get(name.lower()) or (f"did you mean {meant}=?" if meant else f"it has {', '.join(names)}")
        raise TypeError(f"{function} has no option {name!r}: {advice}")


def tells_misuse(function: Callable[P, T]) -> Callable[P, T]:
    """The function of a model and options by keyword, which refuses other arguments in words that help."""
    first, *names = inspect.signature(function).parameters
    called = f"{function.__name__}()"

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        refuse_unknown_options(kwargs.keys() - {first}, names, called)
        if len(args) > 1:
            raise TypeError(
                f"{called} takes one model, and options by their names, got {len(args)} arguments without a name, the "
                f"second a {type(args[1]).__name__}. A call's arguments are example=, as in {function.__name__}(model, "
                "example=x); to call the model wrap it first: predict = wrap(model), then predict(x)"
            )
        if not args and first not in kwargs:
            raise TypeError(f"{called} needs the model: {function.__name__}(model)")
        return function(*args, **kwargs)

    return told


def refuse_no_model(model: object) -> None:
    """Raises TypeError for what is no model, and says what to wrap in its place."""
    if isinstance(model, type):
        if issubclass(model, torch.nn.Module) or "__call__" in vars(model):
            name = model.__name__
            raise TypeError(
                f"model must be an object, got the class {name}, which a call would make an object of: make one first, "
                f"as in wrap({name}(...).eval())"
            )
    elif isinstance(model, torch.nn.Module):
        if _has_no_forward(model):
            raise TypeError(
                f"model must have a forward, and {type(model).__name__} has no forward: wrap the module that calls it, "
                "or a function that does, as in wrap(lambda x: model[0](x))"
            )
    elif not callable(model):
        raise TypeError(f"model must be callable, got {_no_model(model)}")


def _has_no_forward(model: torch.nn.Module) -> bool:
    if isinstance(model, torch.jit.ScriptModule):
        return False
    return getattr(model.forward, "__func__", None) is torch.nn.Module.forward


def _no_model(model: object) -> str:
    """What came, and what to do with it."""
    kind = type(model).__name__
    if isinstance(model, str | os.PathLike):
        return _path(os.fspath(model))
    if isinstance(model, Mapping) and any(isinstance(value, torch.Tensor) for value in model.values()):
        return (
            f"{kind} of tensors, which looks like a state dict: make the model, model.load_state_dict(state), and "
            "wrap(model.eval())"
        )
    if isinstance(model, torch.Tensor):
        return f"{kind}: wrap the model, not its result, as in predict = wrap(model), then predict(x)"
    if isinstance(model, DataLoader | Dataset):
        return f"{kind}: wrap the model, which then goes over the data, as in predict.map(loader)"
    if isinstance(model, torch.export.ExportedProgram):
        return f"{kind}: wrap(program.module())"
    if isinstance(model, list | tuple) and any(callable(one) for one in model):
        return f"{kind}: wrap each of them, as in [wrap(one) for one in models]"
    inner = getattr(model, "model", None)
    if isinstance(inner, torch.nn.Module):
        return f"{kind}: wrap its model, as in wrap(it.model), or torchpool.accelerate(it)"
    return f"{kind}: give an nn.Module in eval mode, a method of one, or a function of tensors"


def _path(path: str | bytes) -> str:
    """How to load what is stored there, as far as the file tells."""
    shown = repr(path)
    if not os.path.isfile(path):
        if isinstance(path, str) and not os.path.splitext(path)[1]:
            return (
                f"the str {shown}, and there is no such file: load the model first. Of the Hugging Face hub: "
                f"AutoModel.from_pretrained({shown}).eval()"
            )
        return f"the path {shown}, and there is no such file: load the model first, and wrap(model.eval())"
    return f"the path {shown}, which is not loaded: {_loaded(path, shown)}"


def _loaded(path: str | bytes, shown: str) -> str:
    suffix = os.path.splitext(os.fsdecode(path))[1].lower()
    if suffix == ".safetensors":
        return f"it holds weights: make the model, model.load_state_dict(safetensors.torch.load_file({shown}))"
    if suffix == ".onnx":
        return "it is a graph of ONNX, which torch does not run: wrap the model that it was exported from"
    entries: list[str] = []
    if zipfile.is_zipfile(os.fsdecode(path)):
        with zipfile.ZipFile(os.fsdecode(path)) as archive:
            entries = archive.namelist()
    if any(entry.partition("/")[2].startswith("code/") for entry in entries):
        return f"it holds a script: wrap(torch.jit.load({shown}).eval())"
    if any(entry.endswith("archive_format") or entry.endswith("serialized_exported_program.json") for entry in entries):
        return f"it holds an exported program: wrap(torch.export.load({shown}).module())"
    return (
        f"if it holds weights, make the model, model.load_state_dict(torch.load({shown})), and wrap(model.eval()); if "
        f"it holds a whole model that you trust, wrap(torch.load({shown}, weights_only=False).eval())"
    )


def missing_attribute(owner: object, model: object, name: str, expression: str) -> AttributeError:
    """For an attribute that a predictor does not have; `expression` is how to come to its model."""
    text = f"a {type(owner).__name__} has no attribute {name!r}"
    if has_attribute(model, name):
        text = (
            f"{text}, but its model has: {expression}.{name}. torchpool.accelerate(model) keeps the model's own "
            "methods, and batches the calls in them"
        )
    return AttributeError(text, name=name, obj=owner)


def has_attribute(model: object, name: str) -> bool:
    """Whether there is one; a property of the user's is not run for that."""
    try:
        inspect.getattr_static(model, name)
    except AttributeError:
        pass
    else:
        return True
    places = [vars(model).get(place) for place in ("_parameters", "_buffers", "_modules")] if _has_dict(model) else []
    return any(isinstance(place, dict) and name in place for place in places)


def _has_dict(model: object) -> bool:
    return isinstance(getattr(model, "__dict__", None), dict)
