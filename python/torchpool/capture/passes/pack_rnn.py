"""Puts our own kernel in the place of ATen's recurrent layers, with weights packed for it."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch.fx import GraphModule, Node

from torchpool.capture.graph_edit import bound_arguments, calls, foldable, value_of

_aten = torch.ops.aten
_KINDS: dict[Any, str] = {_aten.lstm.input: "lstm", _aten.gru.input: "gru", _aten.rnn_tanh.input: "rnn_tanh"}
# Weights of more units do not stay in a core's cache from step to step, and reading them is all that counts.
_MOST_UNITS = 512


def run(module: GraphModule) -> int:
    """LSTM, GRU and tanh RNN in float32 with constant weights, as far as the kernel has been measured to be faster."""
    if torch.ops.torchpool.isa() == "portable":
        return 0
    graph = module.graph
    constants = foldable(graph)
    count = 0
    for node in calls(graph, *_KINDS):
        given = bound_arguments(node)
        states = list(given["hx"]) if isinstance(given["hx"], list | tuple) else [given["hx"]]
        if not _served(given, states, constants):
            continue
        kind, hidden = _KINDS[node.target], value_of(states[0]).shape[-1]
        picks = [user for user in node.users if user.target is operator.getitem]
        with graph.inserting_before(node):
            sizes = (kind, given["has_biases"], given["num_layers"], given["bidirectional"])
            packed = graph.call_function(torch.ops.torchpool.pack_rnn.default, (given["params"], *sizes))
            first = [None if _is_zero(state) else state for state in states]
            layer = graph.call_function(
                torch.ops.torchpool.rnn.default,
                (
                    given["input"], first[0], first[1] if len(first) > 1 else None, packed, None, kind, hidden,
                    given["num_layers"], given["bidirectional"], given["batch_first"],
                    any(_place(pick) == 0 for pick in picks),
                ),
            )  # fmt: skip
        layer.meta["val"] = value_of(node)
        for pick in picks:
            pick.args = (layer, _place(pick))
        graph.erase_node(node)
        count += 1
    if count:
        graph.eliminate_dead_code()  # the zeros
    return count


def _served(given: dict[str, Any], states: list[Any], constants: set[Node]) -> bool:
    values = [value_of(one) for one in (given["input"], *states, *given["params"])]
    if not all(isinstance(one, torch.Tensor) and one.dtype == torch.float32 and one.is_cpu for one in values):
        return False
    if not all(weight in constants for weight in given["params"]) or given["input"] in constants:
        return False
    if given["train"] and given["dropout"] and given["num_layers"] > 1:
        return False
    units = values[1].shape[-1]
    projected = len({state.shape[-1] for state in values[1 : 1 + len(states)]}) > 1
    each = len(given["params"]) // (given["num_layers"] * (2 if given["bidirectional"] else 1))
    return not projected and units <= _MOST_UNITS and each == (4 if given["has_biases"] else 2)


def _place(pick: Node) -> int:
    """Which result of its layer a node picks, counted from the first."""
    layer, place = pick.args
    assert isinstance(place, int)
    return place % len(value_of(layer))


def _is_zero(state: Node) -> bool:
    """Whether it is the state that a layer makes where none is given; nobody else has it, who could write to it."""
    return state.target is _aten.zeros.default and all(user.target in _KINDS for user in state.users)
