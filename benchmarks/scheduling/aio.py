"""What awaited calls cost an event loop: `python -m benchmarks.scheduling.aio`.

10,000 at once in asyncio.gather unless it says otherwise. Loop time is CPU time of the
loop's thread, per call; wall time counts what the workers do as well. Beside it stand what asyncio alone needs (for
coroutines that return at once, and for those that each await a future), and the standard way, run_in_executor with
threads that call the model. Passes alternate, and the best of each counts. uvloop is measured where it is installed.
"""

import asyncio
import gc
import importlib.util
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

import torchpool
from benchmarks.harness.models import LSTMClassifier, build
from benchmarks.harness.wanted import Figure, report

CALLS = 10_000
ROUNDS = 5
EXECUTOR_CALLS, EXECUTOR_THREADS = 2_000, 4
LOOPS = 4  # in threads of their own
WANTED_US = 12.0

Main = Callable[[], Coroutine[Any, Any, int]]  # makes its calls and returns how many


@dataclass
class Cost:
    """Seconds per call, of each pass."""

    loop: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


def run_on(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Main) -> tuple[float, float, int]:
    """CPU seconds of this thread, and seconds, that main() takes on a loop of its own; how many calls it made."""

    async def measured() -> tuple[float, float, int]:
        await asyncio.sleep(0)
        gc.collect()
        start, cpu = time.perf_counter(), time.thread_time()
        count = await main()
        return time.thread_time() - cpu, time.perf_counter() - start, count

    with asyncio.Runner(loop_factory=new_loop) as runner:
        return runner.run(measured())


def run_on_threads(new_loop: Callable[[], asyncio.AbstractEventLoop], main: Main) -> tuple[float, float, int]:
    """The same on LOOPS threads at a time: CPU seconds and calls of all."""
    results: list[tuple[float, float, int]] = []
    threads = [threading.Thread(target=lambda: results.append(run_on(new_loop, main))) for _ in range(LOOPS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if len(results) != LOOPS:
        raise RuntimeError("a loop failed")
    cpu, walls, counts = zip(*results, strict=True)
    return sum(cpu), max(walls), sum(counts)


def gathering(count: int, call: Callable[[], Awaitable[Any]]) -> Main:
    async def main() -> int:
        await asyncio.gather(*[call() for _ in range(count)])
        return count

    return main


async def returning() -> None:
    pass


async def parked() -> int:
    """The least that coroutines cost which wait: a future each, all done at once."""
    loop = asyncio.get_running_loop()
    futures: list[asyncio.Future[None]] = []

    async def wait() -> None:
        future = loop.create_future()
        futures.append(future)
        await future

    def finish() -> None:
        for future in futures:
            future.set_result(None)

    waiting = asyncio.gather(*[wait() for _ in range(CALLS)])
    loop.call_later(0.05, finish)
    await waiting
    return CALLS


def in_executor(executor: ThreadPoolExecutor, model: nn.Module, x: Tensor) -> Main:
    def call() -> Tensor:
        with torch.no_grad():
            result: Tensor = model(x)
        return result

    return gathering(EXECUTOR_CALLS, lambda: asyncio.get_running_loop().run_in_executor(executor, call))


def mapping(predict: torchpool.Predictor, x: Tensor) -> Main:
    async def main() -> int:
        count = 0
        async for _ in predict.amap([x] * CALLS):
            count += 1
        return count

    return main


def measure() -> dict[str, Cost]:
    """By what was measured; those whose names start with "acall" are to reach the figure."""
    inputs = {"Linear": (nn.Linear(10, 3), torch.randn(1, 10)), "LSTM": (LSTMClassifier, torch.randn(1, 50, 10))}
    plain = asyncio.new_event_loop
    passes: dict[str, Callable[[], tuple[float, float, int]]] = {
        "asyncio alone: return at once": lambda: run_on(plain, gathering(CALLS, returning)),
        "asyncio alone: await a future": lambda: run_on(plain, parked),
    }
    if importlib.util.find_spec("uvloop"):
        import uvloop

        passes["uvloop alone: await a future"] = lambda: run_on(uvloop.new_event_loop, parked)
    with ThreadPoolExecutor(EXECUTOR_THREADS) as executor:
        predictors = []
        for name, (made, x) in inputs.items():
            model = build(made) if isinstance(made, type) else made.eval()
            predict = torchpool.wrap(model, example=x, name=name)
            predict.ready(60)
            predictors.append(predict)
            call = gathering(CALLS, lambda predict=predict, x=x: predict.acall(x))  # type: ignore[misc]
            share = gathering(CALLS // LOOPS, lambda predict=predict, x=x: predict.acall(x))  # type: ignore[misc]
            mapped, standard = mapping(predict, x), in_executor(executor, model, x)
            passes[f"acall, {name}"] = lambda call=call: run_on(plain, call)  # type: ignore[misc]
            passes[f"acall, {name}, {LOOPS} loops"] = lambda share=share: run_on_threads(plain, share)  # type: ignore[misc]
            if importlib.util.find_spec("uvloop"):
                passes[f"acall, {name}, uvloop"] = lambda call=call: run_on(uvloop.new_event_loop, call)  # type: ignore[misc]
            passes[f"amap, {name}"] = lambda mapped=mapped: run_on(plain, mapped)  # type: ignore[misc]
            passes[f"run_in_executor, {name}"] = lambda standard=standard: run_on(plain, standard)  # type: ignore[misc]
        costs = {name: Cost() for name in passes}
        for number in range(ROUNDS + 1):
            for name, run in passes.items():
                cpu, wall, count = run()
                if number > 0:  # the first pass warms up
                    costs[name].loop.append(cpu / count)
                    costs[name].wall.append(wall / count)
        for predict in predictors:
            predict.close()
    return costs


def describe_found(costs: dict[str, Cost]) -> str:
    lines = [f"{'us per call, best and worst pass':36}{'loop time':>20}{'wall time':>20}"]
    for name, cost in costs.items():
        loop, wall = (f"{min(times) * 1e6:.2f} .. {max(times) * 1e6:.2f}" for times in (cost.loop, cost.wall))
        lines.append(f"{name:36}{loop:>20}{wall:>20}")
    return "\n".join(lines)


def figures(costs: dict[str, Cost]) -> list[Figure]:
    return [
        Figure(f"{name}: us of loop time per call", min(cost.loop) * 1e6, WANTED_US)
        for name, cost in costs.items()
        if name.startswith("acall")
    ]


def main() -> int:
    costs = measure()
    print(describe_found(costs))
    return report(figures(costs))


if __name__ == "__main__":
    raise SystemExit(main())
