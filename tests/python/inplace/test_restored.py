"""What undoes accelerate(), and what is found in objects around a module."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from inplace_support import Classifier, came, classifier, serve_once, x
from support import HANG, GateModule, assert_close, build, eager, row
from support import MARK as HELD
from torch import nn

import torchpool
from torchpool.predictor import entrance_of


def is_plain(model: nn.Module) -> bool:
    return entrance_of(model) is None and not any("_torchpool" in name for name in dir(model))


def test_restored_it_is_as_before() -> None:
    model = torchpool.accelerate(classifier())
    expected = serve_once(model, x())
    predictor = torchpool.predictor_of(model)
    assert torchpool.restore(model) is model
    assert type(model) is Classifier
    assert is_plain(model)
    assert_close(eager(model, x()), expected)
    with pytest.raises(torchpool.Closed):
        predictor(x())
    assert torchpool.restore(model) is model, "once more does nothing"
    torchpool.accelerate(model, max_batch=2)
    assert_close(serve_once(model, x()), expected)


def test_a_block_ends_it() -> None:
    model = classifier()
    with torchpool.accelerate(model) as same:
        assert same is model
        serve_once(model, x())
    assert type(model) is Classifier
    with pytest.raises(ZeroDivisionError), torchpool.accelerate(model):
        raise ZeroDivisionError
    assert is_plain(model)


def test_a_class_with_blocks_of_its_own_keeps_them() -> None:
    class Blocks(Classifier):
        def __enter__(self) -> str:
            return "its own"

        def __exit__(self, *exc_info: object) -> None:
            pass

    model = torchpool.accelerate(build(Blocks))
    with model as found:
        assert found == "its own"
    assert entrance_of(model) is not None


def test_calls_on_their_way_are_finished() -> None:
    model: Any = torchpool.accelerate(build(GateModule))
    serve_once(model, row())
    results: list[Any] = []

    def call() -> None:
        results.append(eager(model, row(HELD)))

    thread = threading.Thread(target=call)
    thread.start()
    model.gate.wait_entered()
    torchpool.restore(model)
    model.gate.open()
    thread.join(HANG)
    assert not thread.is_alive()
    assert_close(results[0], eager(build(GateModule).linear, row(HELD)))


class Pipeline:
    """Has a model, as those of transformers do."""

    def __init__(self, model: nn.Module) -> None:
        self.model, self.name = model, "classification"

    def __call__(self, a: torch.Tensor) -> int:
        with torch.no_grad():
            return int(self.model(a).argmax().item())


class Other:
    def __init__(self, **models: nn.Module) -> None:
        vars(self).update(models)


def test_the_module_that_an_object_holds() -> None:
    expected = Pipeline(classifier())(x())
    pipeline = Pipeline(classifier())
    assert torchpool.accelerate(pipeline) is pipeline
    assert [pipeline(x()) for _ in range(3)] == [expected] * 3
    assert came(pipeline.model) == 2
    assert torchpool.predictor_of(pipeline) is torchpool.predictor_of(pipeline.model)
    assert torchpool.restore(pipeline) is pipeline
    assert is_plain(pipeline.model)

    encoder = Other(net=classifier())
    torchpool.accelerate(encoder)
    assert entrance_of(vars(encoder)["net"]) is not None
    with pytest.raises(TypeError, match="Other has several: net, head"):
        torchpool.accelerate(Other(net=classifier(), head=classifier()))
    with pytest.raises(TypeError, match="got Other"):
        torchpool.accelerate(Other())


def make_class() -> Any:
    @torchpool.accelerate
    class Decorated(nn.Module):
        def __init__(self) -> None:
            super(Decorated, self).__init__()  # noqa: UP008 - such code is what it is about
            self.layer = nn.Linear(10, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)

        def predict(self, x: torch.Tensor) -> int:
            with torch.no_grad():
                return int(self.forward(x).argmax().item())

    return Decorated


def test_a_class_has_all_its_objects_served() -> None:
    cls = make_class()
    assert isinstance(cls, type)
    model, other = build(cls), build(cls)
    model.train()(x()).sum().backward()
    assert type(model) is cls
    model.eval()
    expected = [eager(nn.Module.__call__, model.layer, x(seed)).argmax().item() for seed in range(4)]
    assert [model.predict(x(seed)) for seed in range(4)] == expected
    serve_once(other, x())
    assert came(model) == 3
    assert isinstance(model, cls)


def test_a_subclass_of_an_accelerated_class() -> None:
    cls = make_class()

    class Derived(cls):  # type: ignore[misc]
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) * 2

    model = build(Derived)
    expected = eager(model.layer, x()) * 2
    assert_close(eager(model.forward, x()), expected)
    assert_close(serve_once(model, x()), expected)


def test_a_class_is_restored_with_its_objects() -> None:
    cls = make_class()
    forward = cls.forward.__wrapped__
    model, left = build(cls), build(cls)
    for one in (model, left):
        serve_once(one, x())
    torchpool.restore(left)
    eager(left, x())
    assert type(left) is cls, "one that was restored by itself stays so"
    torchpool.accelerate(left)
    serve_once(left, x())
    assert torchpool.restore(cls) is cls
    assert cls.forward is forward
    assert cls.__call__ is nn.Module.__call__
    for one in (model, left):
        assert type(one) is cls
        eager(one, x())
        assert type(one) is cls
