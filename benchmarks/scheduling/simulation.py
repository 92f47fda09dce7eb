"""The scheduling on simulated time, with recorded cost curves: `python -m benchmarks.scheduling.simulation`.

The core's own queues, policies and scheduler run; only models, threads and time are simulated (cpp/lab/simulator).
Alone it extrapolates a recorded curve to many workers: throughput, p50 and p99 of what torchpool learns, beside fixed
batches with a fixed delay, and how fairly two predictors share the workers while one is flooded.
"""

import argparse
import random
from collections.abc import Sequence
from typing import Any

import torchpool_lab

Curve = dict[int, dict[int, dict[int, float]]]  # by cores, length and rows: seconds

# Milliseconds of a batch of so many short texts on one core and on two, as MiniLM's graph took on an AMD EPYC.
SHORT_TEXTS: Curve = {
    1: {1: {1: 2.3e-3, 2: 3.6e-3, 4: 6.3e-3, 8: 11.6e-3, 16: 22.6e-3, 32: 45.0e-3}},
    2: {1: {1: 1.5e-3, 2: 2.2e-3, 4: 3.7e-3, 8: 6.6e-3, 16: 12.6e-3, 32: 25.0e-3}},
}
FIXED = {"fixed 32, 10 ms": (32, 0.010), "fixed 10, 10 ms": (10, 0.010), "fixed 8, no delay": (8, 0.0)}
SWEEP = [(rows, delay) for rows in (1, 2, 4, 8, 16, 32, 64) for delay in (0.0, 0.001, 0.005)]
POLICIES = {"learned": None} | {f"fixed {rows}, {delay * 1e3:g} ms": (rows, delay) for rows, delay in SWEEP}


def recorded(cost: Sequence[dict[str, Any]], several: int) -> Curve:
    """The curve of a predictor's stats()["cost"], `several` being the cores of a lone batch. Lengths are put together,
    weighted by how often they came: arrivals are simulated with one length."""
    weights: dict[tuple[int, int], float] = {}
    sums: dict[tuple[int, int], float] = {}
    for point in cost:
        key = (1 if point["one_core"] else several, point["rows"])
        weights[key] = weights.get(key, 0.0) + point["batches"]
        seconds = point["seconds_per_cell"] * point["rows"] * point["length"] * _fill(point["length"])
        sums[key] = sums.get(key, 0.0) + point["batches"] * seconds
    curve: Curve = {}
    for (cores, rows), total in sorted(sums.items()):
        if weights[cores, rows] >= 4:  # fewer say little
            curve.setdefault(cores, {1: {}})[1][rows] = total / weights[cores, rows]
    return curve


def _fill(length: int) -> float:
    """How long an average row of a size class is, as a part of the longest: classes are powers of two."""
    return 0.75 if length > 2 else 1.0


def predictor(
    cost: Curve,
    *,
    fixed: tuple[int, float] | None = None,
    max_delay: float = 0.0,
    first_rows: int = 8,
    weight: float = 1.0,
) -> dict[str, Any]:
    """What torchpool_lab.simulate takes for one predictor."""
    return {
        "cost": cost,
        "fixed": fixed,
        "max_delay": max_delay,
        "first_rows": first_rows,
        "max_rows": 1024,
        "queue_rows": 1 << 30,
        "weight": weight,
    }


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def latencies(found: dict[str, Any]) -> list[float]:
    return [ended for end, _, ended in found["outcomes"] if end == "succeeded"]


def one_run(workers: int, given: dict[str, Any], arrivals: Sequence[float], deadline: float = 0.0) -> dict[str, Any]:
    calls = [(at, 0, 1, 0, 0, deadline) for at in arrivals]
    found: dict[str, Any] = torchpool_lab.simulate(workers, 1, [given], calls)
    return found


def compare_policies(cost: Sequence[dict[str, Any]], traces: Sequence[Sequence[float]], workers: int) -> dict[str, Any]:
    """p99 of the learned policy and of the best of all policies, over the same arrivals."""
    curve = recorded(cost, workers)

    def p99(**options: Any) -> float:
        runs = [one_run(workers, predictor(curve, **options), trace) for trace in traces]
        return min(percentile(latencies(run), 0.99) for run in runs)

    found = {name: p99(fixed=fixed) for name, fixed in POLICIES.items()}
    best = min(found, key=lambda name: found[name])
    return {"best": best, "p99": found[best], "learned": found["learned"], "policies": found}


def poisson(rate: float, count: int, seed: int) -> list[float]:
    draw = random.Random(seed)
    at, arrivals = 0.0, []
    for _ in range(count):
        at += draw.expovariate(rate)
        arrivals.append(at)
    return arrivals


def throughput(workers: int, given: dict[str, Any], count: int) -> float:
    """Calls a second when all are there from the start."""
    return count / float(one_run(workers, given, [0.0] * count)["seconds"])


def extrapolate(curve: Curve, workers: int, calls: int) -> list[tuple[str, float, float, float, float, float]]:
    """Per policy: throughput, then p50 and p99 at 30 % and 70 % of the learned policy's."""
    policies: dict[str, dict[str, Any]] = {"learned": predictor(curve)}
    policies |= {name: predictor(curve, fixed=fixed) for name, fixed in FIXED.items()}
    top = throughput(workers, policies["learned"], calls)
    rows = []
    for name, given in policies.items():
        times: list[float] = []
        for share in (0.3, 0.7):
            done = latencies(one_run(workers, given, poisson(share * top, calls, 1)))
            times += [percentile(done, 0.50), percentile(done, 0.99)]
        rows.append((name, throughput(workers, given, calls), times[0], times[1], times[2], times[3]))
    return rows


def beside_a_flood(curve: Curve, workers: int, calls: int) -> tuple[float, float, float]:
    """p99 of a predictor with few calls: alone, and while another one always has work; and the time of one batch."""
    rate = 0.05 * throughput(workers, predictor(curve), calls)
    arrivals = poisson(rate, calls // 10, 3)
    alone = one_run(workers, predictor(curve), arrivals)
    flood = [(at, 1, 1, 0, 0, 0.0) for at in poisson(30 * rate, 3 * calls, 4) if at < arrivals[-1]]
    both = sorted([(at, 0, 1, 0, 0, 0.0) for at in arrivals] + flood)
    found = torchpool_lab.simulate(workers, 1, [predictor(curve), predictor(curve)], both)
    quiet = [
        ended
        for (end, _, ended), call in zip(found["outcomes"], both, strict=True)
        if call[1] == 0 and end == "succeeded"
    ]
    flooding = [took for which, _, _, _, took, _, _ in found["batches"] if which == 1]
    return percentile(latencies(alone), 0.99), percentile(quiet, 0.99), percentile(flooding, 0.5)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", nargs="+", type=int, default=[2, 8, 64])
    parser.add_argument("--calls", type=int, default=20_000)
    args = parser.parse_args()
    for workers in args.workers:
        print(f"\n{workers} workers: calls/s, then p50 / p99 at 30 % and 70 % of the learned policy's throughput")
        for name, top, *times in extrapolate(SHORT_TEXTS, workers, args.calls):
            shown = "".join(f"{1e3 * t:>9.2f} ms" for t in times)
            print(f"  {name:20}{top:>9.0f}{shown}")
        alone, beside, batch = beside_a_flood(SHORT_TEXTS, workers, args.calls)
        print(
            f"  a quiet predictor's p99: {1e3 * alone:.2f} ms alone, {1e3 * beside:.2f} ms beside a flood "
            f"whose batches take {1e3 * batch:.2f} ms"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
