"""Our own linear layers beside oneDNN's: `python -m benchmarks.kernels.linear`.

The four shapes of MiniLM's layers at several numbers of rows, on one thread. Cold: copies of the weights are taken in
turn that together do not fit into the caches, as a model's layers are; hot: one weight again and again. Contenders
alternate copy by copy; the best processor time of each over all rounds counts, since others may run beside. The limit
is a loop of fused products over registers, measured in the same run. Own kernels are run as torchpool's operator,
oneDNN's with weights packed as the graph backend packs them, and addmm as a plain nn.Linear runs.

Without AVX512, on a processor that has it: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 TORCHPOOL_ISA=avx2
"""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torchpool_lab

from benchmarks.harness import machine
from benchmarks.harness.wanted import Figure, report, share
from torchpool import _core

SHAPES = ((1152, 384), (384, 384), (1536, 384), (384, 1536))  # outputs and inputs: qkv, out, up, down
ROWS = (1, 4, 13, 104, 464)
WANTED = {"avx2": {1: 1.7, 4: 1.7, 13: 1.3, 104: 1.15, 464: 1.1}, "avx512": dict.fromkeys(ROWS, 1.0)}
WANTED_OF_PEAK = {"avx2": 0.75, "avx512": math.nan}
COLD_BYTES = 64 << 20
CONTENDERS = ("own", "oneDNN", "addmm")
Run = Callable[[Any], object]


def _layers(n: int, k: int, copies: int) -> dict[str, list[Run]]:
    own, one_dnn = torch.ops.torchpool.linear.default, torch.ops.mkldnn._linear_pointwise.default
    layers: dict[str, list[Run]] = {name: [] for name in CONTENDERS}
    for _ in range(copies):
        weight, bias = torch.randn(n, k) / k**0.5, torch.randn(n)
        turned = weight.t()
        packed = torch.ops.torchpool.pack_linear(weight, bias)
        reordered = torch.ops.mkldnn._reorder_linear_weight(weight)
        layers["own"].append(lambda x, w=packed: own(x, w, n))
        layers["oneDNN"].append(lambda x, w=reordered, b=bias: one_dnn(x, w, b, "none", [], ""))
        layers["addmm"].append(lambda x, w=turned, b=bias: torch.addmm(b, x, w))
    return layers


def best_times(runs: dict[str, list[Run]], x: Any, rounds: int) -> dict[str, float]:
    """Seconds of the fastest call of each. All alternate, a copy of the weights at a time."""
    best = dict.fromkeys(runs, math.inf)
    for _ in range(rounds + 1):  # the first has oneDNN compile
        for calls in zip(*runs.values(), strict=True):
            for name, call in zip(runs, calls, strict=True):
                start = time.thread_time()
                call(x)
                best[name] = min(best[name], time.thread_time() - start)
    return best


def _epilogues(n: int, k: int) -> dict[str, list[Run]]:
    """The same product alone and with what may follow it."""
    own = torch.ops.torchpool.linear.default
    packed, gain = torch.ops.torchpool.pack_linear(torch.randn(n, k) / k**0.5, torch.randn(n)), torch.rand(n)
    residual = torch.randn(max(ROWS), n)

    def norm(x: torch.Tensor) -> object:
        return own(x, packed, n, "none", residual[: len(x)], "layer", gain, gain, 1e-5)

    return {
        "none": [lambda x: own(x, packed, n)],
        "gelu": [lambda x: own(x, packed, n, "gelu")],
        "residual + norm": [norm],
    }


def measure(rounds: int, rows: Sequence[int]) -> tuple[dict[tuple[str, int], list[float]], dict[str, float], float]:
    """How many times as fast as oneDNN own kernels are, per shape; what epilogues cost; the share of the peak at 104
    rows, over all shapes."""
    isa = _core.linear_isa()
    peak = torchpool_lab.fma_peak(isa)
    faster: dict[tuple[str, int], list[float]] = {}
    speeds: list[float] = []
    for heat in ("cold", "hot"):
        print(f"\n{heat} weights, GFLOP/s of one thread (own / oneDNN / addmm)")
        print("  " + " " * 12 + "".join(f"{f'{count} rows':>20}" for count in rows))
        for n, k in SHAPES:
            copies = max(2, COLD_BYTES // (4 * n * k)) if heat == "cold" else 1
            layers = _layers(n, k, copies)
            cells = []
            for count in rows:
                enough = max(2, rounds * 24 // copies) if count < 104 else max(2, rounds * 12 // copies)
                best = best_times(layers, torch.randn(count, k), enough)
                gflops = {name: 2e-9 * count * n * k / seconds for name, seconds in best.items()}
                faster.setdefault((heat, count), []).append(best["oneDNN"] / best["own"])
                if heat == "cold" and count == 104:
                    speeds.append(gflops["own"])
                cells.append(" / ".join(f"{gflops[name]:.0f}" for name in CONTENDERS))
            print(f"  {f'{n}x{k}':12}" + "".join(f"{cell:>20}" for cell in cells), flush=True)
    extra: dict[str, list[float]] = {}
    for n, k in SHAPES:
        best = best_times(_epilogues(n, k), torch.randn(104, k), rounds * 40)
        for name, seconds in best.items():
            extra.setdefault(name, []).append(seconds / best["none"])
    peak = max(peak, torchpool_lab.fma_peak(isa))
    print(f"\nfused products of registers: {peak:.0f} GFLOP/s")
    return faster, {name: mean(values) for name, values in extra.items()}, mean(speeds) / peak


def mean(values: Sequence[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values)) if values else math.nan


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    isa = _core.linear_isa()
    print(f"{machine.describe()['cpu']}, own kernels: {isa}, ATen: {torch.backends.cpu.get_cpu_capability()}")
    with torch.inference_mode():
        faster, extra, of_peak = measure(options.rounds, options.rows)
    wanted = WANTED.get(isa, {})
    figures = [
        Figure(
            f"{heat}, {count} rows: own / oneDNN, mean over the shapes",
            mean(values),
            wanted.get(count, math.nan) if heat == "cold" else math.nan,
            at_least=True,
        )
        for (heat, count), values in faster.items()
    ]
    figures.append(
        share("104 rows, cold: share of the fused products' speed", of_peak, WANTED_OF_PEAK.get(isa, math.nan))
    )
    for name, limit in (("gelu", 1.10), ("residual + norm", 1.15)):
        figures.append(Figure(f"104 rows: time with {name}, of that without", extra[name], limit))
    return report(figures)


if __name__ == "__main__":
    raise SystemExit(main())
