"""The plain loop, thread pools and torchpool on every workload: `make demo` and `make bench`.

python -m benchmarks.run --demo      a few rounds, the table only
python -m benchmarks.run --json      more rounds, then benchmarks.graph, benchmarks.executor and benchmarks.scheduling,
                                     and a file under benchmarks/results/
"""

import argparse
import datetime
import json
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.executor import __main__ as pool
from benchmarks.graph import __main__ as graph
from benchmarks.harness import machine
from benchmarks.harness.compare import Result, compare
from benchmarks.harness.contenders import BASELINES, BENCH_ONLY, LABELS, NAIVE, TORCHPOOL, YARDSTICKS, offered
from benchmarks.harness.parts import measure
from benchmarks.harness.peers import PEERS
from benchmarks.harness.wanted import table as wanted_table
from benchmarks.harness.workloads import WORKLOADS
from benchmarks.scheduling import __main__ as scheduling

RESULTS = Path(__file__).parent / "results"
TITLES = {
    "lstm": "LSTMClassifier, 2,000 sequences of 1x50x10",
    "cnn": "SimpleCNN, 1,000 digits of 1x1x28x28",
    "documents": "MiniLM, 256 docstrings of the standard library",
    "short": "MiniLM, their first sentences of at most 60 characters",
}
SHORT_TITLES = {"lstm": "the LSTM", "cnn": "the CNN", "documents": "documents", "short": "short texts"}
BUSY_CORES = 0.5  # more than this, and the figures say little
# More rounds where a pass is quick; the whole demo should take under three minutes on two idle cores.
DEMO_ROUNDS = {"lstm": 4, "cnn": 4, "documents": 2, "short": 2}
BENCH_ROUNDS = {"lstm": 15, "cnn": 15, "documents": 7, "short": 9}


def duration(seconds: float) -> str:
    return f"{seconds * 1e3:.2f} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.1f} us"


def best_pool(results: dict[str, Result]) -> float:
    """Time per item of the best thread pool without torchpool, the naive one included."""
    times = [results[name].best for name in BASELINES if name != "plain" and name in results]
    return min((t for t in times if t == t), default=float("nan"))


class Table:
    """Prints a contender's row as soon as it is known; a terminal also sees what is under way."""

    HEAD = f"  {'':38}{'per item':>10}{'x naive':>9}{'x best':>9}{'difference':>12}{'peak RSS':>10}"

    def __init__(self) -> None:
        self._live = sys.stdout.isatty()
        print(self.HEAD, flush=True)

    def step(self, text: str) -> None:
        if self._live:
            print(f"\r  {text:<{len(self.HEAD)}}", end="", flush=True)

    def add(self, result: Result, results: dict[str, Result]) -> None:
        row = f"  {LABELS[result.contender]:38}"
        if result.failure:
            row += f"failed: {result.failure}"
        else:
            naive = results[NAIVE].best if NAIVE in results else float("nan")
            row += f"{duration(result.best):>10}{naive / result.best:>9.2f}{best_pool(results) / result.best:>9.2f}"
            row += f"{result.difference:>12.1e}{result.peak_rss_mb:>7.0f} MB"
        print(f"\r{row:<{len(self.HEAD) + 2}}" if self._live else row, flush=True)


def conclusion(reports: dict[str, dict[str, Result]]) -> str:
    """One sentence: how much faster `predict.map` is than the pool that people write, on each workload."""
    gains = []
    for workload, results in reports.items():
        naive, ours = results.get(NAIVE), results.get(TORCHPOOL[0])
        if naive is not None and ours is not None and not naive.failure and not ours.failure:
            gains.append(f"{naive.best / ours.best:.1f} times on {SHORT_TITLES[workload]}")
    if not gains:
        return ""
    listed = ", ".join(gains[:-1]) + (" and " if len(gains) > 1 else "") + gains[-1]
    return f"On this machine torchpool's map is faster than ThreadPoolExecutor(4).map with the plain model: {listed}."


def record(results: dict[str, Result], rounds: int) -> dict[str, object]:
    return {
        "rounds": rounds,
        "best_pool_seconds_per_item": best_pool(results),
        "contenders": {
            name: {
                "seconds_per_item": result.best,
                "all_passes": result.seconds_per_item,
                "largest_difference": result.difference,
                "peak_rss_mb": None if result.failure else round(result.peak_rss_mb),
                **({"failure": result.failure.splitlines()[0]} if result.failure else {}),
            }
            for name, result in results.items()
        },
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", action="store_true", help="few rounds, no file")
    parser.add_argument("--json", action="store_true", help="write benchmarks/results/<date>-<cpu>.json")
    parser.add_argument("--workloads", nargs="+", choices=WORKLOADS, default=WORKLOADS)
    parser.add_argument(
        "--contenders", nargs="+", choices=[name for name in LABELS if name not in (*PEERS, *YARDSTICKS)]
    )
    parser.add_argument("--parts", nargs="*", choices=graph.PARTS, help="of benchmarks.graph; with --json all of them")
    parser.add_argument(
        "--pool", nargs="*", choices=pool.PARTS, help="parts of benchmarks.executor; with --json all of them"
    )
    parser.add_argument("--rounds", type=int, help="the same number of rounds for every workload")
    parser.add_argument(
        "--scheduling",
        nargs="*",
        choices=scheduling.PARTS,
        help="parts of benchmarks.scheduling; with --json all of them",
    )
    args = parser.parse_args()

    described = machine.describe()
    print(f"{described['cpu']}, {described['cores_usable']} cores, torch {described['torch']}", flush=True)
    if (busy := machine.busy_cores()) > BUSY_CORES:
        print(f"warning: something else keeps {busy:.1f} cores busy: do not trust the figures below", flush=True)
    chosen = args.contenders or [*BASELINES, *TORCHPOOL, *(() if args.demo else BENCH_ONLY)]
    names = list(dict.fromkeys(["plain", *chosen]))
    report: dict[str, object] = {}
    measured: dict[str, dict[str, Result]] = {}
    failed = False
    started = time.perf_counter()
    for workload in args.workloads:
        rounds = args.rounds or (DEMO_ROUNDS if args.demo else BENCH_ROUNDS)[workload]
        print(f"\n{TITLES[workload]}  (best of {rounds})", flush=True)
        table = Table()
        contenders = [name for name in names if offered(name, workload)]
        results = compare(workload, contenders, rounds, on_step=table.step, on_result=table.add)
        measured[workload] = results
        report[workload] = record(results, rounds)
        failed |= any(result.failure for result in results.values())
    print("\nx naive, x best: times faster than TPE(4) naive, and than the best pool without torchpool")
    print("difference: largest max|d| / max|eager| over all items")
    reports: dict[str, dict[str, Any]] = {}
    for title, key, module, asked in (
        ("The graph backend, beside what is wanted of it", "graph", graph, args.parts),
        ("torchpool's executor beside the standard one", "executor", pool, args.pool),
        ("The scheduling, beside what is wanted of it", "scheduling", scheduling, args.scheduling),
    ):
        parts = asked if asked is not None else list(module.PARTS) if args.json else []
        reports[key] = {}
        if parts:
            print(f"\n{title}", flush=True)
            reports[key], figures = measure(module.PARTS, parts)
            print(wanted_table(figures))
            failed |= any("failure" in found for found in reports[key].values())
    print(f"{time.perf_counter() - started:.0f} s in all")
    if sentence := conclusion(measured):
        print(f"\n{sentence}")

    if args.json:
        today = datetime.date.today().isoformat()
        path = RESULTS / f"{today}-{machine.short_name()}.json"
        path.parent.mkdir(exist_ok=True)
        whole = {
            "date": today,
            "machine": described,
            "workloads": report,
            **reports,
        }
        path.write_text(json.dumps(whole, indent=2, default=vars) + "\n")
        print(f"written: benchmarks/results/{path.name}")
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
