"""How a predictor is shown, what the first line of explain() says of it, and what the log says of calls that run
alone."""

from __future__ import annotations

import json
import logging
from typing import Any

import pytest
import torch
from bad_models import Raiser, together
from executor_support import wait_until
from support import Counter, build, draw, draws
from torch import nn

import torchpool


class Plain(nn.Module):
    """Has a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.linear(x))


def _first_line(predict: torchpool.Predictor) -> str:
    return str(predict.explain()).splitlines()[0]


def _alone(caplog: pytest.LogCaptureFixture) -> list[tuple[int, str]]:
    return [(one.levelno, one.getMessage()) for one in caplog.records if "run alone, in no batch" in one.getMessage()]


@pytest.mark.graphs
def test_it_is_shown_with_the_backend_that_serves_and_why() -> None:
    with torchpool.wrap(build(Plain), name="scorer") as predict, torch.no_grad():
        assert repr(predict) == "<torchpool.Predictor scorer (python)>"
        predict(draw(1, 4))
        assert predict.ready(60)
        assert repr(predict) == "<torchpool.Predictor scorer (graph)>"
        assert _first_line(predict).startswith("batched: yes, because rows proven independent (graph of ")
        assert "<caption>scorer</caption>" in predict._repr_html_()
        assert '<td style="text-align:left">graph</td>' in predict._repr_html_()
        assert "yes, because rows proven independent" in predict._repr_html_()
    assert repr(predict) == "<torchpool.Predictor scorer (graph) closed>"
    assert "closed" in predict._repr_html_()


def test_stats_are_a_table_and_a_dict() -> None:
    predict = torchpool.wrap(build(Raiser), name="scorer")
    stats = predict.stats()
    assert str(stats).splitlines()[0].split() == ["name", "scorer"]
    assert json.loads(json.dumps(stats))["accepted"] == stats["accepted"] == 0


def test_a_gain_is_named_once_it_is_measured(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Raiser), example=draw(1, 4), runtime=runtime, max_batch=8)
    assert _first_line(predict).startswith("batched: yes, because merged on your word; expected gain not measured yet")
    for x in draws(4, 1, 4):
        together(predict, runtime, [(x,)])
        together(predict, runtime, [(x,) for _ in range(8)])
    cost = {one["rows"]: one for one in predict.stats()["cost"] if one["one_core"]}
    gain = cost[1]["seconds_per_item"] / cost[8]["seconds_per_item"]
    assert f"; expected gain {gain:.2g} x, as measured: a row takes " in _first_line(predict)


def test_calls_that_run_alone_are_told_of_once_a_kind(caplog: pytest.LogCaptureFixture) -> None:
    predict = torchpool.wrap(Counter().eval(), name="counter")
    with caplog.at_level(logging.INFO, "torchpool"):
        for x in draws(3, 1, 4):
            predict(x)
        assert [(level, text.split(": ")[:2]) for level, text in _alone(caplog)] == [
            (logging.WARNING, ["counter", "calls with (x) run alone, in no batch"])
        ]
        assert "attribute 'calls' changed" in _alone(caplog)[0][1]
        predict(draw(1, 2, 4))
        predict.refresh()
        predict(draw(1, 4))
        assert len(_alone(caplog)) == 2, "a line for the other kind, and none for what was told"
    assert _first_line(predict).startswith("batched: no, because model is stateful")
    assert _first_line(predict).endswith("expected gain none, since no calls share batches")


def test_calls_that_are_merged_are_not_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "torchpool"):
        torchpool.wrap(build(Raiser))(draw(1, 4))
    assert not _alone(caplog)


def test_a_function_that_is_not_probed_is_told_how_to_have_it_merged(caplog: pytest.LogCaptureFixture) -> None:
    predict = torchpool.wrap(lambda x: x + 1, name="plus")
    with caplog.at_level(logging.INFO, "torchpool"):
        predict(draw(1, 4))
    ((level, text),) = _alone(caplog)
    assert level == logging.INFO, "nobody asked for more"
    assert "unless example= or batch= is given" in text
    assert _first_line(predict).startswith("batched: no, because a plain callable is not probed")


def test_who_turned_merging_off_is_not_warned(caplog: pytest.LogCaptureFixture) -> None:
    predict = torchpool.wrap(build(Raiser), batch=False)
    with caplog.at_level(logging.INFO, "torchpool"):
        predict(draw(1, 4))
    assert [level for level, _ in _alone(caplog)] == [logging.INFO]


def test_arguments_that_cannot_be_merged_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    class Taker(nn.Module):
        def forward(self, x: Any) -> torch.Tensor:
            return torch.zeros(1)

    predict = torchpool.wrap(Taker().eval(), name="taker")
    with caplog.at_level(logging.INFO, "torchpool"):
        predict(object())
        predict(object())
    assert [text for _, text in _alone(caplog)] == [
        "taker: calls where argument 'x' is of type object run alone, in no batch: it cannot be merged. "
        "explain() says more"
    ]
    assert _first_line(predict).startswith("batched: not yet, because argument 'x' is of type object")


@pytest.mark.graphs
def test_calls_whose_proof_fails_are_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    # It branches on values, so that there is no graph to prove anything on.
    with torchpool.wrap(build(Raiser), name="raiser") as predict, caplog.at_level(logging.INFO, "torchpool"):
        for x in draws(3, 2, 4):
            predict(x)
            assert predict.ready(60)
        wait_until(lambda: bool(_alone(caplog)))  # told by the capture's thread, without its lock, once it is done
        ((level, text),) = _alone(caplog)
        assert level == logging.WARNING
        assert text.startswith("raiser: calls with (x) run alone, in no batch: ")
        assert _first_line(predict).startswith("batched: no, because ")


@pytest.mark.graphs
def test_before_a_proof_it_is_not_yet() -> None:
    with torchpool.wrap(build(Raiser)) as predict:
        assert _first_line(predict).startswith("batched: not yet, because nothing was learned yet")
