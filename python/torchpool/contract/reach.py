"""The functions that a call of a model runs, as far as names lead: what they read from outside, and what they write.

Python can hook neither the reads of a `threading.local` nor the writes of one thread into an attribute. The code tells
which of them a call can make at all. Names are followed from the forward of each submodule through the methods and
globals that it names; libraries whose own state is of no matter here are not entered.
"""

from __future__ import annotations

import dis
import functools
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from torch import nn

from torchpool.contract.further import Further
from torchpool.contract.held import dict_of, is_library, own_attributes
from torchpool.contract.reached import BY_ANY_NAME, Reached, codes_in, functions_of, stored_in
from torchpool.contract.stores import OtherObjects

THREAD_STATE = (
    "the model reads the state of the thread that calls it, so that each call runs on the thread that makes it"
)
# A container is changed in place by these, or by an item that is set or deleted.
_MUTATORS = frozenset(
    {"append", "appendleft", "extend", "extendleft", "insert", "add", "update", "setdefault", "remove", "discard"}
    | {"pop", "popleft", "popitem", "clear", "sort", "reverse", "rotate"}
)
# Code that has one of these names may bind attributes whose names stand in it as text.
_BY_TEXT = frozenset({"register_buffer", "register_parameter", "add_module", "register_module"})
_ITEM_STORES = frozenset(dis.opmap[name] for name in ("STORE_SUBSCR", "DELETE_SUBSCR"))
_CONSTRUCTORS = ("__init__", "__new__", "__post_init__")
_MAX_FUNCTIONS = 2000
_RENEW_LISTS = frozenset({"torch.nn.modules.rnn"})
"""Of their weights, where one was replaced: nothing that a call leaves to the next."""


class Reach:
    """What a call of `target` may run, which is `module`, a method of it, or any callable."""

    def __init__(self, target: Callable[..., Any] | None, module: nn.Module | None) -> None:
        self._parts: list[Any] = []
        self._classes: set[type] = set()
        self._methods: dict[str, list[types.FunctionType]] = {}
        self._taken: set[int] = set()
        self.functions: list[Reached] = []
        owner = getattr(target, "__self__", target)
        roots = [] if module is None else [module]
        if module is None and not isinstance(owner, types.FunctionType | types.ModuleType | type | None):
            roots += [value for value in dict_of(owner).values() if isinstance(value, nn.Module)]
            self._add_part(owner)
        for root in roots:
            self._add_parts(root)
        if target is not None and target is not module:
            self._take(target, helper=False)

    def thread_state(self) -> str | None:
        """What the calls may read that belongs to the thread that makes them, in words; None where there is nothing."""
        return self.further.thread_state()

    @functools.cached_property
    def further(self) -> Further:
        """All that the calls may come to."""
        return Further(self.functions, self._parts)

    def writes(self, name: str) -> bool:
        """Whether some of the functions may bind or delete an attribute of this name."""
        return self._by_any_name or name in self._written

    def writes_attributes(self) -> bool:
        """Whether the code of some of them says that it may bind an attribute that a module has now. Who binds those of
        another object, of a configuration say, by the same name does not."""
        own = {name for part in self._parts for name, _ in own_attributes(part)}
        others = OtherObjects(self._parts)
        for reached in self._binding():
            stored = {name for code in codes_in(reached.function.__code__) for name in stored_in(code)}
            if "__dict__" in stored:  # two objects may share all of their attributes
                return True
            known = reached.home in _RENEW_LISTS
            if not known and not all(others.take(reached.function, name) for name in stored & own):
                return True
            if not own.isdisjoint(_named_in_text(reached)):
                return True
        near = [one for one in self.functions if one.binds_by_any_name]
        return any(
            _may_begin(own, [text for text in one.texts if text.isidentifier()])
            and not others.take_any(one.function, BY_ANY_NAME)
            for one in near
        )

    def changes_items(self, name: str) -> bool:
        """Whether some of the functions may change the collection in an attribute of this name in place."""
        return self._by_any_name or name in self._mutated or name in self._written

    def says_writes(self, name: str, *, items: bool = False) -> bool:
        """Whether the code of some of them says that it may: by a store, or by a text, where it binds by text. Of code
        that composes names a beginning counts. `items`: or changes the collection in the attribute."""
        if name in self._written or (items and name in self._mutated):
            return True
        return _may_begin((name,), self._texts)

    @functools.cached_property
    def _texts(self) -> frozenset[str]:
        """Text constants where attributes may be bound by any name."""
        near = (one for one in self.functions if one.binds_by_any_name)
        return frozenset(text for one in near for text in one.texts if text.isidentifier())

    def names(self, *names: str) -> bool:
        """Whether some of the functions have one of these names in their code."""
        return any(not reached.names.isdisjoint(names) for reached in self.functions)

    @functools.cached_property
    def _by_any_name(self) -> bool:
        return any(reached.binds_by_any_name for reached in self.functions)

    @functools.cached_property
    def _written(self) -> frozenset[str]:
        found: set[str] = set()
        for reached in self._binding():
            found.update(name for code in codes_in(reached.function.__code__) for name in stored_in(code))
            found.update(_named_in_text(reached))
        return frozenset(found)

    @functools.cached_property
    def _mutated(self) -> frozenset[str]:
        found: set[str] = set()
        for code in (code for reached in self._binding() for code in codes_in(reached.function.__code__)):
            if not _ITEM_STORES.isdisjoint(code.co_code[::2]) or not _MUTATORS.isdisjoint(code.co_names):
                found.update(code.co_names)
        return frozenset(found)

    def _binding(self) -> Iterator[Reached]:
        """Of constructors those one step away, and none further: they bind attributes of what they make."""
        near = {id(reached.function) for reached in self.functions}
        for reached in self.further.functions:
            if id(reached.function) in near or reached.function.__name__ not in _CONSTRUCTORS:
                yield reached

    # Inside.

    def _add_parts(self, module: nn.Module) -> None:
        known = {id(part) for part in self._parts}
        parts = [part for part in module.modules() if id(part) not in known]
        for part in parts:
            self._add_part(part)
        for part in parts:
            for hook in [*_values(part, "_forward_hooks"), *_values(part, "_forward_pre_hooks")]:
                self._take(hook, helper=False)
            self._take(dict_of(part).get("forward"), helper=False)
        for name in ("forward", "__call__", "__getattr__"):
            for function in self._methods.get(name, ()):
                self._take(function, helper=False)

    def _add_part(self, part: Any) -> None:
        self._parts.append(part)
        self._add_class(type(part))
        for name, value in own_attributes(part):
            if isinstance(value, types.FunctionType | types.MethodType | functools.partial):
                self._methods.setdefault(name, []).extend(functions_of(value))
            elif not isinstance(value, nn.Module | type) and not is_library(type(value).__module__):
                self._add_class(type(value))

    def _add_class(self, cls: type) -> None:
        if cls in self._classes:
            return
        self._classes.add(cls)
        for base in cls.__mro__:
            if base is nn.Module or base is object:
                continue
            for name, member in list(vars(base).items()):
                if name != "__init__":
                    self._methods.setdefault(name, []).extend(functions_of(member))

    def _take(self, value: Any, *, helper: bool, guessed: bool = False) -> None:
        """Adds the functions behind a value; those of the modules' classes lead further, others one step."""
        for function in functions_of(value):
            if id(function) in self._taken or len(self.functions) >= _MAX_FUNCTIONS:
                continue
            if helper and is_library(function.__module__):
                continue
            self._taken.add(id(function))
            reached = Reached.of(function, helper=helper, guessed=guessed)
            names = sorted(reached.names)
            self.functions.append(reached)
            for name in names:
                for method in self._methods.get(name, ()):
                    self._take(method, helper=False, guessed=name in _MUTATORS)
            if helper:
                continue
            for _, outside in reached.outside():
                if isinstance(outside, nn.Module):
                    self._add_parts(outside)
                    continue
                self._take(outside, helper=True)
                if isinstance(outside, type) and not issubclass(outside, nn.Module):
                    for name in ("__init__", "__new__", "__call__", *names):
                        self._take(vars(outside).get(name), helper=True)


def _values(part: nn.Module, name: str) -> list[Any]:
    found = vars(part).get(name)
    return list(found.values()) if isinstance(found, dict) else []


def _named_in_text(reached: Reached) -> Iterator[str]:
    """Text constants where attributes are bound by text."""
    for code in codes_in(reached.function.__code__):
        if not _BY_TEXT.isdisjoint(code.co_names):
            yield from (text for text in code.co_consts if isinstance(text, str))


def _may_begin(names: Iterable[str], texts: Iterable[str]) -> bool:
    """Whether one of the texts may be where code begins that composes one of the names."""
    texts = tuple(texts)
    begun = ((name, text) for name in names for text in texts if name.startswith(text))
    return any(text.endswith("_") or not name[len(text) :].strip("0123456789") for name, text in begun)
