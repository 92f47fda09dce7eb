"""64 threads at once, one call in a hundred poisoned: `python -m benchmarks.predict.stress [lstm cnn short]`.

Every result is compared with eager. Nothing may be lost; the poisoned calls must fail, and no others.
"""

import itertools
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import torch

import torchpool
from benchmarks.harness import data, models
from benchmarks.harness.workloads import relative_difference

THREADS = 64
POISON_EVERY = 100
TOLERANCE = 1e-5

Job = tuple[torch.nn.Module, dict[str, Any], list[dict[str, Any]], dict[str, Any], int]


def tensor_job(cls: type[torch.nn.Module], items: list[torch.Tensor], calls: int) -> Job:
    poison = items[0].clone()
    poison.view(-1)[0] = models.POISON
    model = models.Poisonable(models.build(cls)).eval()
    return model, {"example": items[0]}, [{"x": x} for x in items], {"x": poison}, calls


def text_job(calls: int) -> Job:
    tokenizer, model = models.load_minilm()
    encoded = [
        dict(tokenizer(text, truncation=True, max_length=256, return_tensors="pt")) for text in data.short_texts()
    ]
    poison = {name: value.clone() for name, value in encoded[0].items()}
    poison["input_ids"][0, 1] = 10**6  # beyond the vocabulary: the embedding raises an IndexError
    by_length = sorted(encoded, key=lambda call: call["input_ids"].shape[1])
    example = [by_length[0], by_length[len(by_length) // 2], by_length[-1]]
    return model, {"example": example}, encoded, poison, calls


JOBS: dict[str, Callable[[], Job]] = {
    "lstm": lambda: tensor_job(models.LSTMClassifier, data.lstm_samples(), 100_000),
    "cnn": lambda: tensor_job(models.SimpleCNN, data.digit_images(), 20_000),
    "short": lambda: text_job(3_000),
}


class Tally:
    """What one thread saw; joined at the end, so that counting needs no lock."""

    def __init__(self) -> None:
        self.answered = self.poisoned = self.spared = self.hurt = self.wrong = 0
        self.worst = 0.0
        self.first_error: BaseException | None = None

    def add(self, other: "Tally") -> None:
        for name in ("answered", "poisoned", "spared", "hurt", "wrong"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.worst = max(self.worst, other.worst)
        self.first_error = self.first_error or other.first_error


def run(name: str) -> bool:
    model, options, items, poison, calls = JOBS[name]()
    with torch.inference_mode():
        references = [model(**item) for item in items]
    numbers = itertools.count()  # next() on it is atomic: it shares the calls out among the threads
    gate = threading.Barrier(THREADS + 1)
    tallies = [Tally() for _ in range(THREADS)]

    def caller(tally: Tally, predict: Any) -> None:
        gate.wait()
        while (number := next(numbers)) < calls:
            poisoned = number % POISON_EVERY == POISON_EVERY // 2
            index = number % len(items)
            try:
                output = predict(**(poison if poisoned else items[index]))
            except Exception as error:
                tally.poisoned += poisoned
                tally.hurt += not poisoned
                if not poisoned:
                    tally.first_error = tally.first_error or error
                continue
            if poisoned:
                tally.spared += 1
                continue
            difference = relative_difference(output, references[index])
            tally.answered += 1
            tally.wrong += not difference <= TOLERANCE
            tally.worst = max(tally.worst, difference)

    with torchpool.wrap(model, **options) as predict:
        threads = [threading.Thread(target=caller, args=(tally, predict)) for tally in tallies]
        for thread in threads:
            thread.start()
        gate.wait()
        started = time.perf_counter()
        for thread in threads:
            thread.join()
        elapsed = time.perf_counter() - started

    total = Tally()
    for tally in tallies:
        total.add(tally)
    lost = calls - total.answered - total.poisoned - total.spared - total.hurt
    print(
        f"{name}: {calls:,} calls from {THREADS} threads in {elapsed:.1f} s: {total.answered:,} right within "
        f"{total.worst:.1e}, {total.poisoned} poisoned failed; wrong {total.wrong}, lost {lost}, "
        f"innocent hurt {total.hurt}, poisoned spared {total.spared}",
        flush=True,
    )
    if total.first_error is not None:
        print(f"  first error of an innocent call: {total.first_error!r}")
    return not (total.wrong or lost or total.hurt or total.spared)


def main() -> int:
    results = [run(name) for name in sys.argv[1:] or JOBS]
    return 0 if all(results) else 1


if __name__ == "__main__":
    raise SystemExit(main())
