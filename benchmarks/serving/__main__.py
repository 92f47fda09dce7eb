"""torchpool beside other serving layers on the same model and load: `python -m benchmarks.serving`.

Each layer runs in processes of its own, one after another, twice: first as fast as calls are answered with 256 always
waiting; then, when all of these rates are known, also under Poisson arrivals (one seeded trace for all) at the same
absolute rates, 30 % and 70 % of what the best other layer and of what torchpool can serve. A layer is not asked for a
rate that it cannot serve. All calls come from one event loop (uvloop) in the process that has the layer's client, and
torchpool and `batched` run in that process too. Latency counts from when a call was due. All answers are compared with
the model's own.

One replica of the model each, with torch's own threads on every core for all but torchpool, which has its own. Ray
Serve is called through a DeploymentHandle and needs no HTTP, without an access log, with its defaults and, tuned,
in batches of 32 and its mode for throughput; LitServe gets base64 in JSON over connections that are
kept alive. "echo" has no model: it is what the generator itself costs.
"""

import argparse
import json
import sys
import time
from functools import partial
from importlib import metadata
from typing import Any

from benchmarks.harness import machine
from benchmarks.harness.parts import Parts, measure
from benchmarks.serving.load import IN_FLIGHT
from benchmarks.serving.model import MODELS, TITLES
from benchmarks.serving.process import ask, missing
from benchmarks.serving.report import figures, losses, table

LAYERS = ("echo", "torchpool", "batched", "batched-32", "ray", "ray-32", "litserve")
PEERS = LAYERS[2:]
SHARES = (0.3, 0.7)  # of a capacity
REACHABLE = 0.9  # of a layer's own capacity: a rate above it is not asked of the layer
WARM, CAPACITY, LOAD = 1.0, 2.0, 3.0  # seconds
SEED = 11
PACKAGES = ("torch", "ray", "litserve", "batched", "uvloop")


def attempt(model: str, layer: str, wanted: dict[str, Any]) -> dict[str, Any]:
    """What was measured, or why it was not."""
    if reason := missing(layer):
        return {"failure": reason}
    started = time.perf_counter()
    try:
        found = ask(model, layer, wanted)
    except RuntimeError as error:
        found = {"failure": str(error)}
    seconds = time.perf_counter() - started
    print(f"  {model}: {layer} {found.get('failure', 'measured')} ({seconds:.0f} s)", file=sys.stderr, flush=True)
    return found


def rates(capacities: dict[str, float]) -> list[float]:
    """Calls a second, ascending; those that are about the same are asked once."""
    best = max((capacities[layer] for layer in PEERS if layer in capacities), default=0.0)
    wanted = sorted(share * top for top in (best, capacities.get("torchpool", 0.0)) for share in SHARES if top)
    return [rate for i, rate in enumerate(wanted) if i == 0 or rate > 1.2 * wanted[i - 1]]


def measure_model(name: str, seconds: float = LOAD) -> dict[str, Any]:
    """Every layer's capacity in calls a second, and what it did under each load that it can serve."""
    plan = {"warm_seconds": WARM, "capacity_seconds": CAPACITY, "load_seconds": seconds, "seed": SEED}
    layers = {layer: attempt(name, layer, {**plan, "rates": []}) for layer in LAYERS}
    capacities = {layer: found["capacity"] for layer, found in layers.items() if "failure" not in found}
    asked = rates(capacities)
    for layer, top in capacities.items():
        again = attempt(name, layer, {**plan, "rates": [rate for rate in asked if rate <= REACHABLE * top]})
        if "failure" not in again:
            again["capacity"] = max(top, again["capacity"])
        layers[layer] = again
    return {"rates": asked, "layers": layers}


def versions() -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    return found


def part(name: str, seconds: float = LOAD) -> tuple[dict[str, Any], list[Any]]:
    """One model's measurements and figures, as `benchmarks.harness.parts` wants them."""
    found = measure_model(name, seconds)
    found["versions"] = versions()
    return found, figures(name, found, PEERS)


PARTS: Parts = {name: partial(part, name) for name in MODELS}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--seconds", type=float, default=LOAD, help="of each load")
    parser.add_argument("--json", action="store_true", help="print all that was measured instead of tables")
    args = parser.parse_args()

    started = time.perf_counter()
    described = machine.describe()
    parts = {name: partial(part, name, args.seconds) for name in args.models}
    found, all_figures = measure(parts, args.models)
    if args.json:
        print(json.dumps({"machine": described, "serving": found}, indent=2))
    else:
        print(
            f"{described['cpu']}, {described['cores_usable']} cores, load {described['load_at_start']:.1f} at the start"
        )
        print(", ".join(f"{package} {version or 'missing'}" for package, version in versions().items()))
        for name in args.models:
            print(f"\n{TITLES[name]}\n{table(found[name], IN_FLIGHT)}")
        print(f"\n{losses(all_figures)}\n{time.perf_counter() - started:.0f} s in all")
    failed = any("failure" in layer for model in found.values() for layer in model.get("layers", {"": model}).values())
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
