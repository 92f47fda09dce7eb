"""The tables of `benchmarks.serving`, and where torchpool is ahead or not."""

import math
from collections.abc import Sequence
from typing import Any

from benchmarks.harness.wanted import Figure

LABELS = {
    "echo": "echo, no model",
    "torchpool": "torchpool, acall",
    "batched": "batched, 32 / 5 ms",
    "batched-32": "batched, 32 / 10 ms",
    "ray": "Ray Serve, 10 / 10 ms",
    "ray-32": "Ray Serve, 32, tuned",
    "litserve": "LitServe, 32 / 10 ms",
}
KEPT_UP = 0.95  # of the calls that came in: a layer that answers fewer a second falls behind


def _load(layer: dict[str, Any], rate: float) -> dict[str, Any] | None:
    return next((load for load in layer.get("loads", ()) if load["rate"] == rate), None)


def _row(load: dict[str, Any] | None, capacity: float) -> str:
    if load is None:
        return f"not asked: it serves {capacity:.0f}/s at most"
    times = "".join(f"{load[key] * 1e3:>9.2f} ms" for key in ("p50", "p99", "p99_late"))
    note = "" if not load["errors"] else f"  {load['errors']} of {load['calls']} failed: {load['messages'][0]}"
    return f"{load['calls_per_second']:>8.0f}{times}{load['cpu_share']:>8.0%}{load['largest_difference']:>11.1e}{note}"


def table(found: dict[str, Any], in_flight: int) -> str:
    """One model's; `losses` explains the columns."""
    if "failure" in found:
        return f"  failed: {found['failure']}"
    layers = found["layers"]
    lines = [f"  {in_flight} calls in flight{'':>4}{'calls/s':>10}"]
    for name, layer in layers.items():
        reached = f"failed: {layer['failure']}" if "failure" in layer else f"{layer['capacity']:>10.0f}"
        lines.append(f"  {LABELS[name]:24}{reached}")
    for rate in found["rates"]:
        head = f"{rate:.0f} calls/s come in"
        columns = f"{'calls/s':>8}{'p50':>12}{'p99':>12}{'late p99':>12}{'CPU':>8}{'difference':>11}"
        lines.append(f"\n  {head:24}{columns}")
        lines += [
            f"  {LABELS[name]:24}{_row(_load(layer, rate), layer['capacity'])}"
            for name, layer in layers.items()
            if "failure" not in layer
        ]
    return "\n".join(lines)


def figures(model: str, found: dict[str, Any], peers: Sequence[str]) -> list[Figure]:
    """torchpool as a part of the best other layer: no less of the rate, no more of the latencies."""
    layers = {name: layer for name, layer in found["layers"].items() if "failure" not in layer}
    if "torchpool" not in layers:
        return [Figure(f"{model}: torchpool", math.nan, 1.0)]
    ours = layers["torchpool"]
    others = {name: layers[name] for name in peers if name in layers}
    if not others:
        return [Figure(f"{model}: other layers", math.nan, 1.0)]
    best = max(others, key=lambda name: others[name]["capacity"])
    ratio = ours["capacity"] / others[best]["capacity"]
    made = [Figure(f"{model}: calls/s / best other's, {LABELS[best]}", ratio, 1.0, at_least=True)]
    for rate in found["rates"]:
        mine = _load(ours, rate)
        loads = {name: load for name, layer in others.items() if (load := _load(layer, rate)) and _kept_up(load)}
        if not loads:
            continue  # torchpool alone can serve it
        what = f"{model} at {rate:.0f}/s"
        if mine is None or not _kept_up(mine):
            made.append(Figure(f"{what}: loads that torchpool keeps up with", 0.0, 1.0, at_least=True, form="{:.0f}"))
            continue
        for key in ("p50", "p99"):
            best = min(loads, key=lambda name: loads[name][key])
            ratio = mine[key] / loads[best][key]
            made.append(Figure(f"{what}: {key} / best other's, {LABELS[best]}", ratio, 1.0))
    return made


def _kept_up(load: dict[str, Any]) -> bool:
    arrived = load["calls"] / load["span"]
    return bool(load["errors"] == 0 and load["calls_per_second"] >= KEPT_UP * arrived)


def losses(all_figures: Sequence[Figure]) -> str:
    lines = [
        "late p99: from when a call was due to when the event loop made it; CPU: of one core, by the process that",
        "calls, with the model where it runs there; difference: largest max|d| / max|eager| of all answers",
        "",
    ]
    lost = [figure for figure in all_figures if figure.good is False]
    unknown = [figure for figure in all_figures if figure.good is None]
    lines += [f"torchpool loses: {figure.what}: {figure.reached:.2f}" for figure in lost]
    lines += [f"not compared: {figure.what} failed" for figure in unknown]
    if not lost and not unknown:
        lines.append(f"torchpool is ahead of every other layer in all {len(all_figures)} comparisons")
    return "\n".join(lines)
