"""What a predictor tells of itself: stats(), explain(), and how it is shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torchpool._core import Predictor as CorePredictor
from torchpool.insight import Explanation, Stats, explain, html_table, measured_gain
from torchpool.predictor.calls import Calls
from torchpool.predictor.captured import Captured
from torchpool.predictor.entered import Entered, notes_of
from torchpool.predictor.graphs import Graphs
from torchpool.predictor.learner import Learner
from torchpool.predictor.misuse import missing_attribute
from torchpool.predictor.options import Options
from torchpool.predictor.records import record
from torchpool.predictor.typed import P, R
from torchpool.runtime import Runtime


class Told(Calls[P, R]):
    """A predictor as far as it tells of itself."""

    _options: Options
    _core: CorePredictor
    _entered: Entered | None
    _graphs: Graphs | None
    _learner: Learner
    _used_runtime: Runtime
    _first_batch: int
    _most_batch: int
    _closed: bool

    def _open_core(self) -> CorePredictor:
        raise NotImplementedError

    @property
    def model(self) -> Callable[..., Any]:
        """What was wrapped, or accelerated."""
        raise NotImplementedError

    def stats(self) -> Stats:
        """Counts since the start, what waits and runs now, and times in seconds (mean, p50, p99, max). A dict; printed,
        a table."""
        counts = self._open_core().stats()
        return Stats({"name": self._options.name, "workers": self._used_runtime.workers, **counts})

    def explain(self, *, verbose: bool = False, profile: bool = False) -> Explanation:
        """How calls are served and why. The first line says whether they are batched, why, and what that gains, where
        it was measured; then come backend, contract, and for each choice not taken the reason. `verbose` adds the
        graphs' programs, an instruction a line; `profile` also runs each some times, with one intra-op thread and
        as many rows of its first calls as a batch had at first, and adds the time of each instruction."""
        core = self._open_core()
        core.tell_refuted()
        captured: Mapping[int, Captured] = {}
        programs: list[str] = []
        if self._graphs is not None:
            captured = self._graphs.captured
            if verbose or profile:
                programs = self._graphs.listings(self._first_batch if profile else None)
        put_off, entrance = self._learner.put_off.notes(), notes_of(self._entered)
        return explain(
            self._options.name,
            core.backend,
            self._most_batch,
            [
                record(kind, captured.get(kind_id), self._learner.looks.order(kind))
                for kind_id, kind in list(self._learner.kinds.items())
            ],
            self._learner.refusals.opaque_arguments(),
            self._learner.looks.order(None),
            programs,
            [*sorted(self._learner.notes), *put_off, *entrance],
            measured_gain(core.stats()["cost"]),
            [*put_off, *entrance[1:]],
            self._options.invariant,
        )

    def _backends(self) -> str:
        """What serves the calls that were learned from, as of now."""
        captured = {} if self._graphs is None else self._graphs.captured
        kinds = list(self._learner.kinds)
        by_graph = [kind_id in captured and captured[kind_id].backend is not None for kind_id in kinds]
        serving = (["graph"] if any(by_graph) else []) + ([] if kinds and all(by_graph) else [self._core.backend])
        return " and ".join(serving)

    def __repr__(self) -> str:
        return f"<torchpool.Predictor {self._options.name} ({self._backends()}){' closed' if self._closed else ''}>"

    def _repr_html_(self) -> str:
        """For notebooks."""
        if self._closed:
            return html_table([("backend", self._backends()), ("state", "closed")], self._options.name)
        told, stats = self.explain(), self.stats()
        batched, _, rest = told.headline.partition(": ")
        rows = stats["batch_rows"]
        shown = [
            (batched, rest),
            ("backend", self._backends()),
            ("calls", f"{stats['accepted']} accepted, {stats['failed']} failed, {stats['waiting_rows']} rows waiting"),
            (
                "rows a batch",
                f"{rows['mean']:.3g} on average, {told.max_batch} at most" if rows["count"] else "none",
            ),
        ]
        return html_table(shown, self._options.name)

    if not TYPE_CHECKING:  # to a type checker every attribute would be there

        def __getattr__(self, name: str) -> Any:
            if name.startswith("_") or "_model" not in self.__dict__:
                raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}", name=name, obj=self)
            raise missing_attribute(self, self.model, name, "predict.model")
