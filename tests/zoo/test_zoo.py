"""Every model of the zoo gives what it gives in eager, from threads, mapped and submitted, served as expected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import zoo_media
import zoo_python
import zoo_text
import zoo_torch
from bad_models import assert_same
from support import HANG, eager, run_threads
from zoo import Calls, Entry

import torchpool
from torchpool.call.arguments import as_call

MODELS = [*zoo_text.MODELS, *zoo_media.MODELS, *zoo_torch.MODELS, *zoo_python.MODELS]
THREADS = 8

pytestmark = [
    pytest.mark.graphs,
    pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN"),
]


def served_by(predict: torchpool.Predictor) -> str:
    """The backend of all kinds of calls so far, "alone" where some do not merge."""
    explanation = predict.explain()
    if any(contract.mode == "alone" for contract in explanation.contracts):
        return "alone"
    if any("run alone" in note for note in explanation.notes):
        return "alone"
    return " and ".join(sorted(set(explanation.served_by)))


def _call_from_threads(predict: torchpool.Predictor, calls: Calls, expected: list[Any]) -> None:
    """Each thread makes all the calls, and starts with another one."""

    def work(number: int) -> None:
        for i in range(len(calls)):
            args, kwargs = as_call(calls[(i + number) % len(calls)])
            assert_same(predict(*args, **kwargs), expected[(i + number) % len(calls)])

    run_threads(THREADS, work)


def _map(predict: torchpool.Predictor, calls: Calls, expected: list[Any]) -> None:
    results = predict.map(calls) if isinstance(calls[0], torch.Tensor) else predict.starmap(calls)
    for result, want in zip(results, expected, strict=True):
        assert_same(result, want)


def _submit(predict: torchpool.Predictor, calls: Calls, expected: list[Any]) -> None:
    taken = [as_call(call) for call in calls]
    for future, want in zip([predict.submit(*args, **kwargs) for args, kwargs in taken], expected, strict=True):
        assert_same(future.result(HANG), want)


# From its first calls every third model learns only: each widening captures anew, which takes its time.
WAYS = [(entry, 2) for entry in MODELS] + [(entry, 0) for entry in MODELS[::3]]


@pytest.mark.parametrize(
    ("entry", "examples"), WAYS, ids=[f"{entry.name}-{'examples' if n else 'first calls'}" for entry, n in WAYS]
)
def test_the_zoo(entry: Entry, examples: int, record_property: Callable[[str, Any], None]) -> None:
    # The oracle is a model of its own: one that has run before may hide what its first run changes.
    model, oracle, calls = entry.build(), entry.build(), entry.calls()
    expected = [eager(oracle, *args, **kwargs) for args, kwargs in map(as_call, calls)]
    by_graph = entry.expect in ("graph", "lifted")  # required: wrap() raises where there can be no graph
    backend = "graph" if by_graph else "auto"
    with torchpool.wrap(model, example=calls[:examples] or None, pad=entry.pad, backend=backend) as predict:
        _call_from_threads(predict, calls, expected)
        assert predict.ready(HANG)
        _map(predict, calls * 4, expected * 4)
        _submit(predict, calls * 2, expected * 2)
        backend = served_by(predict)
        if examples:
            record_property("served_by", backend)  # for the summary of conftest
            if by_graph:
                record_property("calls", predict.stats()["accepted"])
                record_property("fell_back", predict.stats()["fell_back"])
        merged = predict.stats()["batch_rows"]["max"] > 1
        assert by_graph or not merged, predict.explain()  # its workers may be done with each call before the next one
        assert backend == ("graph" if by_graph else "alone"), predict.explain()
        if by_graph:
            kinds = {contract.rows.kind for contract in predict.explain().contracts if contract.rows is not None}
            assert kinds == {"proven" if entry.expect == "graph" else "lifted"}, predict.explain()
        stats = predict.stats()
        assert not by_graph or stats["fell_back"] < stats["accepted"], predict.explain()
    args, kwargs = as_call(calls[0])
    assert_same(eager(model, *args, **kwargs), expected[0])  # what was wrapped is as it was


def test_the_zoo_is_large_and_its_names_differ() -> None:
    assert len({entry.name for entry in MODELS}) == len(MODELS) >= 40
