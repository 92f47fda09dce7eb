"""A model that is trained, evaluated and handed on as ever, accelerated all the while."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from inplace_support import Classifier, came, classifier, x
from support import assert_all_close, assert_clean, assert_close, draw, eager, run_python, run_threads
from torch import nn

import torchpool

STEPS = 100


def train(model: nn.Module, evaluate: bool) -> list[float]:
    """Losses of training steps; between some of them it is evaluated, which must leave no trace."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    losses = []
    for step in range(STEPS):
        model.train()
        inputs = draw(16, 10, seed=step)
        loss = nn.functional.cross_entropy(model(inputs), inputs[:, :3].argmax(1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
        if evaluate and step % 5 == 0:
            model.eval()
            run_threads(4, lambda number: eager(model, x(number)))
    model.eval()
    return losses


@pytest.mark.graphs
def test_nothing_differs_from_the_plain_model() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    assert train(plain, False) == train(model, True), "bit for bit"
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), model.parameters(), strict=True))
    served = came(model)

    def evaluate(of: Any) -> list[Any]:
        work = lambda number: [eager(of, x(20 * number + each)) for each in range(20)]  # noqa: E731
        return [result for results in run_threads(8, work) for result in results]

    expected = evaluate(plain)
    assert_all_close(evaluate(model), expected)
    assert torchpool.predictor_of(model).ready(60)
    assert_all_close(evaluate(model), expected)
    assert came(model) >= served + 320
    for again in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model), torchpool.restore(model)):
        assert type(again) is Classifier
        assert_all_close(evaluate(again), expected)
        assert train(copy.deepcopy(again), False) == train(copy.deepcopy(plain), False)


@pytest.mark.graphs
def test_weights_that_are_written_between_calls_hold_for_the_next_call() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    for round_ in range(6):
        with torch.no_grad():
            for one in (plain, model):
                one.outer.weight.mul_(1.1 + round_)
        for seed in range(3):
            assert_close(eager(model, x(seed)), eager(plain, x(seed)))
        if round_ == 2:
            assert torchpool.predictor_of(model).ready(60)


def test_a_forked_child_is_served() -> None:
    program = """
import os, sys, threading, torch, torchpool
from torch import nn
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
x = torch.randn(1, 10)
with torch.no_grad():
    expected = model(x)
    torchpool.accelerate(model)
    for _ in range(3):
        model(x)
def child():
    results = []
    def work():
        with torch.no_grad():
            results.append(all(torch.allclose(model(x), expected, atol=1e-6) for _ in range(50)))
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    served = torchpool.predictor_of(model).stats()["accepted"]
    return results == [True] * 4 and served > 0
pid = os.fork()
if pid == 0:
    os._exit(0 if child() else 3)
_, status = os.waitpid(pid, 0)
print(os.waitstatus_to_exitcode(status))
with torch.no_grad():
    print(torch.allclose(model(x), expected, atol=1e-6))
"""
    done = run_python(program)
    assert_clean(done)
    assert done.stdout == "0\nTrue\n"
