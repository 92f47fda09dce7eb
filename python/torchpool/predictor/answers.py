"""Who answers what the extension asks about calls, and hears what it tells."""

from __future__ import annotations

from torchpool.predictor.behind import Behind
from torchpool.predictor.graphs import Graphs
from torchpool.predictor.learner import Learner


class Answers:
    """The extension looks these names up in what it is given as its learner; each leads to the object that knows."""

    def __init__(self, learner: Learner, graphs: Graphs | None, behind: Behind) -> None:
        self._learner, self._graphs = learner, graphs
        self.learn, self.mismatch, self.may_have_state = learner.learn, learner.mismatch, learner.may_have_state
        self.answers_unlearned, self.learn_behind = learner.answers_unlearned, behind.add
        self.own, self.readable = learner.own, learner.readable
        self.saw_opaque, self.refuted = learner.saw_opaque, learner.refuted
        refusals = learner.refusals
        self.refusal, self.refused_opaque, self.refused_values = refusals.later, refusals.of_opaque, refusals.of_values
        if graphs is not None:
            self.installed, self.weights_moved = graphs.installed, graphs.again

    def forget(self) -> None:
        """Nothing learned so far holds any more."""
        self._learner.forget()
        if self._graphs is not None:
            self._graphs.forget()
