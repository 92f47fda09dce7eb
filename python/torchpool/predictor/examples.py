"""Examples of calls, as wrap(example=) takes them, and what is told of those that the model refuses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from torchpool.call import Call, as_call, parameter_names, readable_names, tree
from torchpool.contract import brief, refusal

_HOW = (
    "An example is what one call passes: a tensor; a tuple of positional arguments; a mapping of keyword arguments; or "
    "a list of such calls"
)


def read_examples(example: Any) -> tuple[Call, ...]:
    """The calls. Raises TypeError and ValueError for what shows no call."""
    if example is None:
        return ()
    if isinstance(example, torch.Size) or _looks_like_shape(example):
        sizes = ", ".join(map(str, example))
        raise TypeError(f"example must be a call's arguments, got {example!r}, a shape: example=torch.zeros({sizes})")
    if isinstance(example, DataLoader | Dataset):
        kind = type(example).__name__
        first = "next(iter(loader))" if isinstance(example, DataLoader) else "dataset[0]"
        raise TypeError(
            f"example must be a call's arguments, got a {kind}: give those of one call, as in x, *_ = {first}, then "
            "example=x"
        )
    if isinstance(example, list):
        if not example:
            raise ValueError("example is an empty list: give at least one call's arguments")
        return tuple(as_call(one) for one in example)
    return (as_call(example),)


def _looks_like_shape(example: Any) -> bool:
    """Whole numbers alone, several: calls of these have no tensor to learn from."""
    return type(example) in (tuple, list) and len(example) > 1 and all(type(size) is int for size in example)


def refused_example(
    target: Callable[..., Any], module: torch.nn.Module | None, calls: Sequence[Call], index: int, error: Exception
) -> Exception:
    """What is raised for an example that was not learned because of `error`: the error itself, if it says already what
    is wrong with the example; else one that says what came, and where the model refused it."""
    raised_at = refusal.without_our_frames(error.__traceback__)
    if raised_at is None or isinstance(error, MemoryError | torch.OutOfMemoryError):
        return error
    which = "example" if len(calls) == 1 else f"example[{index}]"
    text = (
        f"{which}: the model refuses a call with ({_described(target, calls[index])}): {brief(error)}"
        f"{_where(raised_at, module)}. {_HOW}"
    )
    return (TypeError if isinstance(error, TypeError) else ValueError)(text)


def _described(target: Callable[..., Any], call: Call) -> str:
    args, kwargs = call
    names = readable_names([str(i) for i in range(len(args))], parameter_names(target))
    return ", ".join(f"{name}: {_value(value)}" for name, value in [*zip(names, args, strict=True), *kwargs.items()])


def _value(value: Any) -> str:
    if not isinstance(value, torch.Tensor):
        leaves, _ = tree.flatten(value) if type(value) in (tuple, list, dict) else ([], None)
        return type(value).__name__ + (f" of {len(leaves)} tensors" if leaves else "")
    return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"


def _where(entry: TracebackType | None, module: torch.nn.Module | None) -> str:
    """The innermost part of the module whose forward did not take it, and what that was given."""
    found = ""
    names = {} if module is None else {id(part): name for name, part in module.named_modules()}
    while entry is not None:
        frame, entry = entry.tb_frame, entry.tb_next
        part = frame.f_locals.get("self")
        name = names.get(id(part)) if frame.f_code.co_name == "forward" else None
        if name is None or (name == "" and part._modules):  # type: ignore[union-attr]
            continue
        arguments = frame.f_code.co_varnames[1 : frame.f_code.co_argcount]
        given = [frame.f_locals.get(argument) for argument in arguments]
        shown = ", ".join(_value(value) for value in given if isinstance(value, torch.Tensor))
        what = repr(part) if not part._modules else type(part).__name__  # type: ignore[union-attr]
        where = f" (in {name}, {what}" if name else f" (in {what}"
        found = f"{where}, which was given {shown})" if shown else f"{where})"
    return found
