"""Calls that arrive by chance, at a share of the capacity: `python -m benchmarks.scheduling.load [cnn short]`.

An open loop of Poisson arrivals (exponential gaps, seeded), submitted by a native thread of this process whose own time
is reported; latency counts from the scheduled arrival. Each load is served, on the same engine and in turns, by what
torchpool learns, by batches of a fixed size after a fixed delay (32 calls or 10 ms, as model servers have them), and by
the policy that is the best of many in simulation, which for one load on one model may well be a fixed one. Its p99 is
given as the simulator has it, for costs that are always the mean, and as it is on the engine. At 120 % of capacity
calls have deadlines; capacity is then the mean of what it was just before and just after.
"""

import argparse
import random
import time
from dataclasses import dataclass
from typing import Any

import torch
import torchpool_lab

from benchmarks.harness.wanted import Figure, report
from benchmarks.harness.workloads import load
from benchmarks.scheduling import simulation

FIXED = (32, 0.010)
DEADLINE = 0.2  # seconds
SECONDS = 1.6  # of a load
ROUNDS = {0.3: 2, 0.7: 2, 0.9: 1}  # of each load, as a share of capacity; the policies take turns
MODELS = ("cnn", "short")


@dataclass
class Loaded:
    """A predictor that has learned, and calls of it."""

    predict: Any
    calls: list[tuple[tuple[Any, ...], dict[str, Any] | None]]

    def run(self, arrivals: list[float], **options: Any) -> dict[str, Any]:
        found: dict[str, Any] = torchpool_lab.open_loop(self.predict._core, self.calls, arrivals, **options)
        return found


def prepare(name: str, **options: Any) -> Loaded:
    """Wrapped, captured, and with its arguments ready; texts are tokenised beforehand."""
    import torchpool

    work = load(name)
    predict = torchpool.wrap(work.model, **work.wrap_options, **options)
    calls: list[tuple[tuple[Any, ...], dict[str, Any] | None]] = []

    def keep(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append((args, kwargs or None))
        return torch.empty(0)

    for item in work.items:
        work.one(keep, item)
    list(work.bulk(predict, work.items[:32]))
    predict.ready()
    return Loaded(predict, calls)


def poisson(rate: float, seconds: float, seed: int) -> list[float]:
    """Arrival times of a Poisson process, in seconds."""
    draw = random.Random(seed)
    arrivals = []
    at = draw.expovariate(rate)
    while at < seconds:
        arrivals.append(at)
        at += draw.expovariate(rate)
    return arrivals


def percentile(values: list[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else float("nan")


def capacity(loaded: Loaded, seconds: float) -> float:
    """Calls a second that are served while a third more arrive, so that the generator runs as it does under load. Sizes
    are learned before, with a queue that is never empty."""
    rate = 200.0
    for _ in range(2):
        calls = max(64, int(rate * seconds))
        rate = calls / float(loaded.run([0.0] * calls, block=True)["seconds"])
    arrivals = poisson(rate * 4 / 3, seconds, 11)
    found = loaded.run(arrivals)
    ends = [
        at + took for at, took, status in zip(arrivals, found["latency"], found["status"], strict=True) if not status
    ]
    return sum(end <= seconds for end in ends) / seconds


def describe(found: dict[str, Any], seconds: float) -> dict[str, Any]:
    done = [t for t, status in zip(found["latency"], found["status"], strict=True) if status == 0]
    expired = [t for t, status in zip(found["latency"], found["status"], strict=True) if status == 1]
    return {
        "calls": len(found["latency"]),
        "succeeded": len(done),
        "per_second": len(done) / max(seconds, found["seconds"]),
        "p50": percentile(done, 0.50),
        "p99": percentile(done, 0.99),
        "longest": max(done + expired, default=float("nan")),
        "generator_share_of_a_core": found["generator_cpu_seconds"] / found["seconds"],
        "p99_late": percentile(found["late"], 0.99),
    }


def measure(name: str) -> dict[str, Any]:
    """One model under every load."""
    torch.set_num_threads(1)
    loaded = prepare(name)
    core = loaded.predict._core
    top = capacity(loaded, 1.0)
    loaded.run(poisson(0.3 * top, 1.0, 9))  # costs of small batches, for the simulator
    found: dict[str, Any] = {"capacity": top, "loads": {}, "simulated": {}}
    for share, rounds in ROUNDS.items():
        arrivals = [poisson(share * top, SECONDS, seed) for seed in range(rounds)]
        stats = loaded.predict.stats()
        simulated = simulation.compare_policies(stats["cost"], arrivals, workers=stats["workers"])
        policies = {"learned": None, "fixed": FIXED, "best": simulation.POLICIES[str(simulated["best"])]}
        rows: dict[str, list[dict[str, Any]]] = {policy: [] for policy in policies}
        for trace in arrivals:
            for policy, batches in policies.items():
                torchpool_lab.set_fixed_batches(core, batches)
                rows[policy].append(describe(loaded.run(trace), SECONDS))
        torchpool_lab.set_fixed_batches(core, None)
        # Of the rounds the better one of each: what else runs on the machine only adds.
        found["loads"][share] = {policy: min(tries, key=lambda one: one["p99"]) for policy, tries in rows.items()}
        # Once more, with the costs as they were meanwhile.
        cost = loaded.predict.stats()["cost"]
        found["simulated"][share] = simulation.compare_policies(cost, arrivals, workers=stats["workers"])
        found["simulated"][share]["run"] = simulated["best"]
    found["overload"] = overload(loaded)
    stats = loaded.predict.stats()
    found["longest_batch"] = stats["batch_seconds"]["p99"]
    found["cost"] = stats["cost"]
    loaded.predict.close()
    return found


def overload(loaded: Loaded) -> dict[str, Any]:
    """At 120 % of capacity, with deadlines."""
    before = capacity(loaded, 0.6)
    found = describe(loaded.run(poisson(1.2 * before, 2 * SECONDS, 7), deadline=DEADLINE), 2 * SECONDS)
    return found | {"capacity": (before + capacity(loaded, 0.6)) / 2}


def describe_found(name: str, found: dict[str, Any]) -> str:
    lines = [
        f"\n{name}: capacity {found['capacity']:.0f} calls/s",
        f"  {'load':8}{'policy':10}{'calls/s':>10}{'p50':>10}{'p99':>10}{'longest':>10}{'generator':>11}",
    ]

    def row(load: str, policy: str, one: dict[str, Any]) -> str:
        times = "".join(f"{one[key] * 1e3:>7.2f} ms" for key in ("p50", "p99", "longest"))
        return f"  {load:8}{policy:10}{one['per_second']:>10.0f}{times}{one['generator_share_of_a_core']:>10.1%}"

    for share, policies in found["loads"].items():
        lines += [row(f"{share:.0%}", policy, one) for policy, one in policies.items()]
        simulated = found["simulated"][share]
        ours, best = (f"{simulated[key] * 1e3:.2f} ms" for key in ("learned", "p99"))
        lines.append(
            f"  {'':8}best: {simulated['run']}; p99 simulated: learned {ours}, best {best} ({simulated['best']})"
        )
    lines.append(row("120%", f"{DEADLINE:g} s", found["overload"]))
    return "\n".join(lines)


def figures(name: str, found: dict[str, Any]) -> list[Figure]:
    made = []
    for share in (0.3, 0.7):
        loads = found["loads"][share]
        ratio = loads["learned"]["p99"] / loads["fixed"]["p99"]
        made.append(Figure(f"{name} at {share:.0%}: p99 as a part of fixed 32 / 10 ms", ratio, 0.7))
        ratio = loads["learned"]["p99"] / loads["best"]["p99"]
        made.append(Figure(f"{name} at {share:.0%}: p99 / simulator's best policy, on the engine", ratio, 1.15))
        ratio = loads["learned"]["p99"] / found["simulated"][share]["p99"]
        made.append(Figure(f"{name} at {share:.0%}: p99 / simulator's best policy, simulated", ratio, 1.15))
    over = found["overload"]
    goodput = over["per_second"] / over["capacity"]
    made.append(Figure(f"{name} at 120%: goodput / capacity", goodput, 0.95, at_least=True))
    late = (over["longest"] - DEADLINE) / found["longest_batch"]
    made.append(Figure(f"{name} at 120%: longest wait past the deadline, in batches", late, 1.0))
    return made


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS)
    all_figures: list[Figure] = []
    started = time.perf_counter()
    for name in parser.parse_args().models:
        found = measure(name)
        print(describe_found(name, found), flush=True)
        all_figures += figures(name, found)
    print(f"{time.perf_counter() - started:.0f} s in all")
    return report(all_figures)


if __name__ == "__main__":
    raise SystemExit(main())
