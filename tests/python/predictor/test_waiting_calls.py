"""Calls that wait for the end of an update, and graphs that are compared beside one: nothing of the model before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from programs import Captured
from served import contract, opening
from support import HANG, assert_all_close, assert_close, build, draw, draws, eager
from torch import nn

import torchpool
from torchpool import _core
from torchpool.capture.lower import lower
from torchpool.predictor import building

OLD, NEW = 1.0, 10.0


@pytest.fixture
def other() -> Iterator[ThreadPoolExecutor]:
    """A thread beside the test's own."""
    with ThreadPoolExecutor(1) as pool:
        yield pool


class Twice(nn.Module):
    """Two layers whose weights are all the same number: the result tells which of them it is of."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(4, 4, bias=False) for _ in range(2))
        fill(self, OLD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def fill(model: nn.Module, value: float) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(value)


def replace_memory(model: Twice) -> None:
    model.first.weight.data = torch.full((4, 4), NEW)


def replace_layer(model: Twice) -> None:
    model.first = nn.Linear(4, 4, bias=False)
    fill(model.first, NEW)


@pytest.mark.graphs
@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("replace", [replace_memory, replace_layer])
def test_no_call_that_waits_gets_half_of_an_update(replace: Callable[[Twice], None], other: ThreadPoolExecutor) -> None:
    """One with a graph, whose kind lets go of it when the next call finds another weight or layer."""
    model = Twice().eval()
    predict = torchpool.wrap(model)
    x = torch.ones(1, 4)
    assert predict(x).tolist() == [[16 * OLD] * 4]
    assert predict.ready(HANG)
    submit = predict.options(deadline=HANG).submit  # which does not wait for what is to be learned
    with predict.updating():
        early = other.submit(submit, x).result(HANG)
        fill(model.second, NEW)
        replace(model)
        late = other.submit(submit, x).result(HANG)
    assert early.result(HANG).tolist() == late.result(HANG).tolist() == [[16 * NEW * NEW] * 4]


class Deep(nn.Module):
    """A weight that is large enough for a write into its middle to leave no trace."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Linear(4, 400)
        self.deep = nn.Linear(400, 400)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.deep(self.wide(x).tanh())


def write_without_trace(layer: nn.Linear) -> None:
    layer.weight.detach().numpy()[150:250, 100:200] = 0.5


def packed_graph(model: nn.Module) -> _core.GraphBackend:
    graph = Captured(model, draw(3, 4)).graph
    backend = _core.GraphBackend(lower(graph), lower(graph, fold=False))
    assert backend.is_packed
    return backend


@torch.no_grad()
def test_a_graph_that_calls_wait_with_hears_of_an_update_when_its_kind_has_another(other: ThreadPoolExecutor) -> None:
    """A contract that is widened takes the kind's graph from it."""
    model, x = build(Deep), draw(1, 4)
    with opening() as make:
        served = make(model, known=contract())
        assert served.serve(packed_graph(model))
        gate = served.core.gate
        assert _core.take_gates([gate], HANG)
        early = other.submit(served.core.submit, (x,), None).result(HANG)
        assert served.serve(packed_graph(model))
        write_without_trace(model.deep)
        served.core.weights_written()
        _core.open_gates([gate])
        assert_close(early.get(), eager(model, x))


class Centred(nn.Module):
    """Rows meet."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0, keepdim=True)


class Changing(nn.Module):
    """Its rows are independent until its first layer is replaced."""

    def __init__(self) -> None:
        super().__init__()
        self.first: nn.Module = nn.Identity()
        self.second = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


@pytest.mark.graphs
@pytest.mark.parametrize("seen", [False, True], ids=["at the end", "by a call"])
def test_calls_that_wait_share_no_batch_of_a_module_whose_rows_have_come_to_meet(
    seen: bool, other: ThreadPoolExecutor, runtime: torchpool.Runtime
) -> None:
    """What was proven is of the module as it was, whoever notices the change first."""
    model = build(Changing)
    predict = torchpool.wrap(model, backend="python", example=draw(1, 4), runtime=runtime)
    assert predict.ready(HANG)
    calls = draws(50, 1, 4)
    submit = predict.options(deadline=HANG).submit  # which does not wait for what is to be learned
    with predict.updating():
        futures = other.submit(lambda: [submit(x) for x in calls]).result(HANG)
        model.first = Centred()
        if seen:
            futures += other.submit(lambda: [submit(x) for x in calls]).result(HANG)
    expected = [eager(model, x) for x in calls]
    assert_all_close([future.result(HANG) for future in futures], expected * (1 + seen))


@pytest.mark.graphs
def test_a_graph_reads_what_was_written_between_its_comparison_and_its_first_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In an update, and without a trace."""
    model, x = build(Deep), draw(1, 4)
    predict = torchpool.wrap(model)
    choose = building.choose_first_batch

    def beside_an_update(*args: Any) -> int:
        chosen = choose(*args)
        with predict.updating():
            write_without_trace(model.deep)
        return chosen

    monkeypatch.setattr(building, "choose_first_batch", beside_an_update)
    predict(x)
    assert predict.ready(HANG)
    assert "graph" in str(predict.explain())
    assert_close(predict(x), eager(model, x))


@pytest.mark.graphs
def test_a_swap_serves_no_packed_copy_of_what_another_update_wrote_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of another part of a model that both belong to."""
    model, x = build(Deep), draw(1, 4)
    predict = torchpool.wrap(model)
    wide, deep = torchpool.wrap(model.wide), torchpool.wrap(model.deep)
    predict(x)
    assert predict.ready(HANG)

    class Staged(_core.StagedWeights):
        def pack(self, graph: _core.GraphBackend) -> None:
            super().pack(graph)
            with deep.updating():
                write_without_trace(model.deep)

    monkeypatch.setattr(_core, "StagedWeights", Staged)
    wide.swap({name: value * 2 for name, value in model.wide.state_dict().items()})
    assert_close(predict(x), eager(model, x))
