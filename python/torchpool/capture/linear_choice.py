"""Which kernel computes a linear layer: torchpool's own or the library's, as measured on this machine."""

from __future__ import annotations

import math
import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from torchpool import _core
from torchpool.capture.storage import FP32

OWN, ONEDNN, ATEN = "torchpool", "oneDNN", "ATen"
FEWEST_OUTPUTS = 16  # below, most of a panel would be computed in vain
# A call of oneDNN's costs about 10 us, whatever the size: smaller weights are faster through ATen.
WORTHWHILE = {torch.float32: 1 << 16, torch.bfloat16: 1 << 14}

# One kernel serves all batches of a weight, so that a row's bits do not depend on its batch.
_ROWS = (1, 48, 4, 16)
_SECONDS = 0.08  # of processor time, for a model; the last pass may take longer than what is left
_ROUNDS = 4  # the first of them has oneDNN compile
# As in a model whose weights do not fit into the caches: as many layers are taken in turn.
_BYTES = 12 << 20
_LARGEST = 4 << 20  # of one weight; a product takes its time per output
_NOISE = 1.05

Shape = tuple[int, int]
"""Outputs and inputs of a weight."""


@dataclass(frozen=True)
class LinearChoice:
    """The kernel that serves all weights of a shape."""

    outputs: int
    inputs: int
    kernel: str
    """torchpool, oneDNN or ATen."""
    times: tuple[tuple[int, float], ...] = ()
    """Per number of rows the time of torchpool's kernel, as a part of the other's. Empty where none was measured."""
    asked: str = FP32
    """In what weights were to be stored: fp32, bf16, fp16 or int8."""

    @property
    def shape(self) -> Shape:
        return self.outputs, self.inputs

    @property
    def storage(self) -> str:
        """In what weights are stored: the library takes fp32 only."""
        return self.asked if self.kernel == OWN else FP32


_known: dict[tuple[Shape, str], LinearChoice] = {}
"""What this process has measured, or was told by the children in which its models were captured."""
forced: str | None = os.environ.get("TORCHPOOL_LINEAR") or None
"""The kernel of all layers that it can compute: "torchpool", or "library" for oneDNN and ATen."""


def library_kernel(shape: Shape) -> str:
    """What computes an fp32 layer of the shape where our own kernel does not."""
    enough = shape[0] * shape[1] >= WORTHWHILE[torch.float32]
    return ONEDNN if enough and torch._C._has_mkldnn and torch.backends.mkldnn.enabled else ATEN


def learn(choices: Iterable[LinearChoice]) -> None:
    """Later captures of this process need not measure these shapes again."""
    if forced is None:
        _known.update(((choice.shape, choice.asked), choice) for choice in choices)


def choose(shapes: Mapping[Shape, int], storage: str = FP32) -> dict[Shape, LinearChoice]:
    """The kernels of fp32 layers, by shape; given is how many layers have it, and in what their weights are to be
    stored, which they are where our own kernel serves them. Raises ValueError where TORCHPOOL_LINEAR
    or TORCHPOOL_ISA is none of what it may be."""
    fit = {shape: count for shape, count in shapes.items() if shape[0] >= FEWEST_OUTPUTS}
    if forced is not None:
        if forced not in (OWN, "library"):
            raise ValueError(f"TORCHPOOL_LINEAR is {forced!r}: expected 'torchpool' or 'library', or leave it unset")
        return {shape: _fixed(shape, forced == OWN and shape in fit, storage) for shape in shapes}
    unknown = {shape: count for shape, count in fit.items() if (shape, storage) not in _known}
    if unknown:
        learn(_measured(unknown, storage))
    found = {shape: _known[shape, storage] if shape in fit else _fixed(shape, False) for shape in shapes}
    if storage != FP32 and (left := {shape: count for shape, count in fit.items() if found[shape].kernel != OWN}):
        found |= choose(left)  # as if nothing had been asked for
    return found


def always_own(shapes: Mapping[Shape, int], storage: str = FP32) -> dict[Shape, LinearChoice]:
    """As `choose`, where the kernel is to follow from the shape alone."""
    return {shape: _fixed(shape, True, storage) for shape in shapes}


def kernels_of_linear() -> str:
    """What there is to choose from here, in words."""
    return f"{forced or 'measured'} {_core.linear_isa()}"


def _fixed(shape: Shape, own: bool, storage: str = FP32) -> LinearChoice:
    return LinearChoice(*shape, OWN if own else library_kernel(shape), asked=storage)


def describe(counts: Mapping[LinearChoice, int]) -> str | None:
    """What computes the linear layers of a graph, in words; None where it has none. Given is how many layers."""
    if not counts:
        return None
    by_kernel: dict[str, int] = defaultdict(int)
    for choice, count in counts.items():
        by_kernel[_named(choice)] += count
    texts = [f"{count} by {kernel}" for kernel, count in sorted(by_kernel.items())]
    times = [dict(choice.times) for choice in counts if choice.times]
    means = {
        rows: math.exp(sum(math.log(time[rows]) for time in times) / len(times))
        for rows in sorted(_ROWS)
        if times and all(rows in time for time in times)
    }
    shares = ", ".join(f"{mean:.2f} at {rows} row{'s' * (rows > 1)}" for rows, mean in means.items())
    return f"linear layers: {', '.join(texts)}" + (f"; measured, of the library's time: {shares}" if means else "")


def _named(choice: LinearChoice) -> str:
    if choice.kernel != OWN:
        return choice.kernel
    stored = "" if choice.storage == FP32 else f", {choice.storage} weights"
    return f"{OWN} ({_core.linear_isa()}{stored})"


def _measured(shapes: Mapping[Shape, int], storage: str = FP32) -> list[LinearChoice]:
    """Both kernels over many layers in turn: one that is called again and again would find its weights in a cache."""
    end = time.thread_time() + _SECONDS
    best: dict[tuple[Shape, int, bool], float] = defaultdict(lambda: math.inf)
    with torch.inference_mode():
        layers = _layers(shapes, storage)
        inputs = {(k, rows): torch.full((rows, k), 0.5) for _, k in shapes for rows in _ROWS}
        for _ in range(_ROUNDS):
            for rows in _ROWS:
                for own in (True, False):
                    for shape, run in layers[own]:
                        start = time.thread_time()
                        run(inputs[shape[1], rows])
                        key = shape, rows, own
                        best[key] = min(best[key], time.thread_time() - start)
                if time.thread_time() > end:
                    return [_decided(shape, best, storage) for shape in shapes]
    return [_decided(shape, best, storage) for shape in shapes]


def _decided(shape: Shape, best: Mapping[tuple[Shape, int, bool], float], storage: str = FP32) -> LinearChoice:
    times = tuple(
        (rows, best[shape, rows, True] / best[shape, rows, False])
        for rows in sorted(_ROWS)
        if (shape, rows, True) in best
    )
    ratios = [ratio for _, ratio in times]
    # int8 is asked for to save memory, too: it need only be no slower on the whole.
    own = (storage == "int8" or max(ratios) <= _NOISE) and math.prod(ratios) <= 1
    return LinearChoice(*shape, OWN if own else library_kernel(shape), times, storage)


_Layers = list[tuple[Shape, Callable[[torch.Tensor], torch.Tensor]]]


def _layers(shapes: Mapping[Shape, int], storage: str) -> dict[bool, _Layers]:
    """Layers of all shapes in turn, as a model has them, with our own kernel and with the library's."""
    left = dict(shapes)
    makers = {shape: _makers(shape, storage) for shape in shapes}
    found: dict[bool, _Layers] = {True: [], False: []}
    size = 0
    while left and size < _BYTES:
        for shape in list(left):
            for own in (True, False):
                found[own].append((shape, makers[shape][own]()))
            size += 4 * _measured_outputs(shape) * shape[1]
            left[shape] -= 1
            if not left[shape]:
                del left[shape]
    return found


def _measured_outputs(shape: Shape) -> int:
    """Of a very large weight a part."""
    outputs, k = shape
    return min(outputs, max(64, _LARGEST // (4 * k) // 32 * 32))


def _makers(shape: Shape, storage: str) -> dict[bool, Callable[[], Callable[[torch.Tensor], torch.Tensor]]]:
    """What makes a layer of the shape with our own kernel and with the library's, each with a weight of its own."""
    own, other = torch.ops.torchpool.linear.default, torch.ops.mkldnn._linear_pointwise.default
    n = _measured_outputs(shape)
    weight, bias = torch.full((n, shape[1]), 0.01), torch.full((n,), 0.5)
    packed = torch.ops.torchpool.pack_linear(weight, bias, False, storage)

    def make_own() -> Callable[[torch.Tensor], torch.Tensor]:
        copy = packed.clone()
        return lambda x: own(x, copy, n)

    def make_other() -> Callable[[torch.Tensor], torch.Tensor]:
        if library_kernel(shape) == ONEDNN:
            reordered = torch.ops.mkldnn._reorder_linear_weight(weight)
            return lambda x: other(x, reordered, bias, "none", [], "")
        copy = weight.clone()
        return lambda x: torch.nn.functional.linear(x, copy, bias)

    return {True: make_own, False: make_other}
