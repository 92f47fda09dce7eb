"""The predictor: a model's stand-in that answers calls in shared batches."""

from __future__ import annotations

import functools
import inspect
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from torchpool import _core
from torchpool.contract import first_and_most
from torchpool.predictor import updates
from torchpool.predictor.answers import Answers
from torchpool.predictor.behind import Behind
from torchpool.predictor.cache import Cache
from torchpool.predictor.calls import View
from torchpool.predictor.captured import Served
from torchpool.predictor.entered import Entered, model_of, target_of
from torchpool.predictor.examples import refused_example
from torchpool.predictor.graphs import Graphs
from torchpool.predictor.invariance import NO_GRAPH
from torchpool.predictor.knowledge import Knowledge
from torchpool.predictor.learner import Learner
from torchpool.predictor.notices import Notices
from torchpool.predictor.options import Options, check_options, method_of, module_of
from torchpool.predictor.patience import Patience
from torchpool.predictor.portable import Portable
from torchpool.predictor.precision import precision_of
from torchpool.predictor.typed import P, R
from torchpool.runtime import Child, Runtime, default_runtime, in_child

_predictors: weakref.WeakSet[Predictor] = weakref.WeakSet()
_NOT_PROBED = "a plain callable is not probed unless example= or batch= is given (probing runs it about a dozen times)"
_PROOF_SECONDS = 20.0  # that wrap() waits at most for what the module's batches need


class Predictor(Portable[P, R]):
    """Answers a model's calls in shared batches; made by `torchpool.wrap`. Thread-safe, picklable.

    A context manager: leaving it waits for what is in flight and closes. Other attributes of the model are reached
    by `predictor.model`.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        options: Options,
        runtime: Runtime | None,
        known: Knowledge | None = None,
        entered: Entered | None = None,
    ) -> None:
        """`known`: what another predictor of the model, or of one like it, with these options has learned."""
        self._model = model
        self._entered = entered
        self._options = options
        self._runtime = runtime
        self._module = module_of(model)
        self._method = method_of(model)
        self._cache = Cache.of(model, self._module, options) if options.cache and options.merging else None
        if self._cache is not None and known is None:
            known = self._cache.find()
        self._first_batch, self._most_batch = known.batch if known else first_and_most(32, options.max_batch)
        self._closed = False
        self.__wrapped__ = model
        self.__name__ = options.name
        self.__doc__ = model.__doc__
        self._used_runtime = runtime or default_runtime()
        self._generation = self._used_runtime._generation
        self._patience: Patience | None = None
        self._opening = threading.RLock()  # reentrant: a signal's handler may call, too
        self._graphs = self._make_graphs(known)
        self._learner = self._make_learner(known)
        self._core = self._make_core()
        updates.opened(self)
        _predictors.add(self)
        self._learn_examples()
        if options.backend == "graph" and options.examples and self._graphs is not None:
            self._require_graphs(self._graphs)
        elif options.backend == "python" and options.examples and self._graphs is not None:
            self._graphs.wait(
                _PROOF_SECONDS
            )  # there is nothing else to come: its batches may begin with the first call

    def _learn_examples(self) -> None:
        calls = self._options.examples
        for index, (args, kwargs) in enumerate(calls):
            try:
                self._core.learn(args, kwargs)
            except Exception as error:
                told = refused_example(self._model, self._module, calls, index, error)
                if told is error:
                    raise
                raise told from error

    @property
    def _predictor(self) -> Predictor[P, R]:
        return self  # an attribute would be a cycle: a dropped predictor is to be freed at once

    def _make_learner(self, known: Knowledge | None) -> Learner:
        options = self._options
        saved = known.contracts if known else options.saved
        without = None if options.merging else "merging is off (batch=False)"
        if options.invariant and self._graphs is None:
            without = without or NO_GRAPH
        probed = self._module is not None or options.examples or options.batch is not None or saved
        return Learner(
            self._model,
            self._module,
            _plain_runner(weakref.ref(self)),
            examples=options.examples,
            batch=options.batch,
            saved=saved,
            pad=options.pad,
            alone=None if options.merging and probed and not without else without or _NOT_PROBED,
            prove=options.prove,
            probe_timeout=options.probe_timeout,
            dtype=options.dtype,
            tensors_only=options.backend == "torchscript",
            by_module=options.backend == "python",
            on_first_batch=_first_batch_setter(weakref.ref(self)) if options.max_batch is None and not known else None,
            graphs=self._graphs,
            one_at_a_time=_one_at_a_time(weakref.ref(self)),
            invariant=options.invariant,
            notices=Notices(options.name, quiet=not (options.merging and probed)),
        )

    def _make_core(self) -> _core.Predictor:
        options = self._options
        scripted = options.backend == "torchscript"
        return _core.Predictor(
            self._used_runtime._core,
            target_of(self._model, self._module, self._entered),
            Answers(self._learner, self._graphs, Behind(weakref.ref(self)), self._module),
            name=options.name,
            queue_rows=options.queue_size,
            queue_bytes=options.queue_bytes,
            reject=options.overflow == "reject",
            first_batch=self._first_batch,
            max_batch=self._most_batch,
            max_delay=options.max_delay,
            weight=options.weight,
            modules=self._learner.watched(),
            script=self._module if scripted else None,
            method=self._method,
            by_graph=self._graphs is not None,
            verify=options.verify,
            invariant=options.invariant,
        )

    def _make_graphs(self, known: Knowledge | None) -> Graphs | None:
        options = self._options
        if not options.merging or (options.backend == "python" and (options.invariant or not options.proof_needed)):
            return None
        if self._module is None or isinstance(self._module, torch.jit.ScriptModule):
            return None
        return Graphs(_served(weakref.ref(self)), self._module, known.outcomes if known else {})

    def _require_graphs(self, graphs: Graphs) -> None:
        """Waits, and raises ValueError where the module serves a kind of call itself."""
        graphs.wait(None)
        served = {kind_id for kind_id, found in graphs.captured.items() if found.backend is not None}
        kinds = self._learner.kinds.items()
        reasons = [kind.reason for kind_id, kind in kinds if kind.route != "merge" and kind_id not in served]
        reasons += [found.reason for found in graphs.captured.values() if found.reason is not None]
        if reasons:
            raise ValueError(f"backend='graph': {reasons[0]}. backend='auto' serves such calls by the module")

    def _open_core(self) -> _core.Predictor:
        if self._generation != self._used_runtime._generation:
            self._open_anew()
        return self._core

    def _settle_promise(self, kind_id: int, args: tuple[Any, ...], kwargs: dict[str, Any] | None, learn: bool) -> None:
        self._core.settle_promise(kind_id, args, kwargs, learn)

    def _core_to_call(self) -> _core.Predictor | None:
        """For an entrance: what its calls may go to at once, until the process forks. None where a subclass calls."""
        return self._open_core() if type(self).__call__ is Predictor.__call__ else None

    def _callee(self) -> _core.Predictor | Patience:
        if self._is_open():
            return self._core
        return self._patience if self._patience is not None and self._patience.lasts() else self._open_core()

    def _may_wait(self) -> bool:
        """In a forked child: whether something is to be learned or captured, and the module may serve until then."""
        if self._module is None or not self._options.merging or not self._learner.answers_unlearned:
            return False
        if self._closed or self._used_runtime._closed:
            return False
        if any(part.training for part in self._module.modules()):
            return False  # which may be refused
        return not self._learner.kinds or (self._graphs is not None and bool(self._graphs.left()))

    def _like(self, model: Callable[..., Any]) -> Predictor[P, R]:
        return Predictor(model, self._options, self._runtime, self._knowledge())

    def _is_open(self) -> bool:
        return self._generation == self._used_runtime._generation

    def _after_fork(self) -> None:
        """In the child, where other threads may hold all locks for ever, before anything else runs."""
        _core.leak(self._core)
        self._opening = threading.RLock()
        self._learner.after_fork_in_child()
        if self._graphs is not None:
            self._graphs.after_fork_in_child()
        self._patience = Patience(self) if self._may_wait() else None

    def _open_anew(self) -> None:
        """In a forked child, whose runtime was started afresh. What the parent had learned still holds."""
        with self._opening:
            generation = self._used_runtime._generation
            if self._generation == generation:
                return
            core = self._make_core()
            inherited = core.inherit(self._core)
            self._learner.inherit(inherited)
            if self._graphs is not None:
                self._graphs.inherit(inherited)
            if self._closed:
                core.close(True)
            self._core = core
            updates.opened(self)
            self._generation = generation  # last: from now on other threads no longer come by here
        if self._graphs is not None:
            self._graphs.resume()

    def _refuse_in_update(self, what: str) -> None:
        """What waits for calls, or for a capture, would wait for the end of this thread's own block."""
        if self._is_open() and self._core.gate.held_here:
            raise RuntimeError(
                f"predictor {self._options.name!r}: {what} inside of its own updating() would wait for ever, for what "
                "waits for the end of the block: call it after the with block"
            )

    def _look_ahead(self) -> int:
        return max(128, 4 * (self._options.max_batch or self._first_batch) * self._used_runtime.workers)

    def _grow_batch(self, first: int, most: int) -> None:
        self._first_batch = max(first, self._first_batch)
        self._most_batch = max(most, self._most_batch)

    @property
    def model(self) -> Callable[..., Any]:
        """What was wrapped, or accelerated."""
        return model_of(self._model, self._entered)

    @property
    def __signature__(self) -> inspect.Signature:
        target = self._model.forward if isinstance(self._model, torch.nn.Module) else self._model
        return inspect.signature(target)

    def options(self, *, priority: int = 0, deadline: float | None = None) -> View[P, R]:
        """A light view whose calls have this priority (higher first) and deadline (seconds from each call)."""
        return View(self, *check_options(priority, deadline))

    def ready(self, timeout: float | None = None) -> bool:
        """Waits until what was learned so far is served in the way it will be: captured, proven, and switched over.
        Calls need not wait for it. False when `timeout` seconds passed first. What was not learned from yet, since its
        calls are few, is learned now."""
        self._refuse_in_update("ready()")
        self._learner.put_off.learn_all(self._open_core().learn)
        return self._graphs is None or self._graphs.wait(timeout)

    def refresh(self) -> None:
        """Forgets what was learned, for a module that was changed in a way that its calls do not show."""
        self._open_core().forget_learned()

    def updating(self) -> updates.Updating:
        """`with predictor.updating(): model.load_state_dict(...)`: no call sees the weights half written.

        Entering waits until no call of the module runs, through whichever predictors; batches that run end with the old
        weights. Calls that come meanwhile wait for the end of the block, to their deadlines at most, and get the new
        weights. Predictors of modules that share a part or a weight count, too; a function that calls the module
        (`wrap(lambda x: model(x))`) does not. A call by the thread that is in the block raises RuntimeError, as does
        entering inside of a call. An exception in the block ends it as any end does.
        """
        self._open_core()
        return updates.Updating(self)

    def swap(self, state_dict: Mapping[str, Any]) -> None:
        """`load_state_dict` while calls are served: none sees a mixture, none waits for packing.

        The new weights are copied and packed aside first. Then calls wait until what runs has ended and the copies
        stand in the module's own parameters, as long as it takes to copy them, and are served from the packed copies at
        once. Takes the memory of both states for a while. Raises ValueError, and changes nothing, where names or shapes
        differ from the module's; TypeError for a plain callable.
        """
        self._open_core()
        updates.swap(self, updates.Updating(self), state_dict)

    def close(self, wait: bool = True, cancel_pending: bool = False) -> None:
        """Refuses calls from now on. What is in flight is finished, or with `cancel_pending` what has not started
        fails with Closed; `wait` waits for it. Idempotent."""
        if wait:
            self._refuse_in_update("close()")
        if not self._closed:
            self._keep()
        self._closed = True
        core = self._open_core()
        core.close(cancel_pending)
        if wait and not _core.on_worker_thread():  # a model that closes its own predictor cannot wait for itself
            core.wait_drained()

    def __enter__(self) -> Predictor[P, R]:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


# What the learner and the graphs are given. They must not keep their predictor: a dropped one is to be freed at once,
# not by the cycle collector.


def _plain_runner(ref: weakref.ref[Predictor]) -> Callable[[tuple[Any, ...], dict[str, Any]], Any]:
    def run(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        predictor = ref()
        assert predictor is not None
        return predictor._core.run_plain(args, kwargs)

    return run


def _first_batch_setter(ref: weakref.ref[Predictor]) -> Callable[[int], None]:
    def set_first_batch(rows: int) -> None:
        predictor = ref()
        if predictor is not None:
            predictor._first_batch, predictor._most_batch = first_and_most(rows, None)
            predictor._core.set_batch(predictor._first_batch, predictor._most_batch)

    return set_first_batch


def _one_at_a_time(ref: weakref.ref[Predictor]) -> Callable[[], bool]:
    def one_at_a_time() -> bool:
        predictor = ref()
        return predictor is not None and predictor._core.gate.one_at_a_time

    return one_at_a_time


def _keep(ref: weakref.ref[Predictor]) -> None:
    predictor = ref()
    if predictor is not None:
        predictor._keep()


def _served(ref: weakref.ref[Predictor]) -> Callable[[], Served | None]:
    def served() -> Served | None:
        predictor = ref()
        if predictor is None:
            return None
        options = predictor._options
        dtype, weights = precision_of(options, predictor._module)
        return Served(
            target=predictor._model,
            dtype=dtype,
            weights=weights,
            max_batch=options.max_batch,
            closed=predictor._closed,
            proof_needed=options.proof_needed,
            invariant=options.invariant,
            by_module=options.backend == "python",
            runner=predictor._core,
            grow_batch=predictor._grow_batch,
            keep=functools.partial(_keep, ref),
            pause_of=predictor._learner.retries.pause_of,
            rounds=predictor._learner.notices.rounds,
            stays_alone=functools.partial(predictor._learner.notices.stays_alone, predictor._learner.kinds),
        )

    return served


def _after_fork() -> None:
    for predictor in list(_predictors):
        predictor._after_fork()


in_child(Child.PREDICTORS, _after_fork)
