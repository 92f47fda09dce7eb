"""What a result holds beside tensors, and how it is built, is each call's own: labels, flags, counts, None, keys."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from concurrent import futures
from typing import Any, Dict, List, NamedTuple, Optional, Tuple  # noqa: UP035 - what TorchScript reads

import pytest
import torch
from bad_models import assert_same, together
from support import HANG, build, draw, draws, eager, run_threads
from torch import nn
from transformers.modeling_outputs import BaseModelOutput

import torchpool
from torchpool.call import tree
from torchpool.contract.probe import unshown

Tensor = torch.Tensor
ALARM = 77  # a call with this id is loud; an id stays one where probing permutes ids


class Pair(NamedTuple):
    scores: Tensor
    label: str


@dataclasses.dataclass
class Record:
    scores: Tensor
    flagged: bool = False


RESULTS: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "label": lambda p, loud: (p, "loud" if loud.any() else "quiet"),
    "flag": lambda p, loud: {"scores": p, "flagged": bool(loud.any())},
    "count": lambda p, loud: (p, int(loud.sum())),
    "number": lambda p, loud: [p, loud.float().mean().item()],
    "None": lambda p, loud: (p, p.argmax(1) if loud.any() else None),
    "list of values": lambda p, loud: (p, loud.tolist()),
    "key": lambda p, loud: {"scores": p, **({"alarm": p.amax(1)} if loud.any() else {})},
    "named tuple": lambda p, loud: Pair(p, "loud" if loud.any() else "quiet"),
    "dataclass": lambda p, loud: Record(p, bool(loud.any())),
    "model output": lambda p, loud: BaseModelOutput(
        last_hidden_state=p, hidden_states=(p + 1,) if loud.any() else None
    ),
}


class Head(nn.Module):
    def __init__(self, result: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.embedding, self.linear, self.result = nn.Embedding(100, 8), nn.Linear(8, 3), result

    def forward(self, ids: Tensor) -> Any:
        return self.result(self.linear(self.embedding(ids).mean(1)), (ids == ALARM).any(1))


def calls(count: int = 8, length: int = 6) -> list[tuple[Tensor]]:
    """Quiet and loud ones in turn."""
    drawn = torch.randint(0, ALARM, (count, 1, length), generator=torch.Generator().manual_seed(0))
    drawn[1::2, :, 3] = ALARM
    return [(ids,) for ids in drawn]


QUIET, LOUD = calls(2)


def check(predict: torchpool.Predictor, runtime: torchpool.Runtime) -> None:
    """Calls that wait together get what each gets alone."""
    made = calls()
    for call, result in zip(made, together(predict, runtime, made), strict=True):
        assert_same(result, eager(predict.model, *call))


# The example is quiet or loud: what is learned of the kind is what most of a batch's calls have, or what one has.
@pytest.mark.parametrize("example", [QUIET, LOUD], ids=["quiet", "loud"])
@pytest.mark.parametrize("prove", ["trust", "verify"])
@pytest.mark.parametrize("kind", RESULTS)
def test_without_a_graph(kind: str, prove: Any, example: Any, runtime: torchpool.Runtime) -> None:
    model = build(lambda: Head(RESULTS[kind]))
    options: dict[str, Any] = {"backend": "python", "prove": prove, "runtime": runtime}
    check(torchpool.wrap(model, example=example, **options), runtime)


@pytest.mark.parametrize("kind", RESULTS)
def test_a_plain_callable(kind: str, runtime: torchpool.Runtime) -> None:
    model = build(lambda: Head(RESULTS[kind]))
    check(torchpool.wrap(lambda ids: model(ids), example=LOUD, prove="trust", runtime=runtime), runtime)


@pytest.mark.parametrize("kind", ["label", "flag", "None", "named tuple", "dataclass", "model output"])
def test_the_reason_names_the_value_and_the_line(kind: str, runtime: torchpool.Runtime) -> None:
    model = build(lambda: Head(RESULTS[kind]))
    predict = torchpool.wrap(model, example=LOUD, backend="python", prove="trust", runtime=runtime)
    contract = predict.explain().contracts[0]
    assert contract.mode == "alone"
    assert "may follow from values of tensors" in str(contract.reason)
    assert "test_values_beside.py:" in str(contract.reason)


def test_a_stated_contract(runtime: torchpool.Runtime) -> None:
    model = build(lambda: Head(RESULTS["label"]))
    check(torchpool.wrap(model, example=LOUD, batch={"ids": 0}, backend="python", runtime=runtime), runtime)


def test_a_saved_contract_knows_nothing_of_values(runtime: torchpool.Runtime) -> None:
    plain = build(lambda: Head(lambda p, loud: (p, "text")))
    saved = torchpool.wrap(plain, example=LOUD, prove="trust", runtime=runtime).explain()
    assert saved.contracts[0].mode == "merge"
    model = build(lambda: Head(RESULTS["label"]))
    predict = torchpool.wrap(model, batch=saved.contracts[0], backend="python", prove="trust", runtime=runtime)
    predict(*LOUD)
    check(predict, runtime)


def test_values_that_follow_from_no_tensor_do_not_end_merging(runtime: torchpool.Runtime) -> None:
    model = build(lambda: Head(lambda p, loud: {"scores": p, "version": 3, "name": "head", "none": None}))
    predict = torchpool.wrap(model, example=LOUD, backend="python", prove="trust", runtime=runtime)
    check(predict, runtime)
    assert predict.explain().contracts[0].mode == "merge"
    assert predict.stats()["batch_rows"]["max"] > 1


class Sized(Head):
    def forward(self, ids: Tensor) -> Any:
        return self.linear(self.embedding(ids).mean(1)), ids.shape[1], "text"


@pytest.mark.graphs
@pytest.mark.parametrize("backend", ["auto", "python"])
def test_a_value_that_follows_from_lengths_is_merged_at_one_length(backend: Any, runtime: torchpool.Runtime) -> None:
    model = build(lambda: Sized(RESULTS["label"]))
    predict = torchpool.wrap(model, example=QUIET, backend=backend)
    assert predict.ready(HANG)
    made = [*calls(), *calls(4, length=9), *calls(4, length=5)]
    for call, result in zip(made, predict.starmap(made), strict=True):
        assert_same(result, eager(model, *call))
    assert predict.explain().contracts[0].mode == "merge", predict.explain()


@pytest.mark.graphs
@pytest.mark.parametrize("backend", ["auto", "python"])
def test_with_graphs_every_way_to_call(backend: Any) -> None:
    for kind, result in RESULTS.items():
        model = build(lambda result=result: Head(result))
        predict = torchpool.wrap(model, example=LOUD, backend=backend)
        assert predict.ready(HANG)
        made = calls()
        expected = [eager(model, *call) for call in made]

        async def gathered(predict: torchpool.Predictor = predict, made: Any = made) -> list[Any]:
            return await asyncio.gather(*(predict.acall(*call) for call in made))

        with torchpool.ThreadPoolExecutor(4) as ours, futures.ThreadPoolExecutor(4) as theirs:
            ways = {
                "starmap": list(predict.starmap(made)),
                "submit": [future.result(HANG) for future in [predict.submit(*call) for call in made]],
                "threads": run_threads(len(made), lambda i, p=predict, m=made: p(*m[i])),
                "acall": asyncio.run(gathered()),
                "torchpool's pool": list(ours.map(predict, [ids for (ids,) in made])),
                "the standard pool": list(theirs.map(predict, [ids for (ids,) in made])),
            }
        for way, results in ways.items():
            for got, want in zip(results, expected, strict=True):
                try:
                    assert_same(got, want)
                except AssertionError as error:
                    raise AssertionError(f"{kind}, {way}: {error}") from error


class Numpy(nn.Module):
    """Only torch.export's strict way takes it, which gives tensors only."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return torch.from_numpy(y.numpy() * 2), int((x == ALARM).sum())


@pytest.mark.graphs
def test_a_count_beside_what_numpy_computes(runtime: torchpool.Runtime) -> None:
    model = build(Numpy)
    predict = torchpool.wrap(model, example=torch.ones(1, 4), runtime=runtime)
    assert predict.ready(HANG)
    made = [(torch.full((1, 4), float(value)),) for value in (1, ALARM, 2, ALARM)]
    for call, result in zip(made, together(predict, runtime, made), strict=True):
        assert_same(result, eager(model, *call))


@pytest.mark.graphs
def test_trust_merges_by_a_graph_that_shows_where_values_come_from(runtime: torchpool.Runtime) -> None:
    class Checks(Head):
        def forward(self, ids: Tensor) -> Any:
            if not torch.compiler.is_exporting() and int(ids.min()) < 0:
                raise ValueError("an id below 0")
            return self.linear(self.embedding(ids).mean(1)), None

    model = build(lambda: Checks(RESULTS["label"]))
    predict = torchpool.wrap(model, example=QUIET, prove="trust", runtime=runtime)
    assert predict.ready(HANG)
    check(predict, runtime)
    shown = predict.explain()
    assert shown.served_by == ("graph",) and shown.contracts[0].mode == "merge", shown
    assert "share batches by a proven graph only: output '1' is a NoneType" in str(shown)


class Remembers(Head):
    """Writes to itself where an answer is another than it ever was."""

    def __init__(self, result: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__(result)
        self.register_buffer("below", torch.zeros(()))
        self.last: Any = None

    def forward(self, ids: Tensor) -> Any:
        if bool((ids < 0).any()):
            self.below += 1
            self.last = ids
        return self.linear(self.embedding(ids).mean(1)), None


def test_other_answers_than_the_models_own_leave_no_trace(runtime: torchpool.Runtime) -> None:
    model = build(lambda: Remembers(RESULTS["label"]))
    predict = torchpool.wrap(model, example=QUIET, backend="python", prove="trust", runtime=runtime)
    assert predict.explain().contracts[0].mode == "merge"
    assert model.below == 0 and model.last is None


# --- scripts ----------------------------------------------------------------------------------------------------------


class WithCount(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, int]:  # noqa: UP006
        return x * 2, int((x > 100).sum())


class WithOptional(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
        found: Optional[Tensor] = None  # noqa: UP045
        if bool((x > 100).any()):
            found = x.amax(1)
        return x * 2, found


class WithKey(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Tensor]:  # noqa: UP006
        found = {"y": x * 2}
        if bool((x > 100).any()):
            found["alarm"] = x.amax(1)
        return found


class WithList(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:  # noqa: UP006
        found = [x * 2]
        while len(found) < 3 and bool((x > 100).any()):
            found.append(x.amax(1))
        return found


@pytest.mark.parametrize("cls", [WithCount, WithOptional, WithKey, WithList])
@pytest.mark.parametrize("example", [draw(2, 4), draw(2, 4) + 200], ids=["quiet", "loud"])
def test_a_result_that_values_may_decide_runs_alone(
    cls: type[nn.Module], example: Tensor, runtime: torchpool.Runtime
) -> None:
    model = torch.jit.script(cls().eval())
    predict = torchpool.wrap(model, example=example, runtime=runtime)
    calls = [(x + 200 * (index % 2),) for index, x in enumerate(draws(6, 2, 4))]
    for call, result in zip(calls, together(predict, runtime, calls), strict=True):
        assert_same(result, eager(model, *call))
    assert predict.explain().contracts[0].mode == "alone"


class Fixed(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Dict[str, Tensor], List[Tensor], int, Optional[Tensor]]:  # noqa: UP006, UP045
        return {"y": x * 2}, [x, x + 1], 3, None


@pytest.mark.parametrize(
    ("cls", "what"),
    [(WithCount, "int"), (WithOptional, "Optional"), (WithKey, "Dict"), (WithList, "List"), (Fixed, "")],
)
def test_a_scripts_graph_tells_what_values_may_decide(cls: type[nn.Module], what: str) -> None:
    model = torch.jit.script(cls().eval())
    found = unshown(model, model, tree.flatten(model(draw(2, 4)))[1], lambda: model(draw(2, 4)))
    assert (found is None) if not what else what in str(found)


def _both(p: Tensor, first: Callable[[], bool], second: Callable[[], bool]) -> Any:
    return p, "both" if first() and second() else "not both"


def _both_asked(p: Tensor, first: bool, second: bool) -> Any:
    return p, "both" if first and second else "not both"


def _raises_first(p: Tensor, first: bool, second: Callable[[], bool]) -> Any:
    if first:
        if second():
            return p, "both"
        raise ValueError("the first alone")
    return p, "none"


def _counted(p: Tensor, first: bool, loud: Tensor) -> Any:
    return p, "many" if first and int(loud.sum()) > 1 else "few"


BY_TWO: dict[str, Callable[[Tensor, Tensor, Tensor], Any]] = {
    "one behind the other": lambda p, a, b: _both(p, lambda: bool(a.all()), lambda: bool(b.all())),
    "both asked": lambda p, a, b: _both_asked(p, bool(a.all()), bool(b.all())),
    "an error between": lambda p, a, b: _raises_first(p, bool(a.all()), lambda: bool(b.all())),
    "a number behind an answer": lambda p, a, b: _counted(p, bool(a.all()), b),
}


class ByTwo(nn.Module):
    """Its label follows from the first two ids of all rows."""

    def __init__(self, result: Callable[[Tensor, Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.embedding, self.linear, self.result = nn.Embedding(100, 8), nn.Linear(8, 3), result

    def forward(self, ids: Tensor) -> Any:
        return self.result(self.linear(self.embedding(ids).mean(1)), ids[:, 0] == ALARM, ids[:, 1] == ALARM)


@pytest.mark.parametrize("kind", BY_TWO)
def test_a_label_by_several_answers(kind: str, runtime: torchpool.Runtime) -> None:
    model = build(lambda: ByTwo(BY_TWO[kind]))
    predict = torchpool.wrap(model, example=QUIET, backend="python", prove="trust", runtime=runtime)
    made = calls()
    for (ids,) in made[::2]:
        ids[:, :2] = ALARM
    for call, result in zip(made, together(predict, runtime, made), strict=True):
        assert_same(result, eager(model, *call))


def _applied(loud: Tensor) -> bool:
    seen: list[int] = []
    loud.int().apply_(lambda value: seen.append(value) or value)  # type: ignore[func-returns-value]
    return all(seen)


def _mapped(loud: Tensor) -> bool:
    seen: list[int] = []
    loud.int().map_(loud.int(), lambda value, other: seen.append(value) or value)  # type: ignore[func-returns-value]
    return all(seen)


READ_BY: dict[str, Callable[[Tensor], bool]] = {
    "apply_": _applied,
    "map_": _mapped,
    "the entries of a sparse copy": lambda loud: loud.float().to_sparse()._nnz() == len(loud),
    "the indices of a sparse copy": lambda loud: loud.float().to_sparse().indices().shape[1] == len(loud),
    "the values of compressed rows": lambda loud: loud.float()[None].to_sparse_csr().values().shape[0] == len(loud),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("kind", READ_BY)
def test_a_label_read_by_what_is_no_operator(kind: str, runtime: torchpool.Runtime) -> None:
    model = build(lambda: Head(lambda p, loud: (p, "loud" if READ_BY[kind](loud) else "quiet")))
    check(torchpool.wrap(model, example=QUIET, backend="python", prove="trust", runtime=runtime), runtime)


def test_answers_that_decide_nothing_do_not_end_merging(runtime: torchpool.Runtime) -> None:
    def result(p: Tensor, loud: Tensor) -> Any:
        for value in (-1, -2, -3, -4):
            if bool((p.isnan() & (loud[:, None] == value)).any()):
                raise ValueError("no number")
        return p * 2 if bool(p.isinf().any()) else p, "text"

    predict = torchpool.wrap(
        build(lambda: Head(result)), example=QUIET, backend="python", prove="trust", runtime=runtime
    )
    check(predict, runtime)
    assert predict.explain().contracts[0].mode == "merge"
