"""What the extension makes of what a learner tells it: which calls share batches, and what each is answered with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator

import pytest
import torch
from programs import Captured
from served import Served, contract, of_any_length, opening
from support import MARK, build, draw, draws, row
from torch import nn

from torchpool import _core
from torchpool.capture.lower import lower
from torchpool.contract import RowsVerdict
from torchpool.contract.shape_checks import ShapeCheck


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    with opening() as make:
        yield make


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


@torch.no_grad()
def test_calls_merge_from_when_they_are_served(serve: Callable[..., Served]) -> None:
    served, calls = serve(double), draws(8, 1, 4)
    served.expect_answers_alone(calls)
    assert served.sizes == [1] * 8
    assert not served.serve(number=0)
    assert served.serve()
    served.expect_answers_alone(calls)
    assert served.sizes == [8]


@torch.no_grad()
@pytest.mark.parametrize("rows", [None, RowsVerdict("mixes", "softmax over the rows")])
def test_what_is_not_proven_is_merged_only_if_the_user_wants(
    serve: Callable[..., Served], rows: RowsVerdict | None
) -> None:
    unproven = dataclasses.replace(contract(), rows=rows)
    served = serve(double)
    with pytest.raises(ValueError, match="not proven independent"):
        served.serve(known=unproven)
    served.expect_answers_alone(draws(8, 1, 4))
    assert served.sizes == [1] * 8
    for merging in ("trust", "verify"):
        assert serve(double, merging=merging).serve(known=unproven)


@torch.no_grad()
def test_calls_that_do_not_merge_yet_are_fitted_all_the_same(serve: Callable[..., Served]) -> None:
    served, x = serve(double), torch.ones(1, 5)
    assert torch.equal(served.core.call((x,), None), double(x))
    assert len(served.told.mismatches) == 1
    assert served.core.call((torch.ones(2, 4),), None).shape == (2, 4)
    assert len(served.told.mismatches) == 1


@torch.no_grad()
@pytest.mark.parametrize("merging", ["trust", "verify"])
def test_the_user_may_have_calls_merged_at_once(serve: Callable[..., Served], merging: str) -> None:
    served = serve(double, merging=merging)
    served.expect_answers_alone(draws(8, 1, 4))
    assert served.sizes == ([8] if merging == "trust" else [8] + [1] * 8)
    stats = served.core.stats()
    assert (stats["verified_rows"], stats["refuted"]) == (0 if merging == "trust" else 8, 0)


def test_an_unknown_way_of_merging_is_refused(serve: Callable[..., Served]) -> None:
    with pytest.raises(ValueError, match="unknown merging 'perhaps'"):
        serve(double, merging="perhaps")


@torch.no_grad()
def test_a_model_that_leaves_out_rows_gives_each_call_its_own(serve: Callable[..., Served]) -> None:
    served = serve(lambda x: x[~x.isnan().any(1)] * 2, merging="trust")
    calls = [x * (math.nan if i in (2, 5) else 1.0) for i, x in enumerate(draws(8, 1, 4))]
    served.expect_answers_alone(calls)
    assert served.sizes == [8] + [1] * 8
    served.expect_answers_alone(draws(8, 1, 4))
    assert served.sizes == [8]


@torch.no_grad()
def test_a_number_that_depends_on_the_batch_is_each_calls_own(serve: Callable[..., Served]) -> None:
    served = serve(lambda x: {"y": x * 2, "rows": len(x)}, merging="trust")
    served.expect_answers_alone(draws(8, 1, 4))
    assert served.sizes == [8] + [1] * 8


@torch.no_grad()
def test_folded_rows_reach_their_calls(serve: Callable[..., Served]) -> None:
    time_major = contract(outer=None)
    served = serve(lambda x: torch.stack([x, x * 2, x * 3]).flatten(0, 1), known=time_major, merging="trust")
    served.expect_answers_alone([*draws(4, 1, 4), draw(3, 4)])
    assert served.sizes == [7]
    tokens = contract(inner=2)
    served = serve(lambda x: x.view(-1, 2), known=tokens, merging="trust", first=4)
    served.expect_answers_alone([draw(11, 4)])
    assert served.sizes == [4, 4, 3], "in parts"


class Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)


def graph_of(model: nn.Module, *checks: ShapeCheck) -> _core.GraphBackend:
    lowered = lower(Captured(model, draw(3, 4)).graph, fold=False)
    lowered = dataclasses.replace(lowered, checks=[*lowered.checks, *checks])
    return _core.GraphBackend(lowered, lowered)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([3.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.scale


@torch.no_grad()
def test_calls_that_count_as_units_are_merged_by_a_graph_only(serve: Callable[..., Served]) -> None:
    model, pairs = build(Linear), contract(call_rows=2, inner=2)
    served = serve(model, known=pairs, merging="trust")
    calls = [*draws(4, 2, 4), draw(3, 4), draw(1, 4)]
    served.expect_answers_alone(calls)
    assert sorted(served.sizes) == [1, 2, 2, 2, 2, 3]
    assert served.serve(graph_of(model), known=pairs)
    for pending, x in [(served.core.submit((x,), None), x) for x in calls]:
        torch.testing.assert_close(pending.get(), model(x))
    assert sorted(served.sizes[6:]) == [1, 3], "alone, side by side"
    assert served.told.mismatches == []


@torch.no_grad()
def test_without_its_graph_a_kind_proven_by_it_runs_one_by_one(serve: Callable[..., Served]) -> None:
    model = build(Linear)
    assert isinstance(model, Linear)
    served, calls = serve(model), draws(8, 1, 4)
    assert served.serve(graph_of(model))
    for pending, x in [(served.core.submit((x,), None), x) for x in calls]:
        torch.testing.assert_close(pending.get(), model(x))
    assert served.sizes == []
    model.linear.weight.data = model.linear.weight.data.clone()
    served.expect_answers_alone(calls)
    assert served.told.moved == 1
    assert served.sizes == [1] * 8, "the proof says nothing of the module's batches"


@torch.no_grad()
@pytest.mark.parametrize("autocast", [False, True])
def test_the_module_merges_only_sizes_that_the_graph_holds_for(serve: Callable[..., Served], autocast: bool) -> None:
    model, known = build(Scaled), of_any_length()
    served = serve(model, known=known)
    graph = graph_of(model, ShapeCheck(0, 1, 3, 5))
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        served.core.learn((row(0),), None)
        assert served.serve(graph, known, number=1 + autocast, by_module=True, kind=int(autocast))
        served.expect_answers_alone([*draws(4, 1, 4), *draws(3, 1, 6)])
        assert sorted(served.sizes) == [1, 1, 1, 4]


@torch.no_grad()
def test_batches_of_the_module_are_no_larger_than_the_graph_holds_for(serve: Callable[..., Served]) -> None:
    model = build(Scaled)
    served, calls = serve(model), draws(6, 1, 4)
    assert served.serve(graph_of(model, ShapeCheck(0, 0, 1, 4)), by_module=True)
    served.expect_answers_alone(calls)
    assert served.sizes == [1] * 6
    served.expect_answers_alone(calls[:4])
    assert served.sizes == [4]


@torch.no_grad()
def test_the_module_merges_on_the_users_word_whatever_the_graph_holds_for(serve: Callable[..., Served]) -> None:
    model, known = build(Scaled), of_any_length()
    served = serve(model, known=known, merging="trust")
    assert served.serve(graph_of(model, ShapeCheck(0, 1, 3, 5), ShapeCheck(0, 0, 1, 2)), known, by_module=True)
    served.expect_answers_alone(draws(6, 1, 6))
    assert served.sizes == [6]


@torch.no_grad()
def test_a_module_whose_weights_have_moved_merges_no_longer(serve: Callable[..., Served]) -> None:
    model = build(Scaled)
    assert isinstance(model, Scaled)
    served, calls = serve(model), draws(8, 1, 4)
    assert served.serve(graph_of(model), by_module=True)
    served.expect_answers_alone(calls)
    assert served.sizes == [8]
    model.scale.data = torch.tensor([5.0])
    served.expect_answers_alone(calls)
    assert (served.told.moved, served.sizes) == (1, [1] * 8)
    assert served.serve(graph_of(model), by_module=True)
    served.expect_answers_alone(calls)
    assert served.sizes == [8]


@torch.no_grad()
@pytest.mark.parametrize(("merging", "module_sizes"), [("no", [1] * 3), ("verify", [1] * 3), ("trust", [3])])
def test_what_a_proven_graph_does_not_take_merges_on_the_users_word_only(
    serve: Callable[..., Served], merging: str, module_sizes: list[int]
) -> None:
    model, known = build(Scaled), of_any_length()
    served = serve(model, known=known, merging=merging)
    assert served.serve(graph_of(model, ShapeCheck(0, 1, 3, 5)), known)
    served.core.call((draw(1, 6),), None)
    served.sizes.clear()
    assert torch.equal(served.core.call((draw(1, 4),), None), model(draw(1, 4)))
    assert served.sizes == [], "by the graph"
    served.expect_answers_alone(draws(3, 1, 6), held_by=torch.full((1, 6), MARK))
    assert served.sizes == module_sizes
