"""Who answers what the extension asks about calls, and hears what it tells."""

from __future__ import annotations

import functools

from torch import nn

from torchpool import _core
from torchpool.predictor.behind import Behind
from torchpool.predictor.gradients import gradients_lost
from torchpool.predictor.graphs import Graphs
from torchpool.predictor.learner import Learner

Memory = tuple[Learner.Memory | None, Graphs.Memory | None]
"""Of one state of the module: what was learned, and what was captured."""


class Answers:
    """The extension looks these names up in what it is given as its learner; each leads to the object that knows."""

    def __init__(self, learner: Learner, graphs: Graphs | None, behind: Behind, module: nn.Module | None) -> None:
        self._learner, self._graphs = learner, graphs
        self.learn, self.mismatch, self.may_have_state = learner.learn, learner.mismatch, learner.may_have_state
        self.learn_behind = behind.add
        self.put_off, self.put_off_ends = learner.put_off.add, learner.put_off.ends
        self.own, self.readable, self.context_variables = learner.own, learner.readable, learner.context_variables
        looks = learner.looks
        self.looks_for_state, self.look_for_state = looks.wanted, looks.later
        self.first_run_under_way = looks.first_runs.under_way
        self.again_in, self.evicted = learner.retries.again_in, learner.evicted
        refusals = learner.refusals
        self.saw_opaque, self.refuted = refusals.saw_opaque, learner.refuted
        self.refusal, self.refused_opaque, self.refused_values = refusals.later, refusals.of_opaque, refusals.of_values
        self.own_change = learner.own_change
        self.gradients_lost = functools.partial(gradients_lost, module)
        if graphs is not None:
            self.installed, self.weights_moved = graphs.installed, graphs.again

    @property
    def learns_by_runs(self) -> bool:
        """Whether learning runs the model."""
        return self._learner.learns_by_runs

    @property
    def reads_thread_state(self) -> bool:
        """Whether the code of the model has a threading.local at hand."""
        return self._learner.reads_thread_state

    @property
    def answers_unlearned(self) -> bool:
        """Whether a call may be answered before its kind is learned."""
        return self._learner.answers_unlearned

    def exchange(self, before: int, memory: Memory | None) -> Memory:
        """What is known of the module as it was, for what is known of it as it is now; None: nothing. What is being
        learned now, of kinds with ids below `before`, is of neither."""
        known, captured = memory or (None, None)
        mine = self._learner.exchange(before, known)
        return mine, None if self._graphs is None else self._graphs.exchange(captured)

    def state_rests(self) -> None:
        """The module has been as it is for some calls."""
        if self._graphs is not None:
            self._graphs.resume_stopped()

    def padded_with(self, kind_id: int) -> _core.WeightWatch | None:
        """The weights with which padding was found to do nothing to calls of a kind; None where that is not known."""
        kind = self._learner.kinds.get(kind_id)
        return None if kind is None else kind.padded_with

    def forget(self, before: int) -> None:
        """What was learned of kinds with ids below `before` holds no more."""
        self._learner.forget(before)
        if self._graphs is not None:
            self._graphs.forget(before)
