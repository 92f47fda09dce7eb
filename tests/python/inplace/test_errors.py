"""Errors: the model's reach its caller as they are; those of its predictor do not."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from inplace_support import came, classifier, serve_once, x
from support import POISON, MarkerModule, Poisoned, assert_close, build, draw, eager, row
from torch import nn

import torchpool
from torchpool.inplace import keeper
from torchpool.predictor import Predictor


def test_the_models_own_error_reaches_its_caller() -> None:
    model = torchpool.accelerate(build(MarkerModule))
    serve_once(model, row())
    with torch.no_grad(), pytest.raises(Poisoned, match="a poisoned row"):
        model(row(POISON))
    serve_once(model, row())


def test_arguments_that_do_not_fit_raise_what_the_module_raises() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    serve_once(model, x())
    for args in ((draw(1, 7),), (), ("text",), (draw(1, 10), 1.0, 2.0)):
        with pytest.raises(Exception) as expected:
            eager(plain, *args)
        with pytest.raises(expected.type) as raised:
            eager(model, *args)
        assert str(raised.value) == str(expected.value)


def test_an_error_of_the_predictors_reaches_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    fails, calls = False, 0

    class Failing(Predictor):
        def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if fails:
                raise ValueError("the learner's own")
            return super().__call__(*args, **kwargs)

    monkeypatch.setattr(keeper, "Predictor", Failing)
    plain, model = classifier(), torchpool.accelerate(classifier())
    serve_once(model, x())
    fails, calls = True, 0
    with caplog.at_level(logging.WARNING, "torchpool"), torch.no_grad():
        for seed in range(20):
            assert_close(model(x(seed)), eager(plain, x(seed)))
    assert calls == 4, "the predictor is asked again after 1, 3, 7, ... calls"
    assert sum("the learner's own" in record.message for record in caplog.records) == 1, "said once"
    assert any("the learner's own" in note for note in torchpool.predictor_of(model).explain().notes)
    fails, before = False, came(model)
    with torch.no_grad():
        for _ in range(40):
            model(x())
    assert came(model) > before, "it is served again"


def test_an_interrupt_is_the_callers(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Predictor):
        def __call__(self, /, *args: Any, **kwargs: Any) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setattr(keeper, "Predictor", Interrupted)
    model = torchpool.accelerate(classifier())
    with torch.no_grad():
        model(x())  # by the module: the first of its structure
    with pytest.raises(KeyboardInterrupt), torch.no_grad():
        model(x())


def test_a_predictor_that_was_closed_leaves_calls_to_the_module() -> None:
    plain, model = classifier(), torchpool.accelerate(classifier())
    serve_once(model, x())
    torchpool.predictor_of(model).close()
    for seed in range(5):
        assert_close(eager(model, x(seed)), eager(plain, x(seed)))


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: classifier().forward, "takes the module, not its method forward"),
        (lambda: lambda a: a, "got function"),
        (lambda: 3, "got int"),
        (lambda: torchpool.wrap(classifier()), "takes the model, not its predictor"),
        (lambda: torch.jit.script(classifier()), "ScriptModule, which is compiled: use torchpool.wrap"),
        (lambda: torch.compile(classifier(), backend="eager"), "torch.compile"),
        (lambda: nn.ModuleList(), "has no forward"),
        (lambda: int, "a class of nn.Modules, got class int"),
    ],
)
def test_what_cannot_be_accelerated_is_refused_by_name(make: Any, text: str) -> None:
    with pytest.raises(TypeError, match=text):
        torchpool.accelerate(make())


def test_options_are_those_of_wrap() -> None:
    model = classifier()
    with pytest.raises(TypeError, match="batch_sise"):
        torchpool.accelerate(model, batch_sise=3)
    with pytest.raises(ValueError, match="max_batch must be an int"):
        torchpool.accelerate(model, max_batch=0)
    assert "_torchpool_entrance" not in vars(type(model)), "it is as before"
    torchpool.accelerate(model, max_batch=4)
    assert torchpool.accelerate(model) is model
    assert torchpool.accelerate(model, max_batch=4) is model
    with pytest.raises(ValueError, match="accelerated already, with other options"):
        torchpool.accelerate(model, max_batch=5)


def test_predictor_of_what_is_not_accelerated() -> None:
    with pytest.raises(ValueError, match="not accelerated"):
        torchpool.predictor_of(classifier())
