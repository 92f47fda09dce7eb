"""Rewrites of a captured graph that make it faster. Each pass is a file of its own, and can be left out by its name."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection

from torch.fx import GraphModule

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


def optimise(
    graph: Graph, *, without: Collection[str] = (), weights: str | None = None
) -> tuple[Graph, dict[str, int]]:
    """A rewritten copy of the graph, and the number of rewrites of each pass. `weights`: in what those of linear layers
    are to be stored, if not in fp32.

    It computes with packed copies of the weights; the graph itself stays as it is, for weights that keep changing.
    """
    unknown = sorted(set(without) - set(PASSES))
    if unknown:
        raise ValueError(f"no such passes: {unknown} (there are: {list(PASSES)})")
    module = copy_of(graph.module)
    if weights is not None:
        module.meta[own_linear.STORAGE] = weights
    counts = {name: run(module) for name, run in PASSES.items() if name not in without}
    module.graph.lint()
    module.recompile()
    return dataclasses.replace(graph, module=module), counts
