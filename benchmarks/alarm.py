"""What the alarm costs a proven model: `python -m benchmarks.alarm`.

Two predictors of one model take the same calls by map in turn, one with the alarm's share of the time (`verify=`, by
default a hundredth) and one with none. Rounds alternate in one process; what counts is the median of the ratios, round
by round.
"""

import statistics
import time

import torch

import torchpool
from benchmarks.harness.fresh import in_fresh_process
from benchmarks.harness.models import build
from benchmarks.harness.wanted import Figure, report

WANTED_COST = 0.01
ROUNDS = 60
CALLS = 2000


class Classifier(torch.nn.Module):
    """An LSTM over 50 steps, and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = torch.nn.LSTM(10, 64, batch_first=True)
        self.linear = torch.nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, (hidden, _) = self.lstm(x)
        result: torch.Tensor = self.linear(hidden[-1])
        return result


def measure() -> dict[str, float]:
    """The median ratio of a round with the alarm to the next without, less one; rows looked at; rows in all."""
    model = build(Classifier).requires_grad_(False)
    calls = [torch.randn(1, 50, 10, generator=torch.Generator().manual_seed(i)) for i in range(CALLS)]
    with torchpool.wrap(model) as watched, torchpool.wrap(model, verify=0.0) as bare:
        for predictor in (watched, bare):
            predictor(calls[0])
            predictor.ready()
            list(predictor.map(calls))

        def seconds(predictor: torchpool.Predictor) -> float:
            start = time.perf_counter()
            for _ in predictor.map(calls):
                pass
            return time.perf_counter() - start

        ratios = []
        for number in range(ROUNDS):  # neither always runs first
            order = (watched, bare) if number % 2 else (bare, watched)
            times = {predictor: seconds(predictor) for predictor in order}
            ratios.append(times[watched] / times[bare])
        return {
            "cost": statistics.median(ratios) - 1,
            "looked_at": watched.stats()["verified_rows"],
            "rows": (ROUNDS + 1) * CALLS,
        }


def main() -> None:
    """Prints the figures."""
    found = in_fresh_process(measure)
    print(f"{found['looked_at']:,.0f} of {found['rows']:,.0f} rows were run alone, too")
    form = "{:.2f} %"
    report([Figure("the alarm's cost, of the time of a run", 100 * found["cost"], 100 * WANTED_COST, form=form)])


if __name__ == "__main__":
    main()
