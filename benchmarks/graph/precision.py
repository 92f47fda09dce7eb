"""Models in less than float32: `python -m benchmarks.graph.precision`.

The graph of each model in each mode runs the same batches, on one thread. Modes alternate batch by batch; the best
processor time of each over all rounds counts, since others may run beside. The error is what explain() tells of the
examples: root mean square, as a part of the outputs'. Memory is that of the packed weights.

Without AVX512, on a processor that has it: ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 TORCHPOOL_ISA=avx2
"""

from __future__ import annotations

import argparse
import itertools
import math
import re
import time
from typing import Any

import torch
from torch import nn

import torchpool
from benchmarks.harness import machine
from benchmarks.harness.models import LSTMClassifier, SimpleCNN, build, load_minilm
from benchmarks.harness.wanted import Figure, report
from torchpool import _core

MODES: dict[str, dict[str, Any]] = {
    "float32": {},
    "dtype=bfloat16": {"dtype": torch.bfloat16},
    "dtype=float16": {"dtype": torch.float16},
    'weights="bf16"': {"weights": "bf16"},
    'weights="int8"': {"weights": "int8"},
}
BF16 = ("dtype=bfloat16", 'weights="bf16"')
MOST = 1.05  # of the time of float32


class Perceptron(nn.Module):
    """[B, 1024] to [B, 4096], by 50 MB of weights."""

    def __init__(self) -> None:
        super().__init__()
        sizes = (1024, 4096, 1024, 4096)
        layers = [layer for k, n in itertools.pairwise(sizes) for layer in (nn.Linear(k, n), nn.ReLU())]
        self.layers = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.layers(x)
        return out


def _texts(rows: int, length: int) -> dict[str, torch.Tensor]:
    ids = torch.randint(1000, 20000, (rows, length))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


def _cases() -> list[tuple[str, nn.Module, list[Any], dict[str, list[torch.Tensor]]]]:
    """Name, model, examples, and batches by what they are called."""
    minilm = load_minilm()[1]
    texts = {f"{rows} x {length}": list(_texts(rows, length).values()) for rows, length in ((1, 13), (8, 13), (8, 58))}
    perceptron = {f"{rows}": [torch.randn(rows, 1024)] for rows in (1, 4, 16, 128)}
    lstm = {f"{rows} x 50": [torch.randn(rows, 50, 10)] for rows in (1, 32)}
    cnn = {f"{rows}": [torch.randn(rows, 1, 28, 28)] for rows in (1, 16)}
    return [
        ("MiniLM", minilm, [_texts(1, 13), _texts(1, 29)], texts),
        ("MLP", build(Perceptron), [torch.randn(1, 1024)], perceptron),
        ("LSTM", build(LSTMClassifier), [torch.randn(1, 50, 10)], lstm),
        ("CNN", build(SimpleCNN), [torch.randn(1, 1, 28, 28)], cnn),
    ]


def _graph(model: nn.Module, examples: list[Any], options: dict[str, Any]) -> tuple[torchpool.Predictor, Any, float]:
    """A predictor, its graph, and the bytes of its weights."""
    before = _core.packed_weights()[1]
    predict = torchpool.wrap(model, example=examples, backend="graph", prove="trust", **options)
    found = next(iter(predict._graphs.captured.values()))  # type: ignore[union-attr]
    found.backend.run(_leaves(examples[0]))
    return predict, found.backend, _core.packed_weights()[1] - before


def _leaves(example: Any) -> list[torch.Tensor]:
    return list(example.values()) if isinstance(example, dict) else [example]


def _told(predict: torchpool.Predictor) -> str:
    text = str(predict.explain())
    if (found := re.search(r"weights: (\w+) in (\d+) of (\d+) .* by (\S+) % \(root", text)) is not None:
        return f"{found[1]} in {found[2]} of {found[3]} layers, {found[4]} %"
    if (
        found := re.search(r"computed in torch\.(\w+): differs by \S+ of the largest value, (\S+) on", text)
    ) is not None:
        return f"products of {found[1]}, {100 * float(found[2]):.2g} % of the largest value on average"
    return "float32"


def measure(rounds: int) -> list[Figure]:
    """Prints a table; the figures are the times of bf16 as a part of float32's."""
    figures = []
    for name, model, examples, batches in _cases():
        made = {mode: _graph(model, examples, options) for mode, options in MODES.items()}
        best = {(mode, batch): math.inf for mode in made for batch in batches}
        for turn in range(rounds + 1):
            for batch, leaves in batches.items():
                for mode, (_, backend, _) in made.items():
                    start = time.thread_time()
                    backend.run(leaves)
                    spent = time.thread_time() - start
                    if turn:
                        best[mode, batch] = min(best[mode, batch], spent)
        print(f"\n| {name} | " + " | ".join(batches) + " | weights | what serves, error |")
        print("|---|" + "---|" * (len(batches) + 2))
        for mode, (predict, _, size) in made.items():
            shares = {batch: best[mode, batch] / best["float32", batch] for batch in batches}
            cells = [
                f"{1e3 * best[mode, batch]:.3g} ms" if mode == "float32" else f"{shares[batch]:.2f}"
                for batch in batches
            ]
            print(f"| {mode} | " + " | ".join(cells) + f" | {size / 1e6:.3g} MB | {_told(predict)} |", flush=True)
            if mode in BF16:
                figures += [
                    Figure(f"{name}, {batch}: time with {mode}, of that in float32", shares[batch], MOST)
                    for batch in batches
                ]
        for predict, _, _ in made.values():
            predict.close()
    return figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"{machine.describe()['cpu']}, own: {_core.linear_isa()}, ATen: {torch.backends.cpu.get_cpu_capability()}")
    with torch.inference_mode():
        figures = measure(options.rounds)
    print()
    return report(figures)


if __name__ == "__main__":
    raise SystemExit(main())
