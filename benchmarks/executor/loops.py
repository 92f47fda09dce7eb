"""Models in loops under torchpool.ThreadPoolExecutor: `python -m benchmarks.executor.loops [lstm short documents]`.

On the LSTM, `executor.map(predict, xs)` beside `predict.map(xs)`: in one process, where they share the workers, passes
alternating; the standard loop costs what 2,000 hand-overs cost, twenty times the model's own time. On texts, the body
that tokenises and calls the wrapped MiniLM, 32 of it overlapping on 4 threads, beside the naive pool with the plain
model; each in a process of its own, interleaved, outputs compared with the plain loop's.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

from benchmarks.harness.compare import compare
from benchmarks.harness.contenders import NAIVE, OVERLAP32
from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.wanted import Figure, report
from benchmarks.harness.workloads import load, relative_difference

MAP = "lstm"
MAP_ROUNDS = 15
MAP_WANTED = 1.10
TEXT_ROUNDS = {"short": 5, "documents": 3}
TEXT_WANTED = {"short": 3.0, "documents": 1.6}
TOLERANCE = 1e-5


def _seconds(run: Callable[[], list[Any]], expected: list[Any]) -> float:
    start = time.perf_counter()
    outputs = run()
    seconds = time.perf_counter() - start
    if len(outputs) != len(expected):
        raise RuntimeError(f"{len(outputs)} outputs of {len(expected)} inputs")
    pairs = zip(outputs, expected, strict=True)
    if (worst := max(relative_difference(y, reference) for y, reference in pairs)) > TOLERANCE:
        raise RuntimeError(f"an output differs by {worst:.1e}")
    return seconds


def maps(rounds: int) -> dict[str, list[float]]:
    """Seconds of each pass, of the executor's map and of the predictor's."""
    import torch

    import torchpool

    work = load(MAP)
    xs = work.items
    with torch.inference_mode():
        expected = [work.model(x) for x in xs]
    with torchpool.wrap(work.model, **work.wrap_options) as predict:

        def by_executor() -> list[Any]:
            with torchpool.ThreadPoolExecutor(4) as executor:
                return list(executor.map(predict, xs))

        runs: dict[str, Callable[[], list[Any]]] = {"executor": by_executor, "predictor": lambda: list(predict.map(xs))}
        predict.ready()
        for run in runs.values():
            _seconds(run, expected)
        passes: dict[str, list[float]] = {name: [] for name in runs}
        for number in range(rounds):
            for name in list(runs)[:: -1 if number % 2 else 1]:
                passes[name].append(_seconds(runs[name], expected))
    return passes


def _texts(workload: str, rounds: int) -> dict[str, Any]:
    results = compare(workload, ["plain", NAIVE, OVERLAP32], rounds)
    for result in results.values():
        if result.failure:
            raise RuntimeError(result.failure)
    return {
        "seconds_per_item": {name: result.best for name, result in results.items()},
        "largest_difference": results[OVERLAP32].difference,
    }


def measure(names: Sequence[str] = (MAP, *TEXT_ROUNDS), rounds: int | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in names:
        if name == MAP:
            found[name] = in_fresh_process(maps, rounds or MAP_ROUNDS)
        else:
            found[name] = _texts(name, rounds or TEXT_ROUNDS[name])
    return found


def figures(found: dict[str, Any]) -> list[Figure]:
    result = []
    for name, of_name in found.items():
        if name == MAP:
            ratio = min(of_name["executor"]) / min(of_name["predictor"])
            result.append(Figure("LSTM: executor.map(predict, xs), in predict.map(xs)", ratio, MAP_WANTED))
            continue
        times = of_name["seconds_per_item"]
        what = f"{name}: TPE(4, overlap=32), wrapped, to the naive pool"
        result.append(Figure(what, times[NAIVE] / times[OVERLAP32], TEXT_WANTED[name], at_least=True, form="{:.2f} x"))
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="name", help=f"of {', '.join((MAP, *TEXT_ROUNDS))}")
    parser.add_argument("--rounds", type=int, help="the same number of rounds for all")
    args = parser.parse_args()
    if unknown := set(args.names) - {MAP, *TEXT_ROUNDS}:
        parser.error(f"no such loop: {', '.join(sorted(unknown))}")
    return report(figures(measure(args.names or (MAP, *TEXT_ROUNDS), args.rounds)))


if __name__ == "__main__":
    raise SystemExit(main())
