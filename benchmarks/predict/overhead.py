"""What torchpool itself costs an item: `python -m benchmarks.predict.overhead`.

A model that gives back what it takes, so that all time is overhead: by `map`, by `submit` in bursts, awaited in a
`gather`, and called alone, beside a plain loop over the same items. And an LSTM from 32 threads of the user's own,
beside one thread that calls the plain model. What is compared takes turns in one process, medians of the rounds count.
"""

import asyncio
import statistics
import sys
import threading
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import torchpool
from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.models import LSTMClassifier, build
from benchmarks.harness.wanted import Figure, report

ITEMS = 1_000
ROUNDS = 25
LSTM_ROUNDS = 7
THREADS = 32

Ways = dict[str, Callable[[], object]]


class Identity(nn.Module):
    """Gives back what it takes."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def _medians(ways: Ways, rounds: int) -> dict[str, float]:
    """Microseconds an item, of each way."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 3):
        for name, run in ways.items():
            start = time.perf_counter()
            run()
            if number >= 3:
                times[name].append((time.perf_counter() - start) / ITEMS * 1e6)
    return {name: statistics.median(found) for name, found in times.items()}


def overhead() -> dict[str, float]:
    """Of the model that computes nothing."""
    model = Identity().eval()
    xs = [torch.randn(1, 16) for _ in range(ITEMS)]
    with torchpool.wrap(model) as predict:
        predict(xs[0])
        predict.ready()

        async def gather() -> None:
            await asyncio.gather(*[predict.acall(x) for x in xs])

        return _medians({
            "plain": lambda: [model(x) for x in xs],
            "map": lambda: list(predict.map(xs)),
            "alone": lambda: [predict(x) for x in xs],
            "submit": lambda: [future.result() for future in [predict.submit(x) for x in xs]],
            "gather": lambda: asyncio.run(gather()),
        }, ROUNDS)  # fmt: skip


def _in_threads(call: Callable[[Tensor], Tensor], xs: list[Tensor]) -> None:
    def work(number: int) -> None:
        with torch.no_grad():
            for x in xs[number::THREADS]:
                call(x)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _sequences() -> list[Tensor]:
    return [torch.randn(1, 50, 10) for _ in range(ITEMS)]


def plain_loop() -> float:
    """Of the LSTM, one thread: where others have computed before, torch's own calls may take ten times as long."""
    model, xs = build(LSTMClassifier), _sequences()

    def loop() -> None:
        with torch.no_grad():
            for x in xs:
                model(x)

    return _medians({"loop": loop}, LSTM_ROUNDS)["loop"]


def many_threads() -> dict[str, float]:
    """Of the LSTM."""
    model, xs = build(LSTMClassifier), _sequences()
    with torchpool.wrap(model) as predict, torch.no_grad():
        predict(xs[0])
        predict.ready()
        return _medians({
            "plain": lambda: _in_threads(model, xs),
            "wrapped": lambda: _in_threads(predict, xs),
        }, LSTM_ROUNDS)  # fmt: skip


def main() -> int:
    """Prints the figures."""
    found, loop, lstm = in_fresh_process(overhead), in_fresh_process(plain_loop), in_fresh_process(many_threads)
    print(f"a plain call of the model that computes nothing: {found['plain']:.2f} us; of the LSTM: {loop:.0f}")
    print(f"the LSTM from {THREADS} threads, plain: {lstm['plain']:.0f} us an item")
    return report([
        Figure("map, us an item", found["map"], 2),
        Figure("a lone call more than a plain one, us", found["alone"] - found["plain"], 5),
        Figure(f"submit and result, bursts of {ITEMS:,}, us an item", found["submit"], 6),
        Figure(f"awaited, a gather of {ITEMS:,}, us an item", found["gather"], 15),
        Figure(f"the LSTM, {THREADS} threads, us an item", lstm["wrapped"], float("nan")),
        Figure("  the same as a part of one thread's plain loop", lstm["wrapped"] / loop, 1),
    ])  # fmt: skip


if __name__ == "__main__":
    sys.exit(main())
