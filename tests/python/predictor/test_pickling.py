"""Predictors in spawned processes and copies: they begin with what was proven, and say what cannot go along."""

from __future__ import annotations

import concurrent.futures
import copy
import io
import multiprocessing
import pickle
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from spawned import Pooled, refuse, served_by_graphs_at_once
from support import HANG, SimpleCNN, assert_all_close, assert_close, build, draw, draws, eager
from torch import Tensor, nn

import torchpool
from torchpool.predictor import building, probes

pytestmark = pytest.mark.graphs

Copy = Callable[[torchpool.Predictor], torchpool.Predictor]


def by_pickle(predict: torchpool.Predictor) -> torchpool.Predictor:
    again: torchpool.Predictor = pickle.loads(pickle.dumps(predict))
    return again


def twice_by_pickle(predict: torchpool.Predictor) -> torchpool.Predictor:
    """By a process that never calls it."""
    return by_pickle(by_pickle(predict))


@pytest.fixture
def nothing_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """From its call on nothing is probed, captured or measured, and no module runs."""

    def begin() -> None:
        monkeypatch.setattr(probes, "find", refuse)
        monkeypatch.setattr(building, "capture_elsewhere", refuse)
        monkeypatch.setattr(building, "choose_first_batch", refuse)
        monkeypatch.setattr(nn.Module, "_call_impl", refuse)

    yield begin


class Scores(nn.Module):
    """Its method is served, too."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.linear(x)
        return {"logits": y, "best": y.argmax(1)}

    def score(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.linear(x) * scale


class Wider(nn.Linear):
    def __init__(self) -> None:
        super().__init__(4, 5)


class Scaled(nn.Module):
    """Rows of a batch meet: its graph is lifted."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x / (x.abs().max() + 1e-6))


class ByItsClass(nn.Module):
    """Its class has a setting."""

    factor = 1.0

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.factor


class Branching(nn.Module):
    """There is no graph of it, since values decide."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else self.linear(-x)


def masked(length: int, seed: int) -> tuple[Tensor, Tensor]:
    return draw(1, length, 8, seed=seed), torch.ones(1, length)


def pooled() -> torchpool.Predictor:
    """A predictor that has learned to pad."""
    calls = [masked(length, length) for length in (5, 7)]
    return torchpool.wrap(build(Pooled), example=calls, pad={"x": 0, "mask": 0})


@pytest.mark.parametrize("copied", [by_pickle, twice_by_pickle, copy.copy, copy.deepcopy])
def test_a_copy_serves_its_first_call_by_the_graph(copied: Copy, nothing_again: Callable[[], None]) -> None:
    predict, xs = torchpool.wrap(build(Scores), name="scores"), draws(20, 1, 4)
    expected = [eager(predict.model, x) for x in xs]
    predict(xs[0])
    assert predict.ready(HANG)
    contracts = predict.explain().contracts
    other = copied(predict)
    nothing_again()
    assert_all_close([other(xs[0]), *other.map(xs[1:])], expected)
    assert other.explain().contracts == contracts
    assert other.explain().served_by == ("graph",)
    assert [other.stats()[name] for name in ("name", "max_batch")] == ["scores", predict.stats()["max_batch"]]


MADE: dict[str, tuple[Callable[[], torchpool.Predictor], list[Any]]] = {
    "convolution": (lambda: torchpool.wrap(build(SimpleCNN)), [(x,) for x in draws(4, 1, 1, 28, 28)]),
    "method": (lambda: torchpool.wrap(build(Scores).score, max_batch=16), [(x, 0.5) for x in draws(4, 2, 4)]),
    "padded": (pooled, [masked(3 + seed % 5, seed) for seed in range(8)]),
    "lifted": (lambda: torchpool.wrap(build(Scaled)), [(x * 10,) for x in draws(4, 1, 4)]),
    "required": (lambda: torchpool.wrap(build(Scores), prove="required"), [(x,) for x in draws(4, 1, 4)]),
    "trusted": (lambda: torchpool.wrap(build(Scores), prove="trust"), [(x,) for x in draws(4, 1, 4)]),
    "graph": (lambda: torchpool.wrap(build(Scores), example=draw(1, 4), backend="graph"), [(draw(1, 4),)]),
    "two kinds": (lambda: torchpool.wrap(build(Scores).score), [(draw(1, 4),), (draw(1, 4), 2.0)]),
}


@pytest.mark.parametrize("name", MADE)
def test_whatever_was_captured_goes_along(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(building, "_refuse_slower", lambda *args: None)
    make, calls = MADE[name]
    predict = make()
    expected = [eager(predict.model, *call) for call in calls]
    for call in calls:
        predict(*call)
    assert predict.ready(HANG)
    again = by_pickle(predict)
    for module, attribute in ((probes, "find"), (building, "capture_elsewhere"), (building, "choose_first_batch")):
        monkeypatch.setattr(module, attribute, refuse)
    assert_all_close([again(*call) for call in calls], expected)
    assert set(again.explain().served_by) == {"graph"}
    assert again.explain().contracts == predict.explain().contracts


def test_a_proof_for_the_module_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = torchpool.wrap(build(Scores), example=draw(1, 4), backend="python")
    again = by_pickle(predict)
    monkeypatch.setattr(probes, "find", refuse)
    monkeypatch.setattr(building, "capture_elsewhere", refuse)
    xs = draws(20, 1, 4)
    assert_all_close(again.map(xs), [eager(predict.model, x) for x in xs])
    assert [contract.mode for contract in again.explain().contracts] == ["merge"]
    assert again.explain().served_by == ("python",)


def test_that_there_is_no_graph_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    predict = torchpool.wrap(build(Branching))
    predict(draw(1, 4))
    assert predict.ready(HANG)
    again = by_pickle(predict)
    monkeypatch.setattr(building, "capture_elsewhere", refuse)
    for x in draws(6, 1, 4):
        assert_close(again(x), eager(predict.model, x))
    assert again.ready(HANG)
    assert again.explain().contracts[0].rows == predict.explain().contracts[0].rows is not None


def test_weights_are_those_of_the_pickle() -> None:
    predict, x = torchpool.wrap(build(Scores).score), draw(1, 4)
    predict(x)
    assert predict.ready(HANG)
    module = predict.model.__self__  # type: ignore[attr-defined]
    with torch.no_grad():
        module.linear.weight.mul_(3)
    again, other = by_pickle(predict), copy.deepcopy(predict)
    expected = eager(module.score, x)
    with torch.no_grad():
        module.linear.weight.zero_()
    assert_close(again(x), expected)
    assert_close(other(x), expected)
    assert_close(copy.copy(predict)(x), eager(module.score, x))
    with again.updating(), torch.no_grad():
        again.model.__self__.linear.weight.mul_(2)  # type: ignore[attr-defined]
    assert_close(again(x), eager(again.model, x))


def test_another_model_than_the_one_that_was_proven_is_proven_anew() -> None:
    """Its code changed between two releases, say."""
    predict, x = torchpool.wrap(build(Scaled)), draw(1, 4)
    predict(x)
    assert predict.ready(HANG)
    data, before = pickle.dumps(predict), Scaled.forward
    try:
        Scaled.forward = lambda self, x: self.linear(x) * 2  # type: ignore[method-assign]
        again = pickle.loads(data)
        assert_close(again(x), eager(again.model, x))
        assert again.ready(HANG)
        assert_close(again(x), eager(again.model, x))
        assert "saved for another model: the code that its calls run differs" in str(again.explain())
        assert again.explain().contracts[0].rows.kind == "proven"
    finally:
        Scaled.forward = before  # type: ignore[method-assign]


def test_an_attribute_of_its_class_is_part_of_the_model(monkeypatch: pytest.MonkeyPatch) -> None:
    predict, x = torchpool.wrap(build(ByItsClass)), draw(1, 4)
    predict(x)
    assert predict.ready(HANG)
    data = pickle.dumps(predict)
    monkeypatch.setattr(ByItsClass, "factor", 5.0)
    again = pickle.loads(data)
    assert_close(again(x), eager(again.model, x))
    assert "saved for another model" in str(again.explain())


@pytest.mark.parametrize("change", ["in the parent", "in the child", "refresh"])
def test_what_changed_since_is_found_out_anew(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = build(Scores), draw(1, 4)
    model.factor = 1.0  # type: ignore[assignment]
    predict = torchpool.wrap(model)
    predict(x)
    assert predict.ready(HANG)
    if change == "in the parent":
        model.linear = build(Wider)  # type: ignore[assignment]
    again = by_pickle(predict)
    if change == "in the child":
        again.model.linear = build(Wider)  # type: ignore[attr-defined]
    if change == "refresh":
        again.refresh()
    captured = []
    capture = building.capture_elsewhere
    monkeypatch.setattr(building, "capture_elsewhere", lambda *args: captured.append(1) or capture(*args))
    assert_close(again(x), eager(again.model, x))
    assert again.ready(HANG)
    assert captured
    assert_close(again(x), eager(again.model, x))


def test_a_module_that_holds_its_own_predictor() -> None:
    model, x = build(Scores), draw(1, 4)
    model.predict = torchpool.wrap(model)  # type: ignore[assignment]
    model.predict(x)  # type: ignore[operator]
    assert model.predict.ready(HANG)  # type: ignore[operator,union-attr]
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert other.predict.model is other
        assert_close(other.predict(x), eager(other, x))


def test_copies_keep_their_runtime_and_are_closed_by_themselves(runtime: torchpool.Runtime) -> None:
    predict, x = torchpool.wrap(build(Scores), runtime=runtime), draw(1, 4)
    predict(x)
    copies = [copy.copy(predict), copy.deepcopy(predict)]
    assert [other.stats()["workers"] for other in copies] == [1, 1]
    assert copies[0].model is predict.model
    assert copies[1].model is not predict.model
    predict.close()
    for other in copies:
        assert_close(other(x), eager(predict.model, x))


class Holder:
    def __init__(self, held: Any) -> None:
        self.inner = {"held": [1, held]}


HANDLES: dict[str, tuple[Callable[[], Any], str]] = {
    "lock": (threading.Lock, "_thread.lock"),
    "file": (lambda: open(__file__, "rb"), "_io.BufferedReader"),  # noqa: SIM115
    "generator": (lambda: (x for x in [1]), "builtins.generator"),
    "thread": (threading.current_thread, "_thread.lock|threading"),
    "memory": (lambda: memoryview(b"1"), "builtins.memoryview"),
}


@pytest.mark.parametrize("name", HANDLES)
def test_what_cannot_be_pickled_is_named(name: str, request: pytest.FixtureRequest) -> None:
    make, kind = HANDLES[name]
    handle = make()
    request.addfinalizer(getattr(handle, "close", lambda: None))
    model = nn.Sequential(nn.Tanh(), build(Scores))
    model[1].cache = Holder(handle)
    with pytest.raises(TypeError, match=r"'Sequential' cannot be pickled: model\.1\.cache\.inner\['held'\]\[1\].*"):
        pickle.dumps(torchpool.wrap(model.eval()))
    with pytest.raises(TypeError, match=rf"is a ({kind})"):
        pickle.dumps(torchpool.wrap(model.eval()))
    with pytest.raises(TypeError, match=r"cannot be pickled: model\.__self__\.cache\.inner"):
        pickle.dumps(torchpool.wrap(model[1].score))


def test_functions_are_left_to_who_pickles() -> None:
    cloudpickle = pytest.importorskip("cloudpickle")
    predict = torchpool.wrap(lambda x: x * 2, name="double")
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(predict)
    again = pickle.loads(cloudpickle.dumps(predict))
    assert_close(again(draw(1, 4)), draw(1, 4) * 2)


def test_a_model_that_leaves_its_handle_at_home_is_pickled() -> None:
    class Logged(io.BytesIO):
        def __reduce__(self) -> tuple[Any, ...]:
            return io.BytesIO, ()

    model = build(Scores)
    model.log = Logged()  # type: ignore[assignment]
    assert_close(by_pickle(torchpool.wrap(model))(draw(1, 4)), eager(model, draw(1, 4)))


@pytest.mark.parametrize("how", ["spawn", "loky"])
def test_a_spawned_child_serves_by_the_graphs_at_once(how: str) -> None:
    calls = [masked(3 + seed % 5, seed) for seed in range(6)]
    predict = pooled()
    assert predict.ready(HANG)
    if how == "spawn":
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as executor:
            results = executor.submit(served_by_graphs_at_once, predict, calls).result(HANG)
    else:
        loky = pytest.importorskip("joblib.externals.loky")
        with loky.ProcessPoolExecutor(1) as executor:
            results = executor.submit(served_by_graphs_at_once, predict, calls).result(HANG)
    assert_all_close(results, [eager(predict.model, *call) for call in calls])
