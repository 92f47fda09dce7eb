"""Whether train mode may change what a module computes.

A module that was left in train mode is refused where that changes results; many have no part that it could change.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from torchpool.contract.reached import codes_in

# What code that asks for the mode, or passes it on, has among its names.
_ASKS = frozenset(
    {"training", "is_training", "dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout"}
    | {"feature_alpha_dropout", "rrelu", "batch_norm", "instance_norm"}
)
# These set the mode.
_SETTERS = ("__init__", "train", "eval")
# Of a library's own classes it is known, or none asks for the mode: of a graph, which has its own, nor of int8 layers.
_LIBRARIES = ("torch.nn", "torch.ao", "torch.fx")


def mode_matters(module: nn.Module) -> bool:
    """Whether some part of the module is in train mode and may compute something else than in eval mode.

    Of torch's own layers it is known, and of scripts it is seen on their graphs. Of others their classes' code is
    searched for names that ask for the mode; helper functions are not followed.
    """
    return any(_part_matters(part) for part in module.modules() if getattr(part, "training", False))


def mode_surely_matters(module: nn.Module) -> bool:
    """Whether one of torch's own layers is in train mode that computes something else then."""
    return any(_layer_matters(part) for part in module.modules() if getattr(part, "training", False))


def statistics(part: nn.Module) -> list[torch.Tensor]:
    """The buffers in which a layer of torch's that is in train mode counts each call; a training loop may use it, too,
    so that none may change even for a moment."""
    if not isinstance(part, _NormBase) or not part.training or not part.track_running_stats:
        return []
    return [buffer for buffer in part._buffers.values() if buffer is not None]


def _part_matters(part: nn.Module) -> bool:
    if isinstance(part, torch.jit.ScriptModule):
        return _script_matters(part)
    if _layer_matters(part):
        return True
    if type(part).__module__.startswith("torch.nn.modules"):
        return False  # its parts are looked at, each by itself
    return any(_ASKS & set(names) for cls in type(part).__mro__ for names in _names_in(cls))


def _layer_matters(part: nn.Module) -> bool:
    if isinstance(part, _DropoutNd):
        return part.p > 0
    if isinstance(part, nn.RReLU):
        return True
    if isinstance(part, _NormBase):
        return isinstance(part, nn.modules.batchnorm._BatchNorm) or part.track_running_stats
    if isinstance(part, nn.RNNBase | nn.MultiheadAttention):
        return bool(part.dropout > 0)
    return False


def _script_matters(part: torch.jit.ScriptModule) -> bool:
    """Of a script without its parts: whether a graph of it asks for the mode, and not for a dropout of 0."""
    graphs = [part._c._get_method(name).graph for name in part._c._method_names()]
    asks = any(
        node.s("name") == "training" for graph in graphs for node in graph.findAllNodes("prim::GetAttr", recurse=True)
    )
    rate = getattr(part, "p", getattr(part, "dropout", None))
    return asks and not (isinstance(rate, int | float) and rate == 0)


def _names_in(cls: type) -> Iterator[tuple[str, ...]]:
    """Of the code of a class of a user's: torch's own base classes ask for the mode wherever they keep it."""
    if cls.__module__.startswith(_LIBRARIES) or cls is object:
        return
    for name, member in vars(cls).items():
        function: Any = getattr(member, "__func__", member)
        if name not in _SETTERS and isinstance(function, types.FunctionType):
            yield from (code.co_names for code in codes_in(function.__code__))
