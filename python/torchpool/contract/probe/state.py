"""Sees what the probe's runs change of a module, and puts that back: nothing else, since others may use it, too.

Tensors: those that an operator of the probe's own thread wrote into. Attributes: those that the code of the model can
write at all. Either only while it still holds what the probe left there.
"""

from __future__ import annotations

import contextlib
import copy
import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchpool.contract.probe.parts import is_dense, same_parts
from torchpool.contract.probe.watch import Counts, Watch
from torchpool.contract.reach import Reach
from torchpool.contract.train_mode import mode_matters, statistics

_BASE_ATTRIBUTES = frozenset(vars(nn.Module()))
_MAX_ITEMS = 10_000  # a longer list or dict is not copied
_COLLECTIONS = (list, dict, set, deque)
_GONE: Any = object()
_UNSET: Any = object()


@dataclass
class _Written:
    """A tensor of the module that the probe's thread wrote into."""

    label: str
    tensor: torch.Tensor
    before: torch.Tensor
    """Its values before the first write."""
    after: torch.Tensor
    """What the last one left."""


@dataclass
class _Place:
    """An entry of a module's attributes or buffers."""

    label: str
    home: dict[str, Any]
    key: str
    value: Any
    """_GONE: a run added it."""
    items: Any = None
    """Of a collection: a copy."""
    left: Any = _UNSET
    """What the last run left here."""
    left_items: Any = None
    """Of the collection, if it was changed in place."""
    moves: int = 0
    """Runs in which it was bound anew or changed."""

    def __post_init__(self) -> None:
        if self.left is _UNSET:
            self.left = self.value

    def now(self) -> Any:
        """What is here at present."""
        return self.home.get(self.key, _GONE)

    def moved(self) -> bool:
        """Whether it is bound to something else, or a collection was changed in place."""
        return self.now() is not self.value or self.items_moved()

    def items_moved(self) -> bool:
        """Whether the collection was changed in place."""
        return self.items is not None and not _same_items(self.value, self.items)


class ModuleState:
    """What a module holds, and what of it the probe's runs change."""

    def __init__(self, module: nn.Module | None, reach: Callable[[], Reach] | None = None) -> None:
        """`reach` finds the code that the runs may run; by default that of the module."""
        self.mode_matters = module is not None and mode_matters(module)
        self._find_reach = reach or (lambda: Reach(module, module))
        self._tensors: list[tuple[str, torch.Tensor]] = []
        self._statistics: set[int] = set()
        self._by_storage: dict[int, list[tuple[str, torch.Tensor]]] = {}
        self._written: dict[int, _Written] = {}
        self._places: list[_Place] = []
        self._known: list[tuple[str, dict[str, Any], set[str]]] = []
        self._parts: list[tuple[str, nn.Module]] = []
        self._hooks = 0
        if module is None:
            return
        self._tensors = [(f"parameter {name}", p) for name, p in module.named_parameters()]
        self._tensors += [(f"buffer {name}", b) for name, b in module.named_buffers()]
        # What no call has made yet has neither values nor memory.
        self._tensors = [(label, tensor) for label, tensor in self._tensors if not nn.parameter.is_lazy(tensor)]
        if not isinstance(module, torch.jit.ScriptModule):
            self._parts = list(module.named_modules())
        self._statistics = {id(buffer) for part in module.modules() for buffer in statistics(part)}
        self._hooks = self._count_hooks()
        self._keep_places()
        for label, tensor in self._tensors:
            if (storage := storage_of(tensor)) != 0:
                self._by_storage.setdefault(storage, []).append((label, tensor))

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """The module's parameters, buffers and plain tensor attributes, by name."""
        return self._tensors

    def versions(self) -> int:
        """Another number once anybody has written into one of them, as far as torch knows."""
        return sum(tensor._version for _, tensor in self._tensors if not tensor.is_inference())

    def watch(self, ends_draws: bool = True) -> Watch:
        """For one run, entered on the thread that runs it. `ends_draws`: see Watch; else what a call counts of itself
        is no reason to end the run, either."""
        return Watch(functools.partial(self._before_write, ends=ends_draws), self._after_write, ends_draws)

    @contextlib.contextmanager
    def watched_run(self) -> Iterator[None]:
        """For a run inside, after which `restore` may follow."""
        self.begin_run()
        try:
            with self.watch():
                yield
        finally:
            self.note_run()

    @property
    def written(self) -> bool:
        """Whether a run has written into a tensor of the module."""
        return bool(self._written)

    def begin_run(self) -> None:
        """Right before a run: what others have changed since the last one is to stay."""
        for place in self._places:
            now = place.now()
            items = place.items if place.left_items is None else place.left_items
            bound = now is not place.left
            if bound or (items is not None and now is place.value and not _same_items(now, items)):
                place.value, place.items, place.left, place.left_items = now, _copy_of(now), now, None

    def note_run(self) -> None:
        """Right after a run: what differs now may be put back while it stays as it is."""
        for place in self._places:
            was, was_items = place.left, place.left_items
            place.left, place.left_items = place.now(), None
            if place.items is not None and place.left is place.value and place.items_moved():
                place.left_items = copy.copy(place.value)
            if place.left is not was or not _same_lists(place.left_items, was_items):
                place.moves += 1
        for dot, attributes, known in self._known:
            if len(attributes) != len(known) or attributes.keys() != known:
                for name in [name for name in attributes if name not in known]:
                    known.add(name)
                    self._places.append(_Place(dot + name, attributes, name, _GONE, left=attributes[name]))

    def keep_set_up(self) -> None:
        """Takes the present attributes for those of before, if hooks came since: a forward that registers hooks at its
        first run remembers that it did, and would do so once more if that were put back."""
        hooks = self._count_hooks()
        if hooks == self._hooks:
            return
        self._hooks = hooks
        self._places.clear()
        self._known.clear()
        self._keep_places()

    def changed(self) -> tuple[str, float] | None:
        """The first buffer or parameter that runs have changed, and by how much (inf: another shape)."""
        for place in self._places:
            now = place.now()
            if not place.label.startswith("buffer ") or now is place.value:
                continue  # what others have bound there meanwhile is found again when the module is looked at next
            if not isinstance(now, torch.Tensor) or not isinstance(place.value, torch.Tensor):
                return place.label, float("inf")
            if not _same(now, place.value):
                return place.label, _distance(now, place.value)
        for _, tensor in self._tensors:  # in the module's order
            written = self._written.get(id(tensor))
            if written is None or written.label.startswith("attribute "):
                continue
            if not _same(written.tensor, written.before):
                return written.label, _distance(written.tensor, written.before)
        return None

    def moved_attributes(self) -> list[str]:
        """Names of plain attributes that were bound anew, changed in place, or added."""
        moved = [place.label for place in self._places if not place.label.startswith("buffer ") and place.moved()]
        values = [
            written.label.removeprefix("attribute ")
            for written in self._written.values()
            if written.label.startswith("attribute ") and not _same(written.tensor, written.before)
        ]
        return moved + values

    def restore(self) -> None:
        """Puts back what runs have changed, where nobody has changed it since."""
        self.keep_set_up()
        for place in self._places:
            if place.now() is not place.value:
                if place.now() is place.left and self._own(place):
                    _put_back(place)
            elif place.left_items is not None and _same_items(place.value, place.left_items) and self._own(place):
                _put_items_back(place)
        with torch.no_grad():
            for written in self._written.values():
                if _same(written.tensor, written.after) and not _same(written.tensor, written.before):
                    written.tensor.copy_(written.before)
                    written.after = written.before

    # Inside.

    def _keep_places(self) -> None:
        for prefix, part in self._parts:
            dot = f"{prefix}." if prefix else ""
            attributes = vars(part)
            for name, buffer in list(part._buffers.items()):
                self._places.append(_Place(f"buffer {dot}{name}", part._buffers, name, buffer))
            self._known.append((dot, attributes, set(attributes)))
            for name, value in list(attributes.items()):
                if name in _BASE_ATTRIBUTES or isinstance(value, nn.Module):
                    continue
                place = _Place(dot + name, attributes, name, value, _copy_of(value))
                self._places.append(place)
                if isinstance(value, torch.Tensor):
                    self._tensors.append((f"attribute {place.label}", value))

    def _count_hooks(self) -> int:
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for _, part in self._parts)

    def _own(self, place: _Place) -> bool:
        """Whether the model's own code can have changed it: else somebody else has."""
        reach, items = self._find_reach(), place.now() is place.value
        if reach.says_writes(place.key, items=items):
            return True
        # Code that binds by names that it does not say: what was new, or moved again and again, is its own.
        by_any_name = reach.changes_items(place.key) if items else reach.writes(place.key)
        return by_any_name and (place.value is _GONE or place.moves > 1)

    def _before_write(self, tensors: Sequence[torch.Tensor], *, ends: bool) -> list[_Written]:
        owned = [held for tensor in tensors for held in self._by_storage.get(storage_of(tensor), ())]
        for label, tensor in owned:
            if ends and id(tensor) in self._statistics:
                raise Counts(label)
            known = self._written.get(id(tensor))
            if known is None or not _same(tensor, known.after):  # what others have written since is not the probe's
                values = tensor.detach().clone()
                self._written[id(tensor)] = _Written(label, tensor, values, values)
        return [self._written[id(tensor)] for _, tensor in owned]

    def _after_write(self, written: Sequence[_Written]) -> None:
        for one in written:
            one.after = one.tensor.detach().clone()


def storage_of(tensor: torch.Tensor) -> int:
    """The address of a tensor's memory; 0 where it has none."""
    try:
        return tensor.untyped_storage().data_ptr()
    except (RuntimeError, NotImplementedError):
        return 0  # sparse and other tensors without plain storage


def _copy_of(value: Any) -> Any:
    """Of a collection; None of anything else."""
    return copy.copy(value) if type(value) in _COLLECTIONS and len(value) <= _MAX_ITEMS else None


def _put_back(place: _Place) -> None:
    if place.value is _GONE:
        del place.home[place.key]
    else:
        place.home[place.key] = place.value


def _put_items_back(place: _Place) -> None:
    place.value.clear()
    (place.value.update if isinstance(place.value, dict | set) else place.value.extend)(place.items)


def _distance(now: torch.Tensor, before: torch.Tensor) -> float:
    if now.shape != before.shape or now.dtype != before.dtype or not is_dense(now) or not is_dense(before):
        return float("inf")
    return float((now.detach().double() - before.detach().double()).abs().max())


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not is_dense(a) or not is_dense(b):
        return same_parts(a, b)
    if a.shape != b.shape or a.dtype != b.dtype:
        return False
    if torch.equal(a, b):
        return True
    if not (a.is_floating_point() or a.is_complex()):
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _same_lists(now: Any, then: Any) -> bool:
    """Of copies of a collection; None: it is as it was."""
    return now is then if now is None or then is None else _same_items(now, then)


def _same_items(now: Any, saved: Any) -> bool:
    if len(now) != len(saved):
        return False
    if isinstance(saved, set):  # a copy has an order of its own
        return {id(item) for item in now} == {id(item) for item in saved}
    try:
        if isinstance(saved, dict):
            pairs = zip(now.items(), saved.items(), strict=True)
            return all(k is j and v is w for (k, v), (j, w) in pairs)
        return all(a is b for a, b in zip(now, saved, strict=True))
    except RuntimeError:  # another thread changes it right now
        return False
