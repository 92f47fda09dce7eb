"""What of a kind's calls lies beside tensors, as far as batches that the module runs must heed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from torchpool.call import tree
from torchpool.contract.probe import context_variables, unshown
from torchpool.predictor.kinds import Kind


def look_beside(
    kind: Kind,
    target: Callable[..., Any],
    module: torch.nn.Module | None,
    spec: tree.TreeSpec | None,
    run: Callable[[], Any],
    unproven: bool,
    by_module: bool,
) -> tree.TreeSpec | None:
    """Notes of the kind where values in its results come from, and which context variables the module may read; gives
    the structure of the results, where that is known.

    `run` makes a call of the kind. `unproven`: calls are to be merged without a proof; `by_module`: the module may run
    them.
    """
    kind.unshown = kind.context = None
    if unproven:
        if spec is None:
            spec = tree.flatten(run())[1]
        kind.unshown = unshown(target, module, spec, run)
    if unproven or by_module:
        kind.context = context_variables(target, module, run)
        kind.by_module = True
    return spec
