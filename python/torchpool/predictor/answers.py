"""Who answers what the extension asks about calls, and hears what it tells."""

from __future__ import annotations

from torchpool.predictor.graphs import Graphs
from torchpool.predictor.learner import Learner


class Answers:
    """The extension looks these names up in what it is given as its learner; each leads to the object that knows."""

    def __init__(self, learner: Learner, graphs: Graphs | None) -> None:
        self._learner, self._graphs = learner, graphs
        self.learn, self.mismatch, self.may_have_state = learner.learn, learner.mismatch, learner.may_have_state
        self.own, self.readable = learner.own, learner.readable
        self.saw_opaque, self.refused_opaque = learner.saw_opaque, learner.refused_opaque
        self.refused_values, self.refuted = learner.refused_values, learner.refuted
        if graphs is not None:
            self.installed, self.weights_moved = graphs.installed, graphs.again

    def forget(self) -> None:
        """Nothing learned so far holds any more."""
        self._learner.forget()
        if self._graphs is not None:
            self._graphs.forget()
