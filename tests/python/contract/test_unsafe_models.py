"""Models that must not be batched: they run alone, in order where that matters, rightly, and explain() says why."""

from __future__ import annotations

import functools
import operator
import random
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from bad_models import Counter, Noted, together
from support import HANG, assert_close, build, draw, draws, eager, run_threads
from torch import nn

import torchpool

Tensor = torch.Tensor


# --- rows that influence each other -----------------------------------------------------------------------------------


class Faulty(nn.Module):
    def __init__(self, fault: Callable[[nn.Module, Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.fault = nn.Linear(4, 3), fault

    def forward(self, x: Tensor) -> Any:
        return self.fault(self.linear, x)


LEAKY: dict[str, tuple[Callable[[Any, Tensor], Any], str]] = {
    "mean of the batch": (lambda f, x: f(x - x.mean(0)), "rows influence each other"),
    "tiny leak": (lambda f, x: f(x) + 1e-7 * x.sum(), "rows influence each other"),
    "softmax over the batch": (lambda f, x: f(x).softmax(0), "rows influence each other"),
    "branch on the sum": (lambda f, x: f(x) if x.sum() > 0 else -f(x), "rows influence each other"),
    "sorted rows": (lambda f, x: f(x).sort(0).values, "rows influence each other"),
    "size of the batch": (lambda f, x: f(x) * len(x), "depends on the batch size"),
    "one number for all": (lambda f, x: (f(x), f(x).mean()), "rows influence each other"),
}


@pytest.mark.parametrize("kind", LEAKY)
def test_a_leaky_model_runs_alone_with_right_values(kind: str, runtime: torchpool.Runtime) -> None:
    fault, reason = LEAKY[kind]
    model = build(lambda: Faulty(fault))
    predict = torchpool.wrap(model, example=draw(2, 4), runtime=runtime)
    calls = [(draw(2 + i % 2, 4, seed=i),) for i in range(6)]
    for call, result in zip(calls, together(predict, runtime, calls), strict=True):
        assert_close(result, eager(model, *call))
    contract = predict.explain().contracts[0]
    assert contract.mode == "alone" and reason in str(contract.reason)
    failed = [check for check in contract.checks if not check.passed]
    assert len(failed) == 1 and re.search(r"\d", failed[0].detail)
    assert f"no  {failed[0].name}: {failed[0].detail}" in str(predict.explain())


def test_a_leaky_model_serves_threads_and_map(runtime: torchpool.Runtime) -> None:
    model = build(lambda: Faulty(LEAKY["mean of the batch"][0]))
    predict = torchpool.wrap(model)

    def work(number: int) -> None:
        for x in draws(10, 3, 4):
            assert_close(predict(x + number), eager(model, x + number))

    run_threads(8, work)
    xs = draws(30, 2, 4)
    for x, y in zip(xs, predict.map(xs), strict=True):
        assert_close(y, eager(model, x))


def test_a_model_that_writes_its_input_leaves_the_callers_tensor_as_eager_does(runtime: torchpool.Runtime) -> None:
    model = build(lambda: Faulty(lambda f, x: f(x.mul_(2))))
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    assert "input 'x' is changed in place by the model" in str(predict.explain())
    ours, theirs = draw(2, 4), draw(2, 4)
    assert_close(predict(ours), eager(model, theirs))
    assert torch.equal(ours, theirs)


# --- state ------------------------------------------------------------------------------------------------------------


def test_a_stateful_model_runs_in_order_through_map() -> None:
    predict = torchpool.wrap(Counter().eval(), example=torch.zeros(1, 1))
    results = predict.map(torch.zeros(1, 1) for _ in range(50))
    assert [float(y) for y in results] == list(range(1, 51))
    assert "buffer count changed by 1" in str(predict.explain())
    assert predict.explain().contracts[0].serial


def test_a_stateful_model_runs_in_order_through_submit(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Counter().eval(), example=torch.zeros(1, 1), runtime=runtime)
    results = together(predict, runtime, [(torch.zeros(1, 1),)] * 20)
    assert [float(y) for y in results] == list(range(1, 21))


def test_a_stateful_model_counts_every_call_of_several_threads_once() -> None:
    model = Counter().eval()
    predict = torchpool.wrap(model, example=torch.zeros(1, 1))
    results = run_threads(8, lambda _: [float(predict(torch.zeros(1, 1))) for _ in range(25)])
    assert sorted(functools.reduce(operator.iadd, results, [])) == list(range(1, 201))
    assert all(values == sorted(values) for values in results)
    assert int(model.count) == 200


def test_a_stateful_model_that_is_learned_meanwhile_counts_every_call_once() -> None:
    model = Counter().eval()
    predict = torchpool.wrap(model)
    results = run_threads(8, lambda _: [float(predict(torch.zeros(1, 1))) for _ in range(5)])
    assert sorted(functools.reduce(operator.iadd, results, [])) == list(range(1, 41))


def test_calls_submitted_while_a_stateful_model_is_learned_are_counted_once() -> None:
    model = Counter().eval()
    predict = torchpool.wrap(model)
    results = run_threads(8, lambda _: [predict.submit(torch.zeros(1, 1)) for _ in range(5)])
    values = [float(future.result(HANG)) for futures in results for future in futures]
    assert sorted(values) == list(range(1, 41))


class Remembers(nn.Module):
    """Adds what it was called with last; the state is a plain attribute."""

    last: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        before, self.last = self.last, x.clone()
        return x if before is None else x + before


def test_state_in_a_plain_attribute_is_kept_in_order_and_found() -> None:
    model = Remembers().eval()
    predict = torchpool.wrap(model, example=torch.zeros(1, 1))
    assert model.last is None, "probing leaves no trace"
    results = predict.map(torch.full((1, 1), float(i)) for i in range(10))
    assert [float(y) for y in results] == [0, 1, 3, 5, 7, 9, 11, 13, 15, 17]
    assert predict.explain().contracts[0].serial


class Scratch(nn.Module):
    """Returns a buffer that its next call writes again."""

    def __init__(self) -> None:
        super().__init__()
        self.out = torch.zeros(1, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.out.copy_(x)
        return self.out


def test_results_in_memory_that_the_model_reuses_are_copied(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Scratch().eval(), example=draw(1, 4), runtime=runtime)
    xs = draws(6, 1, 4)
    results = [predict(x) for x in xs] + together(predict, runtime, [(x,) for x in xs]) + list(predict.map(xs))
    for x, y in zip(xs * 3, results, strict=True):
        assert torch.equal(x, y)


def test_probing_leaves_a_stateful_model_as_it_was() -> None:
    model = Counter().eval()
    torchpool.wrap(model, example=torch.zeros(1, 1))
    assert int(model.count) == 0


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


def test_a_model_that_draws_random_numbers_draws_the_same_as_eager_would(
    runtime: torchpool.Runtime, seeded: None
) -> None:
    model = Noisy().eval()
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    assert "model draws random numbers" in str(predict.explain())
    torch.manual_seed(3)
    expected = [eager(model, x) for x in draws(6, 1, 4)]
    torch.manual_seed(3)
    for result, want in zip(together(predict, runtime, [(x,) for x in draws(6, 1, 4)]), expected, strict=True):
        assert torch.equal(result, want)


def test_wrapping_and_probing_leave_random_states_alone(seeded: None) -> None:
    random.seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()

    class Draws(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand(1) + random.random() + float(np.random.rand())

    for model in (Draws().eval(), Noisy().eval(), build(lambda: nn.Linear(4, 3))):
        torchpool.wrap(model, example=draw(1, 4))
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1]
    assert (np.random.get_state()[1] == before[2]).all()


# --- train mode -------------------------------------------------------------------------------------------------------


def _with_dropout() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3))


def _with_batchnorm() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))


@pytest.mark.parametrize("make", [_with_dropout, _with_batchnorm])
def test_train_mode_that_changes_results_is_refused(make: Callable[[], nn.Module], seeded: None) -> None:
    model = build(make).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=r"model is in train mode \(call model.eval\(\) first\)"):
        torchpool.wrap(model, example=draw(4, 4))
    predict = torchpool.wrap(model)
    for _ in range(2):
        with pytest.raises(ValueError, match="model is in train mode"):
            predict(draw(4, 4))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    model.eval()
    assert_close(predict(draw(4, 4)), eager(model, draw(4, 4)))


@pytest.mark.parametrize("make", [_with_dropout, _with_batchnorm])
def test_train_mode_switched_on_later_is_refused_too(make: Callable[[], nn.Module], seeded: None) -> None:
    model = build(make)
    predict = torchpool.wrap(model, example=draw(2, 4))
    assert_close(predict(draw(2, 4)), eager(model, draw(2, 4)))
    model[1].train()
    for call in (predict, lambda x: predict.submit(x).result(HANG), lambda x: list(predict.map([x]))):
        with pytest.raises(ValueError, match="model is in train mode"):
            call(draw(2, 4))
    model.eval()
    assert_close(predict(draw(2, 4)), eager(model, draw(2, 4)))


def test_train_mode_that_changes_nothing_is_accepted(runtime: torchpool.Runtime) -> None:
    model = build(lambda: nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))).train()
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)
    assert predict.explain().contracts[0].mode == "merge"
    assert_close(predict(draw(2, 4)), eager(model, draw(2, 4)))
    assert model.training


def test_batch_false_serves_a_model_in_train_mode(seeded: None) -> None:
    model = build(_with_dropout).train()
    predict = torchpool.wrap(model, batch=False)
    torch.manual_seed(5)
    result = predict(draw(2, 4))
    torch.manual_seed(5)
    assert torch.equal(result, eager(model, draw(2, 4)))


def test_probing_an_eval_model_with_batchnorm_leaves_its_statistics() -> None:
    model = build(_with_batchnorm)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    torchpool.wrap(model, example=draw(4, 4))
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


# --- calls while the first one is learned from ------------------------------------------------------------------------


def test_calls_of_other_threads_are_answered_while_the_first_is_learned_from() -> None:
    entered, leave = threading.Event(), threading.Event()

    def note(rows: int) -> None:
        if threading.current_thread().name == "learner":
            entered.set()
            assert leave.wait(HANG)

    model = Noted(build(lambda: nn.Linear(4, 3)), note).eval()
    predict = torchpool.wrap(model)
    learner = threading.Thread(target=predict, args=(draw(1, 4),), name="learner")
    learner.start()
    assert entered.wait(HANG)
    results = run_threads(4, lambda number: predict(draw(1, 4, seed=number)))
    leave.set()
    learner.join(HANG)
    for number, y in enumerate(results):
        assert_close(y, eager(model, draw(1, 4, seed=number)))


class InstallsHooks(nn.Module):
    """Doubles its result by a hook that its first forward registers, as transformers' models do to capture states."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not getattr(self, "installed", False):
            self.linear.register_forward_hook(lambda module, args, output: output * 2)
            self.installed = True
        return self.linear(x)


@pytest.mark.parametrize("learned_first", [True, False])
def test_hooks_that_the_first_forward_registers_are_registered_once(learned_first: bool) -> None:
    other, model, x = build(InstallsHooks), build(InstallsHooks), draw(1, 4)
    other.load_state_dict(model.state_dict())
    with torchpool.wrap(model, example=x if learned_first else None) as predict:
        assert_close(predict(x), eager(other, x))
        assert_close(list(predict.map([x, x]))[1], eager(other, x))
    assert_close(eager(model, x), eager(other, x))
    assert len(model.linear._forward_hooks) == 1
