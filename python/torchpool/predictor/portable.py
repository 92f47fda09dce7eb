"""A predictor as it goes elsewhere: into a file, another process, or a copy of its model."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable
from typing import Any, Self

from torchpool.predictor import saving
from torchpool.predictor.cache import Cache
from torchpool.predictor.knowledge import Knowledge
from torchpool.predictor.pickling import refuse_unpicklable
from torchpool.predictor.told import Told
from torchpool.predictor.typed import P, R
from torchpool.runtime import Runtime


class Portable(Told[P, R]):
    """A predictor as far as what it has learned is kept, or taken along."""

    _cache: Cache | None
    _model: Callable[..., Any]
    _runtime: Runtime | None

    def ready(self, timeout: float | None = None) -> bool:
        """As a predictor has it."""
        raise NotImplementedError

    def _like(self, model: Callable[..., Any]) -> Self:
        raise NotImplementedError

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes what was learned to a file, for `torchpool.load`: contracts, proofs, programs, sizes of batches; no
        weights. Waits for captures that are under way. Raises ValueError where nothing was learned."""
        self.ready()
        saving.save(path, self._knowledge(), self._options)

    def _keep(self) -> None:
        if self._cache is not None:
            self._cache.keep(self._knowledge(), self._options)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._runtime is not None:
            raise TypeError(
                "a predictor on a Runtime of its own cannot be pickled; wrap without runtime= or wrap again"
            )
        refuse_unpicklable(
            self._options.name, [("model", self._model), ("example", self._options.examples)], (type(self),)
        )
        return type(self), (self._model, self._options, None, self._knowledge())

    def __copy__(self) -> Self:
        """Another predictor of the same model, which starts from what this one has learned."""
        return self._like(self._model)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        """A predictor of a copy of the model, which starts from what this one has learned."""
        return self._like(copy.deepcopy(self._model, memo))

    def _knowledge(self) -> Knowledge | None:
        """None where what was learned may be of another module than the present one."""
        core = self._open_core()
        core.tell_refuted()
        if not self._options.merging or core.module_changed:
            return None
        return self._learner.knowledge((self._first_batch, self._most_batch))
