"""Attention without padding against ATen's on the padded batch.

`python -m benchmarks.kernels.attention`: times of both, in turn, the best of many calls. Ours has packed places. ATen's
has no mask where all texts are of one length, else a boolean one over keys. Without AVX512, on a processor that has it:
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 TORCHPOOL_ISA=avx2
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.harness import machine
from torchpool import _core

HEADS = 12
MIXED = [5, 9, 13, 20, 31, 58, 90, 180]
SHAPES = [[4] * 8, [13] * 8, [58] * 8, [128] * 2, [512], MIXED]


class Batch(NamedTuple):
    """Queries, keys and values as views of one product, as layers have them: [rows, heads, places, size]."""

    padded: list[Tensor]
    packed: list[Tensor]
    """[1, heads, packed places, size]"""
    mask: Tensor | None
    """Over keys; None where all lengths are equal."""
    offsets: Tensor


def batch_of(lengths: list[int], size: int) -> Batch:
    """Random numbers."""
    most = max(lengths)
    product = torch.randn(len(lengths), most, 3 * HEADS * size)
    offsets = torch.tensor([0, *lengths]).cumsum(0).int()
    padded, packed = (
        [part.unflatten(-1, (HEADS, size)).transpose(1, 2) for part in whole.chunk(3, -1)]
        for whole in (product, torch.ops.torchpool.pack_rows(product, offsets))
    )
    mask = torch.arange(most)[None] < torch.tensor(lengths)[:, None]
    return Batch(padded, packed, None if min(lengths) == most else mask[:, None, None, :], offsets)


def best_of(runs: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Processor seconds of the fastest call of each; they take turns call by call."""
    best = dict.fromkeys(runs, math.inf)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, run in runs.items():
            start = time.thread_time()
            run()
            best[name] = min(best[name], time.thread_time() - start)
    return best


def name_of(lengths: list[int]) -> str:
    """In words."""
    return f"{len(lengths)} x {lengths[0]}" if len(set(lengths)) == 1 else f"{min(lengths)} to {max(lengths)} mixed"


def compare(lengths: list[int], size: int, *, causal: bool, seconds: float) -> None:
    """Prints a line."""
    batch = batch_of(lengths, size)
    keys = None if batch.mask is None else torch.ops.torchpool.attention_keys(batch.mask)

    def own() -> Tensor:
        result: Tensor = torch.ops.torchpool.varlen_attention.default(
            *batch.packed, batch.mask, keys, causal, None, False, True, batch.offsets
        )
        return result

    def aten() -> Tensor:
        return F.scaled_dot_product_attention(*batch.padded, batch.mask, is_causal=causal)

    wanted = torch.ops.torchpool.pack_rows(aten().transpose(1, 2), batch.offsets).transpose(1, 2)
    off = (own() - wanted).abs().max().item()
    best = best_of({"own": own, "ATen": aten}, seconds)
    work = 4 * HEADS * size * sum(length * length for length in lengths) / (1 + causal)
    print(
        f"{size:4d}  {name_of(lengths) + (' causal' if causal else ''):20s} {best['own'] * 1e6:9.0f} "
        f"{best['ATen'] * 1e6:9.0f} {best['ATen'] / best['own']:6.2f} {work / best['own'] / 1e9:8.1f} {off:9.1e}",
        flush=True,
    )


def main() -> None:
    """Prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each shape")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--sizes", type=int, nargs="+", default=[32, 64])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    aten = torch.backends.cpu.get_cpu_capability()
    print(f"{machine.describe()['cpu']}, kernel for {_core.linear_isa()}, ATen for {aten}")
    print(f"{HEADS} heads, {options.threads} threads, us a call, the best of {options.seconds:g} seconds")
    print(f"{'size':4s}  {'texts':20s} {'own':>9s} {'ATen':>9s} {'ratio':>6s} {'GFLOP/s':>8s} {'differ by':>9s}")
    with torch.inference_mode():
        for size in options.sizes:
            for lengths in SHAPES:
                for causal in (False, True) if len(set(lengths)) == 1 else (False,):
                    compare(lengths, size, causal=causal, seconds=options.seconds)


if __name__ == "__main__":
    main()
