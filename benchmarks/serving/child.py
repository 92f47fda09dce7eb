"""One serving layer in a process of its own: `python -m benchmarks.serving.child MODEL LAYER`.

Reads one JSON object, what to measure, and writes one, what was measured.
"""

import asyncio
import gc
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

from benchmarks.scheduling.load import poisson
from benchmarks.serving.inprocess import Client, batched, echo, torchpool
from benchmarks.serving.litserve import litserve
from benchmarks.serving.load import TOLERANCE, Call, closed_loop, difference, open_loop
from benchmarks.serving.model import Served, load
from benchmarks.serving.ray import ray_serve

START = 30.0  # seconds

LAYERS: dict[str, Callable[[Served], AbstractContextManager[Client]]] = {
    "echo": echo,
    "torchpool": torchpool,
    "batched": batched,  # its defaults: 32, 5 ms
    "batched-32": partial(batched, batch_size=32, timeout_ms=10.0),
    "ray": ray_serve,  # its defaults: 10, 10 ms
    "ray-32": partial(ray_serve, max_batch_size=32, throughput=True),
    "litserve": litserve,
}


async def check(call: Call, served: Served) -> float:
    """The largest difference between the answers and those of each call alone, of all calls.

    ValueError where it is more than TOLERANCE, TimeoutError where an answer does not come within START seconds.
    """
    count = len(served.items)
    async with asyncio.timeout(START):
        answers = await asyncio.gather(*map(call, range(count)))
    worst = difference(list(enumerate(answers)), served.expected)
    if not worst <= TOLERANCE:
        raise ValueError(f"answers differ from the model's own by {worst:.1e} of the largest; expected {TOLERANCE:.0e}")
    return worst


async def measure(client: Client, served: Served, wanted: dict[str, Any]) -> dict[str, Any]:
    count = len(served.items)
    async with client as call:
        worst = await check(call, served)
        gc.collect()
        gc.freeze()  # a collection of everything that the libraries made would stop the loop for a tenth of a second
        await closed_loop(call, count, wanted["warm_seconds"])
        capacity = await closed_loop(call, count, wanted["capacity_seconds"])
        loads = []
        for rate in wanted["rates"]:
            arrivals = poisson(rate, wanted["load_seconds"], wanted["seed"])
            run = await open_loop(call, count, arrivals)
            loads.append({"rate": rate, **run.describe(served.expected)})
    return {"capacity": capacity, "largest_difference": worst, "loads": loads}


def main() -> None:
    import uvloop

    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    name, layer = sys.argv[1:]
    wanted = json.loads(sys.stdin.readline())
    served = load(name)
    with LAYERS[layer](served) as client:
        found = uvloop.run(measure(client, served, wanted))
        print(json.dumps(found), file=replies, flush=True)


if __name__ == "__main__":
    main()
