"""What the extension makes of what a learner tells it: which calls share batches, and what each is answered with."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from programs import Captured
from support import MARK, Gate, build, draw, draws, row
from torch import nn

import torchpool
from torchpool import _core
from torchpool.call import tree
from torchpool.capture.lower import lower
from torchpool.contract import Contract, RowsVerdict
from torchpool.contract.contract import InputSpec, OutputSpec
from torchpool.contract.shape_checks import ShapeCheck

Model = Callable[[torch.Tensor], Any]


def contract(call_rows: int | None = None, **output: Any) -> Contract:
    """Of x (rows, 4) and an output with its rows in dim 0, unless `output` says otherwise."""
    spec = {"name": "y", "batch_dim": 0, "trims": (), "stacked": False, **output}
    return Contract(
        mode="merge",
        reason=None,
        serial=False,
        inputs=(InputSpec("x", torch.float32, "cpu", 0, False, ("batch", 4), None),),
        outputs=(OutputSpec(**spec),),
        padded=frozenset(),
        aliases=False,
        row_seconds=None,
        checks=(),
        call_rows=call_rows,
        rows=RowsVerdict("proven", "rows proven independent"),
    )


class Told:
    """A learner that knows already, and keeps what it is told."""

    def __init__(self, model: Model, known: Contract, merging: str) -> None:
        self._model, self._known, self._merging = model, known, merging
        self.number = 0
        self.kinds: list[int] = []
        self.mismatches: list[str] = []
        self.refutations: list[str] = []
        self.moved = 0

    def spec(self) -> tree.TreeSpec:
        return tree.flatten(self._model(row(0)))[1]

    def learn(self, kind_id: int, names: list[str], args: Any, kwargs: Any) -> Any:
        self.number += 1
        self.kinds.append(kind_id)
        return "merge", self._known, self.spec(), False, self.number, self._merging

    def mismatch(self, kind_id: int, names: list[str], args: Any, kwargs: Any, message: str, is_length: bool) -> Any:
        self.mismatches.append(message)
        return self._model(*args), self.learn(kind_id, names, args, kwargs)

    def own(self, result: Any) -> Any:
        return result

    def may_have_state(self) -> bool:
        return False

    def refuted(self, kind_id: int, text: str) -> None:
        assert kind_id in self.kinds
        self.refutations.append(text)

    def installed(self, kind_id: int, number: int) -> None:
        assert number == self.number

    def weights_moved(self, kind_id: int) -> None:
        self.moved += 1

    def forget(self) -> None:
        self.kinds.clear()


class Served:
    """A predictor of the extension with one worker, which a gate holds until its calls are queued."""

    def __init__(
        self, model: Model, known: Contract | None = None, merging: str = "no", verify: float = 0.0, first: int = 32
    ) -> None:
        self.model, self.gate, self.sizes = model, Gate(), list[int]()
        self.told = Told(model, known or contract(), merging)
        self.runtime = torchpool.Runtime(1)
        options: dict[str, Any] = {"queue_rows": 1000, "queue_bytes": 1 << 30, "reject": False, "max_delay": 0.0}
        self.core = _core.Predictor(
            self.runtime._core,
            self._run,
            self.told,
            name="served",
            first_batch=first,
            max_batch=first,
            weight=1.0,
            modules=[model] if isinstance(model, nn.Module) else [],
            by_graph=True,
            verify=verify,
            **options,
        )
        self.core.learn((row(0),), None)

    def _run(self, x: torch.Tensor) -> Any:
        if bool((x == MARK).any()):
            self.gate.pass_through()
            return self.model(torch.zeros_like(x))
        self.sizes.append(len(x))
        return self.model(x)

    def serve(
        self,
        graph: _core.GraphBackend | None = None,
        known: Contract | None = None,
        number: int = 1,
        by_module: bool = False,
        kind: int = 0,
    ) -> bool:
        return self.core.serve(kind, number, known or contract(), self.told.spec(), graph, 32, 32, by_module)

    def answers(self, calls: list[torch.Tensor], held_by: torch.Tensor | None = None) -> list[Any]:
        """Of calls that wait together until the worker comes for them, which the call `held_by` holds in the module."""
        mark = row(MARK) if held_by is None else held_by
        for x in calls:  # a call of sizes that are new to the module waits for all that runs
            self.core.call((x,), None)
        self.gate = Gate()
        self.sizes.clear()
        held = self.core.submit((mark,), None)
        self.gate.wait_entered()
        pending = [self.core.submit((x,), None) for x in calls]
        self.gate.open()
        held.get()
        return [call.get() for call in pending]

    def expect_answers_alone(self, calls: list[torch.Tensor], held_by: torch.Tensor | None = None) -> None:
        for answer, x in zip(self.answers(calls, held_by), calls, strict=True):
            got, spec = tree.flatten(answer)
            want, own_spec = tree.flatten(self.model(x))
            assert spec == own_spec
            for one, other in zip(got, want, strict=True):
                torch.testing.assert_close(one, other)

    def close(self) -> None:
        self.gate.open()
        self.core.close(True)
        self.runtime.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    opened: list[Served] = []

    def make(*args: Any, **options: Any) -> Served:
        opened.append(Served(*args, **options))
        return opened[-1]

    yield make
    for served in opened:
        served.close()


def double(x: torch.Tensor) -> torch.Tensor:
    return x * 2


def mixing(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * x.sum()


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


@torch.no_grad()
def test_a_difference_ends_merging_and_is_told_once(serve: Callable[..., Served]) -> None:
    served = serve(mixing, merging="verify")
    served.expect_answers_alone(draws(8, 1, 4))
    assert served.sizes[0] == 8
    served.expect_answers_alone(draws(8, 1, 4))
    assert served.sizes == [1] * 8
    assert served.core.stats()["refuted"] == 1
    (text,) = served.told.refutations
    assert text.startswith("row 1 of 8: output 'y' differs by ")


@torch.no_grad()
def test_a_difference_is_told_to_whoever_asks(serve: Callable[..., Served]) -> None:
    for ask in (lambda core: core.stats(), lambda core: core.tell_refuted()):
        served = serve(mixing, merging="verify")
        served.expect_answers_alone(draws(8, 1, 4))
        assert served.told.refutations == []
        ask(served.core)
        ask(served.core)
        assert len(served.told.refutations) == 1


@torch.no_grad()
def test_a_proven_kind_is_looked_at_in_a_share_of_the_time(serve: Callable[..., Served]) -> None:
    for share in (1.0, 0.0):
        served = serve(mixing, verify=share)
        assert served.serve()
        answers = served.answers(draws(8, 1, 4))
        right = all(torch.allclose(y, mixing(x)) for y, x in zip(answers, draws(8, 1, 4), strict=True))
        assert right == (share == 1.0)
        assert served.core.stats()["refuted"] == (1 if share else 0)


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


def of_any_length() -> Contract:
    known = contract()
    return dataclasses.replace(known, inputs=(dataclasses.replace(known.inputs[0], sizes=("batch", "length")),))


@torch.no_grad()
def test_calls_that_count_as_units_are_merged_by_a_graph_only(serve: Callable[..., Served]) -> None:
    model, pairs = build(Linear), contract(call_rows=2, inner=2)
    served = serve(model, known=pairs, merging="trust")
    calls = [*draws(4, 2, 4), draw(3, 4), draw(1, 4)]
    served.expect_answers_alone(calls)
    assert served.sizes == [2, 2, 2, 2, 3, 1]
    assert served.serve(graph_of(model), known=pairs)
    for pending, x in [(served.core.submit((x,), None), x) for x in calls]:
        torch.testing.assert_close(pending.get(), model(x))
    assert served.sizes[6:] == [3, 1]
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


@torch.no_grad()
@pytest.mark.parametrize("merging", ["no", "verify"])
def test_what_was_refuted_never_merges_again(serve: Callable[..., Served], merging: str) -> None:
    served, calls = serve(mixing, merging=merging, verify=1.0), draws(8, 1, 4)
    assert served.serve()
    served.expect_answers_alone(calls)
    for _ in range(3):
        assert not served.serve()
    assert torch.equal(served.core.call((torch.ones(1, 5),), None), mixing(torch.ones(1, 5)))  # learns anew
    assert served.told.number == 2
    assert not served.serve(number=2)
    served.expect_answers_alone(calls)
    assert served.sizes == [1] * 8
    assert len(served.told.refutations) == 1


@torch.no_grad()
def test_what_the_batches_of_a_replaced_contract_show_counts(serve: Callable[..., Served]) -> None:
    served, calls = serve(mixing, verify=1.0), draws(8, 1, 4)
    served.core.call((calls[0],), None)
    assert served.serve()
    held = served.core.submit((row(MARK),), None)
    served.gate.wait_entered()
    pending = [served.core.submit((x,), None) for x in calls]
    assert served.serve(), "nothing is known yet"
    served.gate.open()
    held.get()
    for call, x in zip(pending, calls, strict=True):
        torch.testing.assert_close(call.get(), mixing(x))
    assert served.core.stats()["refuted"] == 1
    assert len(served.told.refutations) == 1
    served.expect_answers_alone(calls)
    assert served.sizes == [1] * 8


def rounded(x: torch.Tensor) -> torch.Tensor:
    """As a coarser dtype may give: a batch's rows and the same rows alone are a thousandth apart."""
    return x * (1.001 if len(x) > 1 else 1.0)


@torch.no_grad()
@pytest.mark.parametrize(("tolerance", "refuted"), [(None, 1), (1e-4, 1), (2e-3, 0)])
def test_rows_may_be_as_far_apart_as_the_contract_says(
    serve: Callable[..., Served], tolerance: float | None, refuted: int
) -> None:
    served = serve(rounded, known=dataclasses.replace(contract(), tolerance=tolerance), merging="verify")
    served.answers(draws(8, 1, 4))
    assert served.core.stats()["refuted"] == refuted
