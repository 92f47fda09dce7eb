"""A training loop in one thread beside threads that predict with the same model: what each does to the other.

Fused AdamW, whose steps leave no trace that torch counts, writes the weights while threads call the wrapped model.
Afterwards the same loop runs alone, for as many steps. Every weight and draw must then be the same bit for bit, no
prediction may have raised, and the model's flags must be as they were set.

    python -m benchmarks.predict.training [--seconds 60] [--threads 4]
"""

from __future__ import annotations

import argparse
import copy
import sys
import threading
import time
from dataclasses import dataclass, field

import torch
from torch import nn

import torchpool


class Net(nn.Module):
    """A classifier of 64 values, without dropout: what it computes does not depend on its mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(64, 256), nn.GELU(), nn.LayerNorm(256), nn.Linear(256, 256), nn.GELU(), nn.Linear(256, 10)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


@dataclass
class Trained:
    """What a loop did."""

    steps: int = 0
    drawn: list[float] = field(default_factory=list)
    """The first value of each batch, which comes from torch's global generator."""


def train(model: nn.Module, seed: int, *, seconds: float | None = None, steps: int | None = None) -> Trained:
    """For so many seconds or steps."""
    torch.manual_seed(seed)
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-3, fused=True)
    trained = Trained()
    ends = time.monotonic() + (seconds or 0.0)
    while trained.steps < steps if steps is not None else time.monotonic() < ends:
        x, y = torch.randn(32, 64), torch.randint(10, (32,))
        trained.drawn.append(float(x[0, 0]))
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimiser.step()
        trained.steps += 1
    return trained


@dataclass
class Predicted:
    """What one thread saw."""

    calls: int = 0
    errors: list[str] = field(default_factory=list)
    not_finite: int = 0


def predict_until(ended: threading.Event, predict: torchpool.Predictor, number: int, seen: Predicted) -> None:
    """Calls of one and of several rows, alone and mapped."""
    draws = torch.Generator().manual_seed(number)
    with torch.no_grad():
        while not ended.is_set():
            xs = [torch.randn(1 + number % 3, 64, generator=draws) for _ in range(4)]
            try:
                results = [predict(xs[0]), *predict.map(xs)]
            except Exception as error:
                seen.errors.append(f"{type(error).__name__}: {error}")
                continue
            seen.calls += len(results)
            seen.not_finite += sum(not bool(torch.isfinite(result).all()) for result in results)


def check(seconds: float, threads: int) -> list[str]:
    """What does not hold, in words."""
    torch.manual_seed(0)
    model = Net()
    alone = copy.deepcopy(model)
    flags = [part.training for part in model.modules()]
    predict = torchpool.wrap(model)
    ended, seen = threading.Event(), [Predicted() for _ in range(threads)]
    callers = [
        threading.Thread(target=predict_until, args=(ended, predict, number, one)) for number, one in enumerate(seen)
    ]
    for caller in callers:
        caller.start()
    beside = train(model, 1, seconds=seconds)
    ended.set()
    for caller in callers:
        caller.join()
    print(f"{beside.steps} steps beside {sum(one.calls for one in seen)} predictions in {seconds:.0f} s")
    print(predict.explain())
    before = time.monotonic()
    again = train(alone, 1, steps=beside.steps)
    print(f"the same {again.steps} steps alone: {time.monotonic() - before:.0f} s")
    wrong = [error for one in seen for error in one.errors][:3]
    pairs = zip(model.named_parameters(), alone.parameters(), strict=True)
    wrong += [f"weight {name} differs" for (name, ours), other in pairs if not torch.equal(ours, other)]
    other_draws = sum(one != other for one, other in zip(beside.drawn, again.drawn, strict=True))
    wrong += [f"{other_draws} other draws"] if other_draws else []
    wrong += ["flags were changed"] if flags != [part.training for part in model.modules()] else []
    wrong += ["results are not finite"] if any(one.not_finite for one in seen) else []
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=4)
    arguments = parser.parse_args()
    wrong = check(arguments.seconds, arguments.threads)
    print("\n".join(wrong) or "every weight, draw and flag is what the loop alone gives; no prediction raised")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
