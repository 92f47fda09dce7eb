"""What the graph interpreter spends on a node: `python -m benchmarks.graph.nodes`.

Chains of tiny operators on one element, of N and of 2N nodes, run through GraphBackend.run: the difference over N is
the time of a node, without what a run costs once. Beside it the same slope of eager calls, and that of the kernels as
such: torch's foreach functions loop over the same kernels in C++, in place, so that making a node's result counts as
the interpreter's. All alternate in one process; the best of many short blocks counts.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.wanted import Figure, report

NODES = 200
ROUNDS = 300
RUNS = 4  # of a block: short enough for some to be undisturbed on a busy machine
WANTED_US = 0.6


class Chain(nn.Module):
    """Operators that no pass fuses or drops."""

    def __init__(self, nodes: int) -> None:
        super().__init__()
        self.pairs = nodes // 2

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.pairs):
            x = x.neg().abs()
        return x


def _kernels(nodes: int) -> Callable[[], object]:
    many = list(torch.ones(nodes // 2, 1, 1).unbind())

    def run() -> None:
        torch._foreach_neg_(many)
        torch._foreach_abs_(many)

    return run


def _instructions(backend: Any) -> int:
    return sum(" = " in line for line in backend.text().splitlines())


def _block_us(run: Callable[[], object]) -> float:
    start = time.perf_counter_ns()
    for _ in range(RUNS):
        run()
    return (time.perf_counter_ns() - start) / RUNS / 1e3


def slopes() -> dict[str, float]:
    """Microseconds a node: of the graph, of eager calls and of the kernels as such."""
    import torchpool

    x = torch.ones(1, 1)
    runs: dict[tuple[str, int], Callable[[], object]] = {}
    sizes: dict[tuple[str, int], int] = {}
    for nodes in (NODES, 2 * NODES):
        chain = Chain(nodes).eval()
        predict = torchpool.wrap(chain, backend="graph", example=x)
        (captured,) = predict._graphs.captured.values()
        assert captured.backend is not None
        runs["graph", nodes] = lambda backend=captured.backend: backend.run([x])
        sizes["graph", nodes] = _instructions(captured.backend)
        runs["eager", nodes] = lambda chain=chain: chain(x)
        runs["kernels", nodes] = _kernels(nodes)
    best = dict.fromkeys(runs, float("inf"))
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for key, run in runs.items():
                best[key] = min(best[key], _block_us(run))
    found: dict[str, float] = {}
    for kind in ("graph", "eager", "kernels"):
        short, long = (kind, NODES), (kind, 2 * NODES)
        nodes = sizes.get(long, 2 * NODES) - sizes.get(short, NODES)
        found[f"{kind}_us"] = (best[long] - best[short]) / nodes
    return {"graph_nodes": sizes["graph", NODES], **found, "overhead_us": found["graph_us"] - found["kernels_us"]}


def measure() -> dict[str, float]:
    return in_fresh_process(slopes)


def figures(found: dict[str, float]) -> list[Figure]:
    nan = float("nan")
    return [
        Figure("us a node: graph, less the kernels as such", found["overhead_us"], WANTED_US),
        Figure("us a node: graph", found["graph_us"], nan),
        Figure("us a node: eager under inference_mode", found["eager_us"], nan),
        Figure("us a node: the kernels as such", found["kernels_us"], nan),
    ]


def main() -> int:
    return report(figures(measure()))


if __name__ == "__main__":
    raise SystemExit(main())
