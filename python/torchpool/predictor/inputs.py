"""Which call an item of a map's input is."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch

from torchpool.call import Call, parameters
from torchpool.predictor import sources
from torchpool.predictor.conversion import as_example, in_bulk
from torchpool.predictor.mapping import Done, Failed, Input

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Inputs:
    """Reads what one map iterates over. An item that makes no call fails in its own place."""

    def __init__(self, model: Callable[..., Any], examples: Sequence[Call], call: Callable[[Any], Any]) -> None:
        """`call` calls the model, to see whether it takes a batch as it is."""
        self._call = call
        self._args, self._kwargs = examples[0] if examples else ((), {})
        self._parameters = parameters(model)
        self._positional = [p.name for p in self._parameters if p.kind in _POSITIONAL]
        # What tensors' functions and methods say of a list, and scripts, which check their arguments' types.
        self._unlike_list: tuple[type[Exception], ...] = (TypeError, AttributeError)
        if isinstance(model, torch.jit.ScriptModule | torch.jit.ScriptFunction):
            self._unlike_list += (RuntimeError,)
        self._source: Any = None
        self.at_once: Iterator[Any] | None = None
        """What a map of one iterable reads, where that runs none of the user's code."""
        self._by_field: bool | None = None  # whether lists of the source are fields, once that is known

    def map(self, iterables: tuple[Iterable[Any], ...]) -> Iterator[Input]:
        """The calls of map(). Raises TypeError for an input that is no iterable, or is not taken for what it is."""
        shown = len(self._args)
        items = [sources.items_of(source, as_rows=i >= shown) for i, source in enumerate(iterables)]
        if len(items) > 1 and all(map(sources.is_rows, iterables)):
            return zip(*items, strict=False)
        items = [in_bulk(each, self._args[i], self._name(i)) if i < shown else each for i, each in enumerate(items)]
        if len(items) > 1:
            return map(self._several, zip(*items, strict=False))
        (self._source,) = iterables
        read = iter(items[0])
        if sources.is_rows(self._source) or type(self._source) in (list, tuple):
            self.at_once = read
        return map(self.call_of, read)

    def starmap(self, iterable: Iterable[Any]) -> Iterator[Input]:
        """The calls of starmap()."""
        return map(self._star, sources.items_of(iterable) if _is_structured(iterable) else iterable)

    def call_of(self, item: Any) -> Input:
        """That of an item of the only iterable."""
        if type(item) is torch.Tensor:
            return (item,)
        try:
            if isinstance(item, Mapping):
                return self._mapping(item)
            if type(item) in (list, tuple) and sources.gives_fields(self._source) and not self._is_structure(0):
                return self._fields(item)
            return (self._argument(0, item),)
        except Exception as error:
            return Failed(error.with_traceback(None))

    def _several(self, args: tuple[Any, ...]) -> Input:
        try:
            return tuple(self._argument(i, value) for i, value in enumerate(args))
        except Exception as error:
            return Failed(error.with_traceback(None))

    def _star(self, item: Any) -> Input:
        try:
            if isinstance(item, tuple | list):
                return tuple(self._argument(i, value) for i, value in enumerate(item))
            if isinstance(item, Mapping):
                return self._keywords(item)
        except Exception as error:
            return Failed(error.with_traceback(None))
        return Failed(
            TypeError(
                "starmap() takes tuples (or lists) of positional or mappings of keyword arguments, got "
                f"{type(item).__name__}; for single arguments use map()"
            )
        )

    # --- values -----------------------------------------------------------------------------------------------------

    def _argument(self, index: int, value: Any) -> Any:
        if type(value) is torch.Tensor or index >= len(self._args):
            return value
        return as_example(value, self._args[index], self._name(index))

    def _name(self, index: int) -> str:
        return self._positional[index] if index < len(self._positional) else f"args[{index}]"

    def _keywords(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return {name: as_example(value, self._like(name), name) for name, value in item.items()}

    def _like(self, name: str) -> Any:
        if name in self._kwargs:
            return self._kwargs[name]
        index = self._positional.index(name) if name in self._positional else len(self._args)
        return self._args[index] if index < len(self._args) else None

    def _is_structure(self, index: int) -> bool:
        """Whether the example has a list, a tuple or a mapping as this argument."""
        return index < len(self._args) and isinstance(self._args[index], list | tuple | Mapping)

    # --- batches of several tensors ---------------------------------------------------------------------------------

    def _mapping(self, item: Mapping[Any, Any]) -> Input:
        """Keyword arguments, where the keys are names of arguments; the only argument, where none is."""
        named = {p.name for p in self._parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
        named -= {p.name for p in self._parameters if p.kind is p.POSITIONAL_ONLY}
        names = named | set(self._kwargs)
        others = [key for key in item if key not in names]
        if self._is_structure(0) or not item:
            return (item,)
        if not others:
            return self._keywords(item)
        if len(others) < len(item):
            raise TypeError(
                f"map() got a mapping with {', '.join(map(repr, others))}, which the model has no argument for, beside "
                f"{', '.join(repr(key) for key in item if key in names)}: leave it out (a dataset's remove_columns()), "
                "or pass everything as it is with starmap()"
            )
        any_name = any(p.kind is p.VAR_KEYWORD for p in self._parameters)
        return self._keywords(item) if any_name and not self._positional and not named else (item,)

    def _fields(self, item: Sequence[Any]) -> Input:
        """Of a loader's batch or a dataset's sample, which are lists or tuples of fields: the model's argument."""
        if self._by_field is None and self._args:
            self._by_field = True  # the example shows that the argument is no list
        if self._by_field is None:
            try:
                result = self._call(item)
            except Exception as error:
                # That may be of its values: a list of zeros tells whether it is of the list.
                self._by_field = isinstance(error, self._unlike_list) and self._refuses_list([*map(_zeros, item)])
                if not self._by_field:
                    self._by_field = None
                    error.add_note(
                        "called with the list that the loader gave: wrap(example=) says what the model takes"
                    )
                    raise
            else:
                self._by_field = False
                return Done(result)
        if not self._by_field:
            return (item,)
        takes_one = len(self._positional) == 1 and all(p.kind in _POSITIONAL for p in self._parameters)
        if len(item) == 1 or (len(item) == 2 and takes_one):
            self._refuse_lost_labels(item)
            return (self._argument(0, item[0]),)
        takes = ", ".join(p.name for p in self._parameters) or "unknown arguments"
        raise TypeError(
            f"map() got {len(item)} fields a batch or sample from a {type(self._source).__name__}, and the model takes "
            f"({takes}): write starmap(loader) to pass all of them as arguments, or map(fields[0] for fields in loader)"
            " to pass the first"
        )

    def _refuses_list(self, item: list[Any]) -> bool:
        try:
            self._call(item)
        except Exception as error:
            return isinstance(error, self._unlike_list)
        return False

    def _refuse_lost_labels(self, item: Sequence[Any]) -> None:
        if len(item) > 1 and sources.is_shuffled(self._source):
            raise ValueError(
                "map() over a shuffled DataLoader of pairs would give results without their labels, which a second "
                "pass gives in another order: build the loader with shuffle=False, or keep what it gives: "
                "a, b = itertools.tee(loader); zip(a, predict.map(x for x, _ in b))"
            )


def _is_structured(iterable: Any) -> bool:
    return isinstance(iterable, Mapping) or sources.is_dataset(iterable)


def _zeros(field: Any) -> Any:
    return torch.zeros_like(field) if isinstance(field, torch.Tensor) else field
