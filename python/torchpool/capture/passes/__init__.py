"""Rewrites of a captured graph that make it faster. Each pass is a file of its own, and can be left out by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

from torch.fx import GraphModule

from torchpool.capture import invariant
from torchpool.capture.export import Graph
from torchpool.capture.graph_edit import copy_of
from torchpool.capture.passes import (
    drop_dropout,
    drop_in_place,
    drop_no_ops,
    fold_batch_norm,
    fuse_linear,
    fuse_unary,
    merge_qkv,
    own_attention,
    own_linear,
    pack_convolution,
    pack_linear,
    pack_places,
    pack_rnn,
)
from torchpool.contract import Contract

PASSES: dict[str, Callable[[GraphModule], int]] = {
    "drop_dropout": drop_dropout.run,
    "drop_no_ops": drop_no_ops.run,
    "drop_in_place": drop_in_place.run,
    "fold_batch_norm": fold_batch_norm.run,
    "own_attention": own_attention.run,
    "pack_places": pack_places.run,
    "merge_qkv": merge_qkv.run,
    "own_linear": own_linear.run,
    "fuse_linear": fuse_linear.run,
    "pack_linear": pack_linear.run,
    "pack_convolution": pack_convolution.run,
    "pack_rnn": pack_rnn.run,
    "fuse_unary": fuse_unary.run,
}
"""By name, in the order in which they run; each returns how many rewrites it made."""


# Their kernels are chosen by measuring, or compute a row as the batch lets them.
_NOT_INVARIANT = frozenset({"pack_places", "pack_linear"})


def optimise(
    graph: Graph,
    *,
    without: Collection[str] = (),
    weights: str | None = None,
    invariant_for: Contract | None = None,
) -> tuple[Graph, dict[str, int]]:
    """A rewritten copy of the graph, and the number of rewrites of each pass. `weights`: in what those of linear layers
    are to be stored, if not in fp32. With `invariant_for`, the contract of its calls, a row's bits are the same in all
    batches of the copy; raises CaptureError where they cannot be.

    It computes with packed copies of the weights; the graph itself stays as it is, for weights that keep changing.
    """
    unknown = sorted(set(without) - set(PASSES))
    if unknown:
        raise ValueError(f"no such passes: {unknown} (there are: {list(PASSES)})")
    module = copy_of(graph.module)
    if weights is not None:
        module.meta[own_linear.STORAGE] = weights
    if invariant_for is not None:
        module.meta[invariant.WANTED] = True
        without = _NOT_INVARIANT.union(without)
    counts = {name: run(module) for name, run in PASSES.items() if name not in without}
    if invariant_for is not None:
        module.meta[invariant.TOLD] = invariant.mark(module, invariant_for, graph.rows.verdict)
    module.graph.lint()
    module.recompile()
    return dataclasses.replace(graph, module=module), counts
