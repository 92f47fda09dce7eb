"""Learns how each kind of call may be served: by probing, from what the user stated, or from a saved contract."""

from __future__ import annotations

import contextvars
import dataclasses
import functools
import itertools
import logging
import threading
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any

import torch

from torchpool.call import Call, parameter_names, readable_names, tensors, tree
from torchpool.contract import Contract, Leaves, Reason, choose_first_batch, refusal
from torchpool.contract.probe import Found
from torchpool.predictor import invariance
from torchpool.predictor.beside import look_beside
from torchpool.predictor.graphs import Graphs
from torchpool.predictor.kinds import MERGING_UNPROVEN, Kind, Learned, unsettled
from torchpool.predictor.knowledge import Knowledge
from torchpool.predictor.knowledge_of import knowledge_of
from torchpool.predictor.lazy_weights import LazyWeights
from torchpool.predictor.looks import Looks
from torchpool.predictor.notices import Notices
from torchpool.predictor.own_code import OwnCode
from torchpool.predictor.probes import Probes
from torchpool.predictor.put_off import PutOff
from torchpool.predictor.refusals import Refusals, tells_refusals
from torchpool.predictor.retries import Retries
from torchpool.predictor.samples import alike, copies, rows_of, same_names, same_sizes, to_keep

log = logging.getLogger("torchpool")

_MAX_WIDENINGS = 8
_KEPT_SAMPLES = 4
_OWN_HOOKS = "the model sets hooks or submodules of its own while it runs, which other runs of that time would meet"
_NO_GRAPH = "rows are proven independent on a graph, and {} has none; prove='verify' merges without a proof"


class Learner:
    """Answers the extension's questions about calls that it does not know. Thread-safe."""

    def __init__(
        self,
        target: Callable[..., Any],
        module: torch.nn.Module | None,
        run_plain: Callable[[tuple[Any, ...], dict[str, Any]], Any],
        *,
        examples: Sequence[Call] = (),
        batch: Mapping[str, int] | None = None,
        saved: Sequence[Contract] = (),
        pad: Mapping[str, float | int | bool] | None = None,
        alone: str | None = None,
        prove: str = "auto",
        probe_timeout: float = 20.0,
        dtype: torch.dtype | None = None,
        tensors_only: bool = False,
        by_module: bool = False,
        on_first_batch: Callable[[int], None] | None = None,
        graphs: Graphs | None = None,
        one_at_a_time: Callable[[], bool] = lambda: False,
        invariant: bool = False,
        notices: Notices | None = None,
    ) -> None:
        """`run_plain` runs the target as it is. `tensors_only`: who runs merged calls can give back nothing else than
        tensors. `by_module`: the module runs what is proven, too. `on_first_batch` is told a good number of rows,
        `graphs` each kind of call whose rows may be proven independent. `one_at_a_time`: runs may not meet.
        `invariant`: calls wait for what they are to be served by."""
        self._target = target
        self._module = module
        self._lazy = LazyWeights(target, module)
        self._run_plain = run_plain
        self._examples = list(examples)
        self._saved = list(saved)
        self._alone = alone
        self._code = OwnCode(target, module)
        self.own_change, self.notes = self._code.may_change, self._code.notes
        self._prove = prove
        self._stated = batch is not None or prove in ("trust", "required")
        self._merging = "trust" if batch is not None else MERGING_UNPROVEN[prove]
        self._tensors_only, self._by_module = tensors_only, by_module
        self._on_first_batch = on_first_batch
        self._graphs = graphs
        self._one_at_a_time, self._invariant = one_at_a_time, invariant
        self.parameters = parameter_names(target)
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._refusals: dict[object, str] = {}
        """With prove="required": kinds without a proof, and what their calls raise."""
        self.kinds: dict[int, Kind] = {}
        self._forgotten = 0
        """Kinds with smaller ids are no more."""
        self.notices = notices or Notices("model", quiet=False)
        self.refusals = Refusals(self.kinds, self._lock, self.parameters, run_plain, self.notices)
        """What calls are told that the model refuses."""
        self.looks = Looks(target, module, self._code, self.kinds, self._lock)
        """What runs of calls that are not probed show."""
        self.retries = Retries(self.kinds, ever=not invariant)
        self.put_off = PutOff(self._may_put_off)
        self._first_runs = self.looks.first_runs
        self._probes = Probes(
            target, module, run_plain, self._code, self._first_runs, batch=batch, pad=pad, dtype=dtype,
            max_seconds=probe_timeout, proof_follows=self._merging == "no" and graphs is not None,
        )  # fmt: skip

    # What the extension calls.

    @tells_refusals
    def learn(self, kind_id: int, paths: list[str], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Learned:
        """How calls like this one are served. Raises what the model raises, or a typed error, when it refuses it."""
        call: Call = (args, kwargs or {})
        self._lazy.make(lambda: self._run_plain(*call))
        leaves = [leaf.detach() for leaf in tensors(call)]
        kind = Kind.of(paths, call, leaves, self.parameters, self._alone)
        if (before := self.kinds.get(kind_id)) is not None:  # it was not settled
            kind.probes, kind.probed_seconds = before.probes, before.probed_seconds
        if (refused := self._refusals.get(kind.key)) is not None:
            raise refusal.Refused(ValueError(refused))
        learned: Learned = ("direct", None, None, False, 0, "no")
        if (text := self._code.thread_state()) is not None:
            kind.route, kind.reason = "caller", text
            learned = ("caller", None, None, False, self._next_number(), "no")
        elif self._alone is None:
            # In a copy of the caller's context: what the model sets there while it is probed is gone afterwards.
            with self._first_runs.begun():
                learned = contextvars.copy_context().run(self._learn_kind, kind, call, leaves)
        with self._lock:
            if kind_id < self._forgotten:
                return learned  # the module is another one by now: nobody will be served by this
            self.kinds[kind_id] = kind
        try:
            learned = self._tell(kind_id, kind, call, learned)
        except BaseException as error:
            with self._lock:
                if self.kinds.get(kind_id) is kind:
                    del self.kinds[kind_id]
                if isinstance(error, refusal.Refused) and not (kind.unsettled or kind.restless):
                    self._refusals[kind.key] = str(error.error)
            raise
        if learned[0] != "merge":
            self.notices.runs_alone(kind, kind.reason)
        return learned

    def _tell(self, kind_id: int, kind: Kind, call: Call, learned: Learned) -> Learned:
        """Has a graph made, and says how calls are served. Raises Refused where prove="required" finds no proof."""
        route, candidate, _, _, number, _ = learned
        if self._graphs is not None and route == "merge" and candidate is not None:
            contradicted = kind.reason if kind.route != "merge" else None
            if contradicted is None and candidate.call_rows is not None:
                contradicted = "earlier calls have shown that they meet"
            needed = kind.unshown is not None
            self._graphs.learned(kind_id, number, call, kind.samples, candidate, contradicted, kind.rows, needed)
        if self._prove == "required":
            prove = self._graphs.prove_now if self._graphs is not None and route == "merge" else None
            reason, kind.restless = prove(kind_id, number) if prove else (kind.reason, kind.restless)
            if reason is not None:
                text = f"prove='required': {reason}. prove='auto' serves such calls by the module, one by one"
                raise refusal.Refused(ValueError(text))
        elif self._invariant and self._graphs is not None and route == "merge":
            return invariance.settled(kind, learned, functools.partial(self._graphs.prove_now, kind_id, number))
        return learned

    def evicted(self, kind_id: int) -> None:
        """The extension has forgotten a kind, for want of room and of calls like it."""
        with self._lock:
            self.kinds.pop(kind_id, None)
        self.put_off.ends(kind_id)
        if self._graphs is not None:
            self._graphs.evicted(kind_id)

    def may_have_state(self) -> bool:
        """Whether others must not run the model now: a probe puts state back, and its first run tells the rest."""
        buffers = self._module is not None and next(self._module.buffers(), None) is not None
        return buffers or self._code.may_set_or_draw() or self._lazy.missing() or self._first_runs.under_way()

    def _may_put_off(self) -> bool:
        """Not where the user has said something of calls, or learning may refuse them or find them to have state."""
        stated = self._examples or self._saved or self._stated or self._alone is not None or self._invariant
        if self._module is None or stated or not self.answers_unlearned or self._lazy.missing():
            return False
        state = self._code.may_set_or_draw()
        return not state and not any(getattr(part, "training", False) for part in self._module.modules())

    @property
    def learns_by_runs(self) -> bool:
        """Whether learning runs the model."""
        return (self._alone is None and not self.reads_thread_state) or self._lazy.missing()

    @property
    def reads_thread_state(self) -> bool:
        """Whether calls run on the threads that make them, as the model's code tells."""
        return self._code.thread_state() is not None

    @property
    def answers_unlearned(self) -> bool:
        """Whether a call may be answered before its kind is learned."""
        return self._prove != "required" and not self._invariant and self._code.thread_state() is None

    @tells_refusals
    def mismatch(
        self,
        kind_id: int,
        paths: list[str],
        args: tuple[Any, ...],
        kwargs: dict[str, Any] | None,
        message: str,
        may_widen: bool,
    ) -> tuple[Any, Learned | None]:
        """The result of a call that departs from its kind's contract, and how to go on with calls like it."""
        call: Call = (args, kwargs or {})
        with self._lock:
            kind = self.kinds.get(kind_id)
        try:
            result = self._run_plain(*call)
        except Exception as error:
            typed = self.refusals.of_size(kind_id, call, message, error)
            if typed is None:
                raise
            raise typed from error
        if kind is None:
            return result, None
        if kind.contract is not None and kind.contract.aliases:
            result = self.own(result)
        unproven = self._graphs is not None and kind.merging == "no" and self._graphs.failed(kind_id)
        if unproven or kind.refuted is not None:
            return result, ("parallel", None, None, kind.aliases, self._next_number(), "no")
        with self._lock:
            if not may_widen or kind.widenings >= _MAX_WIDENINGS:
                return result, None
            kind.widenings += 1
            samples = [*kind.samples[: _KEPT_SAMPLES - 1], copies(tensors(call))]
            before = dataclasses.replace(kind)
        try:
            widened = contextvars.copy_context().run(self._widen, kind, call, samples)
            if widened is not None:
                widened = self._tell(kind_id, kind, call, widened)
        except BaseException:
            vars(kind).update(vars(before))  # the extension goes on with what was learned before
            raise
        if self._invariant and (widened is None or widened[0] != "merge"):
            invariance.stays(kind, before)
            kind.widenings, widened = _MAX_WIDENINGS, None
        return result, widened

    def refuted(self, kind_id: int, text: str) -> None:
        """The extension saw rows of a batch that differ from the same calls alone, and merges this kind no longer."""
        with self._lock:
            kind = self.kinds.get(kind_id)
            if kind is not None:
                kind.refuted = text
        log.warning("calls are merged no longer, since rows of a batch differed from the same calls alone: %s", text)

    def _next_number(self) -> int:
        with self._lock:
            return next(self._numbers)

    def _widen(self, kind: Kind, call: Call, samples: list[Leaves]) -> Learned | None:
        """How to go on with a kind whose calls turn out to vary; None where what was proven before stays."""
        watch, found = kind.padded_with, self._probes.probe(kind, call, samples, self.refusals)
        if found.contract.mode == "alone" and not found.contract.serial and kind.route == "merge":
            kind.not_widened, kind.padded_with = found.contract.reason, watch
            if not unsettled(found.contract):
                kind.widenings = _MAX_WIDENINGS
            return None
        kind.samples = samples
        return self._settle(kind, call, found)

    def context_variables(self, kind_id: int) -> Sequence[contextvars.ContextVar[Any]] | None:
        """Those of which the values must be equal in calls of a kind that the module runs in a batch; None: all."""
        with self._lock:
            kind = self.kinds.get(kind_id)
        return None if kind is None else kind.context

    def forget(self, before: int) -> None:
        """What was learned of kinds with ids below `before` holds no more."""
        with self._lock:
            self._forgotten = max(self._forgotten, before)
            self._saved = []
            self._code.forget()
            self._refusals.clear()
            self.retries.forget()
            self.looks.forget()
            self.put_off.clear()
            for kind_id in [kind_id for kind_id in self.kinds if kind_id < before]:
                del self.kinds[kind_id]

    def after_fork_in_child(self) -> None:
        """A thread that is gone may hold the lock."""
        self._lock = self.refusals.lock = self.looks.lock = threading.Lock()
        self._first_runs.after_fork_in_child()
        self.put_off.after_fork_in_child()

    def inherit(self, kind_ids: Container[int]) -> None:
        """In a forked child: of what the parent had learned only these kinds hold."""
        with self._lock:
            for kind_id in [kind_id for kind_id in self.kinds if kind_id not in kind_ids]:
                del self.kinds[kind_id]

    Memory = tuple[dict[object, str], dict[int, Kind]]

    def exchange(self, before: int, memory: Memory | None) -> Memory:
        """As `Answers.exchange`, of what was learned."""
        with self._lock:
            known = self._refusals, dict(self.kinds)
            self._refusals, kinds = memory or ({}, {})
            self.kinds.clear()  # others know the dict
            self.kinds.update(kinds)
            self._forgotten = max(self._forgotten, before)
            self._saved = []
            self._code.forget()
            self.looks.forget()
            self.put_off.clear()
        return known

    def watched(self) -> list[torch.nn.Module]:
        """The modules in which a change shows; a script keeps its own elsewhere."""
        return [] if self._module is None or isinstance(self._module, torch.jit.ScriptModule) else [self._module]

    def own(self, result: Any) -> Any:
        """The result with every tensor copied: the model returned memory that it keeps or was given."""
        leaves, spec = tree.flatten(result)
        return spec.rebuild([leaf.detach().clone() for leaf in leaves])

    def readable(self, path: str) -> str:
        """The name of the input at a path: "0" -> "x"."""
        return readable_names([path], self.parameters)[0]

    # Inside.

    def _learn_kind(self, kind: Kind, call: Call, leaves: Leaves) -> Learned:
        contract = self._find_saved(kind)
        if contract is not None and self._probes.still_pads(kind, contract, call, leaves):
            kind.samples = [copies(leaves)]
            return self._settle(kind, call, Found(contract, contract if contract.mode == "merge" else None, None))
        samples = [copies(leaves)]
        for example in self._examples:
            other = tensors(example)
            if alike(other, leaves) and same_names(example, call) and not same_sizes(other, samples):
                samples.append(copies(other))
        found = self._probes.probe(kind, call, samples, self.refusals)
        kind.samples = samples
        return self._settle(kind, call, found)

    def _settle(self, kind: Kind, call: Call, found: Found) -> Learned:
        contract, candidate = self._code.signed(found.contract), found.candidate and self._code.signed(found.candidate)
        if self._one_at_a_time() and not contract.serial:
            contract = dataclasses.replace(contract, mode="alone", serial=True, reason=_OWN_HOOKS, code=Reason.CHECK)
            candidate = None
        if self._invariant:
            contract, candidate = invariance.without_padding(contract), invariance.without_padding(candidate)
        route = "merge" if contract.mode == "merge" else "serial" if contract.serial else "parallel"
        if contract.code is Reason.THREAD:
            route = "caller"
        spec = found.spec
        # A contract that counts calls is for a lifted graph: the module itself would let their rows meet.
        merging = self._merging if contract.mode == "merge" and contract.call_rows is None else "no"
        run = functools.partial(self._run_plain, *call)
        by_module = self._by_module and route == "merge"
        spec = look_beside(kind, self._target, self._module, spec, run, merging != "no", by_module)
        if kind.unshown is not None:
            merging = "no"  # a graph shows where such values come from
            if self._graphs is None:
                contract = dataclasses.replace(contract, mode="alone", reason=kind.unshown, code=Reason.RESULTS)
                route, spec, candidate = "parallel", None, None
        if contract.mode == "merge" and merging == "no" and self._graphs is None:
            text = _NO_GRAPH.format("a ScriptModule" if self._tensors_only else "a plain callable")
            contract = dataclasses.replace(contract, mode="alone", reason=text, code=Reason.ROWS)
            route, spec, candidate = "parallel", None, None
        if unsettled(contract):
            contract = dataclasses.replace(contract, reason=f"{contract.reason}; {self.retries.when}")
        with self._lock:
            kind.route, kind.contract, kind.reason = route, contract, contract.reason
            kind.merging, kind.aliases, kind.candidate = merging, contract.aliases, candidate
            number = next(self._numbers)
        kind.rows = rows_of(kind.samples[0], candidate) if candidate is not None else 1
        kind.samples = to_keep(kind.samples, candidate or contract)
        if merging != "no" and self._on_first_batch is not None and kind.samples:
            batch = functools.partial(self._probes.run_leaves, call)
            self._on_first_batch(choose_first_batch(batch, kind.samples[0], contract))
        if route == "parallel" and candidate is not None and self._graphs is not None:
            # Calls run alone, and are fitted to the candidate meanwhile: a lifted graph may come to serve them.
            return "merge", candidate, spec, contract.aliases, number, "no"
        return route, contract, spec if route == "merge" else None, contract.aliases, number, merging

    def _find_saved(self, kind: Kind) -> Contract | None:
        parts = [] if self._module is None else self._module.modules()
        if any(getattr(part, "training", False) for part in parts):
            return None  # whether train mode changes results must be looked at anew
        return self._code.first_own(contract for contract in self._saved if kind.is_of(contract))

    def knowledge(self, batch: tuple[int, int]) -> Knowledge:
        """What another predictor of the model may start from, with its rows of a batch, at first and at most."""
        with self._lock:
            learned = [(kind_id, kind, kind.to_save()) for kind_id, kind in self.kinds.items()]
            saved = list(self._saved)
        return knowledge_of(learned, saved, self._graphs, batch)
