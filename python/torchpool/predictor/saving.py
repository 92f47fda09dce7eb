"""`Predictor.save` and `torchpool.load`: what was learned of a model outlives its process."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from torchpool.predictor import saved_file
from torchpool.predictor.knowledge import Knowledge, Proven
from torchpool.predictor.misuse import refuse_unknown_options
from torchpool.predictor.options import Options, module_of, read_options
from torchpool.predictor.own_code import OwnCode

log = logging.getLogger("torchpool")

# Options that decide what is learned; a file has them, and load() takes no others.
DECIDING = ("batch", "pad", "dtype", "weights", "backend", "prove", "invariant")
# Options that only say how calls are served.
SERVING = ("max_batch", "max_delay", "weight", "queue_size", "queue_bytes", "overflow", "name", "verify")


def save(path: str | os.PathLike[str], knowledge: Knowledge | None, options: Options) -> None:
    """Writes the file. Raises ValueError where there is nothing to save."""
    if not options.merging:
        raise ValueError(f"predictor {options.name!r} has nothing to save: merging is off (batch=False)")
    if knowledge is None or not knowledge.kinds:
        raise ValueError(
            f"predictor {options.name!r} has learned nothing yet that may be saved: call it first, or give "
            "wrap(example=)"
        )
    chosen = {name: getattr(options, name) for name in (*DECIDING, *SERVING, "probe_timeout")}
    for text in saved_file.write(path, saved_file.Saved(knowledge, chosen)):
        log.warning("predictor %r: %s", options.name, text)


def read(path: str | os.PathLike[str], model: Callable[..., Any], changed: dict[str, Any]) -> tuple[Knowledge, Options]:
    """What the file holds, for the model, with `changed` serving options. Raises ValueError for another model's."""
    if wrong := [name for name in changed if name in (*DECIDING, "example")]:
        name = wrong[0]
        raise TypeError(f"load() takes no {name}=, since what was learned depends on it: wrap(model, {name}=...) anew")
    refuse_unknown_options(changed, [*SERVING, "probe_timeout", "runtime"], "load()")
    saved = saved_file.read(path)
    options = read_options(model, example=None, **{**saved.options, **changed})
    own = OwnCode(model, module_of(model)).fingerprint()
    for contract in saved.knowledge.contracts:
        foreign = "it does not say for which model" if contract.model is None else own.difference(contract.model)
        if foreign:
            raise ValueError(
                f"{os.fspath(path)} is not for this {options.name}: {foreign}. wrap(model) learns it anew, and save() "
                "writes that"
            )
    return _bounded(saved.knowledge, changed.get("max_batch")), options


def _bounded(knowledge: Knowledge, most: int | None) -> Knowledge:
    """With batches of at most that many rows."""
    if most is None:
        return knowledge

    def bounded(batch: tuple[int, int]) -> tuple[int, int]:
        return min(batch[0], most), min(batch[1], most)

    kinds = [
        replace(kind, outcome=replace(kind.outcome, batch=bounded(kind.outcome.batch)))
        if isinstance(kind.outcome, Proven)
        else kind
        for kind in knowledge.kinds
    ]
    return Knowledge(tuple(kinds), bounded(knowledge.batch))
