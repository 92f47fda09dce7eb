"""Changes of weights that no call sees half done."""

from __future__ import annotations

import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, Protocol

import torch

from torchpool import _core
from torchpool.runtime import Child, in_child

_PATIENCE = 3.0  # seconds that calls wait for one that runs, before they are let in ahead of the update
_LET_IN = 0.01  # of that, for as long as they are


class Updated(Protocol):
    """What an update needs of a predictor."""

    _core: _core.Predictor
    _model: Callable[..., Any]
    """What was wrapped."""
    _module: torch.nn.Module | None
    """What calls run; None for a plain callable."""

    def _is_open(self) -> bool:
        """False in a forked child until it is used: its core is the parent's, which nothing leaves any more."""


class Updates:
    """The predictors of a process, and who updates whose weights."""

    def __init__(self) -> None:
        # The lock itself is entered: an interrupt in a Condition's own __enter__ would leave it locked.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._predictors: weakref.WeakSet[Any] = weakref.WeakSet()
        self._active: list[Updating] = []
        self._waiting: dict[int, Updating] = {}
        """By thread: the update whose end it waits for."""

    def start_afresh(self) -> None:
        """In a forked child: the threads that updated anything are gone, and predictors begin anew."""
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._predictors, self._active, self._waiting = weakref.WeakSet(list(self._predictors)), [], {}

    def opened(self, predictor: Updated) -> None:
        """A predictor has a new core. Where somebody updates its module, its calls wait for the end of that, too."""
        with self._lock:
            self._predictors.add(predictor)
            updates = [update for update in self._active if update.concerns(predictor)]
            if updates:
                predictor._core.gate.hold(any(update.thread == threading.get_ident() for update in updates))
            for update in updates:
                update.cores.append(predictor._core)

    def begin(self, update: Updating) -> None:
        """Waits for other threads' updates of the same weights, or of other parts of a model that has a predictor.
        Raises RuntimeError where they wait for this one."""
        me = threading.get_ident()
        with self._lock:
            try:
                while True:
                    cores = [one._core for one in list(self._predictors) if one._is_open() and update.concerns(one)]
                    other = next((one for one in self._active if one.thread != me and one.meets(update, cores)), None)
                    if other is None:
                        break
                    self._refuse_circle(other, me)
                    self._waiting[me] = other
                    self._changed.wait()
            finally:
                self._waiting.pop(me, None)
            held = _held_by(one for one in self._active if one.thread == me)
            update.cores = [core for core in cores if id(core) not in held]
            self._active.append(update)

    def end(self, update: Updating) -> None:
        """Opens what no other update holds; another one may begin. May be called again, where an interrupt ended it."""
        with self._lock:  # a predictor that opens now is held by this update, or comes after it
            held = _held_by(one for one in self._active if one is not update)
            _core.open_gates([core.gate for core in update.cores if id(core) not in held])
            self._changed.notify_all()  # who waits finds it over once the lock is free
            if update in self._active:
                self._active.remove(update)

    def under_way(self, update: Updating) -> bool:
        """False once it was left, and in a child that was forked inside of the block: there nothing waits."""
        return update in self._active

    def _refuse_circle(self, other: Updating, me: int) -> None:
        thread = other.thread
        while thread in self._waiting:
            thread = self._waiting[thread].thread
            if thread == me:
                raise RuntimeError(
                    "two threads would wait for each other's updating() for ever: enter both in the same order"
                )


def _held_by(updates: Iterable[Updating]) -> set[int]:
    return {id(core) for update in updates for core in update.cores}


_updates = Updates()
in_child(Child.CAPTURES, _updates.start_afresh)
opened = _updates.opened


class Updating(_core.UpdateScope):
    """The scope in which a thread may write a module's weights and no call of it runs, by `Predictor.updating`."""

    def __init__(self, predictor: Updated) -> None:
        super().__init__()
        self._predictor = predictor
        self._entered = self._holds = False
        self.thread = 0
        self.cores: list[_core.Predictor] = []
        self.staged: _core.StagedWeights | None = None
        """Packed copies of what is written, to serve from at once."""

    def __enter__(self) -> None:
        if self._entered:
            raise RuntimeError("this updating() is in use or was used: call updating() for each with block")
        self._entered = True
        self.thread = threading.get_ident()
        self._parts = _parts_of(self._predictor)
        try:
            _updates.begin(self)
            self._take()
            self._holds = True
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise

    def _leave(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """What `__exit__` does, and does again where an interrupt ends it."""
        if not _updates.under_way(self):
            return
        try:
            for core in self.cores if self._holds else ():
                core.weights_written()
            if self.staged is not None and kind is None:
                self.staged.adopt()
        except Exception:
            _updates.end(self)
            raise
        _updates.end(self)

    def concerns(self, predictor: Updated) -> bool:
        """Whether it is of the module, or shares a part or a weight with it."""
        return predictor is self._predictor or not self._parts.isdisjoint(_parts_of(predictor))

    def meets(self, other: Updating, cores: Sequence[_core.Predictor]) -> bool:
        """Whether both write the same weights, or `other` needs one of the `cores` that this one holds."""
        if other._predictor is self._predictor or not self._parts.isdisjoint(other._parts):
            return True
        return not _held_by([self]).isdisjoint(map(id, cores))

    def _take(self) -> None:
        gates = [core.gate for core in self.cores]
        if any(gate.entered_here for gate in gates):
            raise RuntimeError("updating() inside of a call of the same model would wait for that call: update outside")
        patience = _PATIENCE
        while not _core.take_gates(gates, patience):
            # What runs may itself wait for a call that waits here, or take very long.
            _core.open_gates(gates)
            time.sleep(_LET_IN * patience)
            patience *= 2


def swap(predictor: Updated, update: Updating, state: Mapping[str, Any]) -> None:
    """Writes `state` into the predictor's module, inside of `update`; packed copies are made before that."""
    module = predictor._module
    if module is None:
        raise TypeError(f"swap() needs a module, and {predictor._model!r} is a plain callable: use updating()")
    live = module.state_dict(keep_vars=True)
    staged = _staged(module, live, state)
    pairs = {
        id(live[name]): (live[name], value) for name, value in staged.items() if isinstance(live[name], torch.Tensor)
    }
    update.staged = _core.StagedWeights([pair[0] for pair in pairs.values()], [pair[1] for pair in pairs.values()])
    for graph in _graphs_of(predictor):
        update.staged.pack(graph)
    with update:
        update.staged.recheck()
        module.load_state_dict(staged)


def _graphs_of(predictor: Updated) -> Iterator[_core.GraphBackend]:
    probe = Updating(predictor)
    probe._parts = _parts_of(predictor)
    for other in list(_updates._predictors):
        if probe.concerns(other):
            yield from other._core.graphs()


def _staged(module: torch.nn.Module, live: Mapping[str, Any], state: Mapping[str, Any]) -> dict[str, Any]:
    """Copies of the new values, each in its weight's form. Raises ValueError where they do not fit."""
    missing = [name for name in live if name not in state]
    unknown = [name for name in state if name not in live]
    wrong = [
        f"{name!r} has shape {tuple(state[name].shape)}, expected {tuple(value.shape)}"
        for name, value in live.items()
        if name in state and isinstance(value, torch.Tensor) and state[name].shape != value.shape
    ]
    texts = [f"missing {missing[:4]}"] if missing else []
    texts += [f"unknown {unknown[:4]}"] if unknown else []
    texts += wrong[:4]
    if texts:
        raise ValueError(f"swap(): the state does not fit {type(module).__name__}: {'; '.join(texts)}; nothing changed")
    return {
        name: torch.empty_like(value, requires_grad=False).copy_(state[name].detach())
        if isinstance(value, torch.Tensor)
        else state[name]
        for name, value in live.items()
    }


def _parts_of(predictor: Updated) -> set[object]:
    """What tells whether two predictors share anything: submodules, and the memory of weights."""
    module = predictor._module
    if module is None:
        return {id(predictor._model)}
    parts: set[object] = {("module", id(part)) for part in module.modules()}
    for tensors in (module.parameters(), module.buffers()):
        for tensor in tensors:
            parts.add(("tensor", id(tensor)))
            if tensor.layout is torch.strided and (address := tensor.untyped_storage().data_ptr()):
                parts.add(("memory", address))
    return parts
