"""Linear layers whose weights are stored in less than fp32: `python -m benchmarks.kernels.storage`.

Own kernels with weights in fp32, bf16, fp16 and int8, and the library's in fp32 and bf16, over the four shapes of
MiniLM's layers at several numbers of rows, on one thread. Cold, hot and the order of contenders are as in
`benchmarks.kernels.linear`. The library's bf16 is given inputs in bf16, as it would have them in a model of that dtype.

Without AVX512, on a processor that has it: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 TORCHPOOL_ISA=avx2
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence

import torch

from benchmarks.harness import machine
from benchmarks.harness.wanted import Figure, report
from benchmarks.kernels.linear import COLD_BYTES, ROWS, SHAPES, Run, best_times, mean
from torchpool import _core

STORED = ("bf16", "fp16", "int8")
LIBRARY = {"oneDNN fp32": torch.float32}
if torch.ops.mkldnn._is_mkldnn_bf16_supported():
    LIBRARY["oneDNN bf16"] = torch.bfloat16
MOST = 1.05  # of the time of fp32, that bf16 may take at any number of rows


def _layers(n: int, k: int, copies: int) -> dict[str, list[Run]]:
    own, one_dnn = torch.ops.torchpool.linear.default, torch.ops.mkldnn._linear_pointwise.default
    layers: dict[str, list[Run]] = {name: [] for name in ("fp32", *STORED, *LIBRARY)}
    for _ in range(copies):
        weight, bias = torch.randn(n, k) / k**0.5, torch.randn(n)
        for storage in ("fp32", *STORED):
            packed = torch.ops.torchpool.pack_linear(weight, bias, False, storage)
            layers[storage].append(lambda x, w=packed: own(x[0], w, n))
        for which, (name, dtype) in enumerate(LIBRARY.items()):
            reordered = torch.ops.mkldnn._reorder_linear_weight(weight.to(dtype))
            added = bias.to(dtype)
            layers[name].append(lambda x, w=reordered, b=added, i=which: one_dnn(x[i], w, b, "none", [], ""))
    return layers


def measure(rounds: int, rows: Sequence[int]) -> dict[tuple[str, str, int], list[float]]:
    """The time of each contender as a part of own fp32's, by heat and number of rows, for each shape."""
    shares: dict[tuple[str, str, int], list[float]] = {}
    for heat in ("cold", "hot"):
        for n, k in SHAPES:
            copies = max(2, COLD_BYTES // (4 * n * k)) if heat == "cold" else 1
            layers = _layers(n, k, copies)
            for count in rows:
                x = torch.randn(count, k)
                enough = max(2, rounds * 24 // copies) if count < 104 else max(2, rounds * 12 // copies)
                best = best_times(layers, (x, x.bfloat16()), enough)
                for name, seconds in best.items():
                    shares.setdefault((heat, name, count), []).append(seconds / best["fp32"])
    return shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{machine.describe()['cpu']}, own: {_core.linear_isa()}, ATen: {torch.backends.cpu.get_cpu_capability()}")
    with torch.inference_mode():
        shares = measure(options.rounds, options.rows)
    print("\ntime, as a part of own fp32's (mean over the shapes; in brackets the worst of them)")
    print("| weights, rows | " + " | ".join(("own bf16", "own fp16", "own int8", *LIBRARY)) + " |")
    print("|---|" + "---|" * (len(STORED) + len(LIBRARY)))
    for heat in ("cold", "hot"):
        for count in options.rows:
            cells = [
                f"{mean(shares[heat, name, count]):.2f} ({max(shares[heat, name, count]):.2f})"
                for name in (*STORED, *LIBRARY)
            ]
            print(f"| {heat}, {count} | " + " | ".join(cells) + " |")
    print()
    return report(
        [
            Figure(f"{heat}, {count} rows: time with bf16 weights, of that with fp32", mean(values), MOST)
            for (heat, name, count), values in shares.items()
            if name == "bf16" and not math.isnan(values[0])
        ]
    )


if __name__ == "__main__":
    raise SystemExit(main())
