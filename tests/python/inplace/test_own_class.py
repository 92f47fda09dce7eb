"""Classes that make a difference between themselves and a subclass: their objects keep them, and are served all the
same."""

from __future__ import annotations

import copy
import functools
import gc
import pickle
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from inplace_support import Classifier, came, classifier, entrance_counts, serve_once, x
from support import assert_close, build, eager
from torch import nn

import torchpool
from torchpool.inplace.own_type import bears_subclass
from torchpool.predictor import entrance_of


class Same(Classifier):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * (2 if type(self) is Same else 1)


class SameClass(Classifier):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * (2 if self.__class__ is SameClass else 1)


class ByName(Classifier):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        cls = type(self)
        return super(cls, self).forward(x) + 1


class Decorated(Classifier):
    @torch.no_grad()
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super(type(self), self).forward(x) + 1


class Bases(Classifier):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return type(self).__bases__[0].forward(self, x) + 1


class InProperty(Classifier):
    @property
    def scale(self) -> float:
        return 3.0 if type(self) is InProperty else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * self.scale


class InCachedProperty(Classifier):
    @functools.cached_property
    def scale(self) -> float:
        return 3.0 if self.__class__ is InCachedProperty else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * self.scale


class InLambda(Classifier):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        scale = lambda: 3.0 if type(self) is InLambda else 1.0  # noqa: E731
        return super().forward(x) * scale()


class ByGetattr(Classifier):
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * (3 if getattr(self, "__class__") is ByGetattr else 1)  # noqa: B009


def hidden(function: Callable[..., Any]) -> Callable[..., Any]:
    """A decorator that tells nobody what it is around."""
    return lambda *args: function(*args)


class Hidden(Classifier):
    @hidden
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * (3 if type(self) is Hidden else 1)


class InClassMethod(Classifier):
    @classmethod
    def scale(cls) -> float:
        return 3.0 if cls is InClassMethod else 1.0

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        return super().forward(x) * self.scale()


class Above(Same):
    """It is not its own code that asks."""


OWN = [
    Same, SameClass, ByName, Decorated, Bases, InProperty, InCachedProperty, InLambda, ByGetattr, Hidden, InClassMethod,
    Above,
]  # fmt: skip


@pytest.mark.parametrize("cls", OWN)
def test_what_it_computes_stays_the_same(cls: type[Classifier]) -> None:
    expected = [eager(build(cls), x(seed)) for seed in range(3)]
    before = vars(cls).get("forward")
    models = [torchpool.accelerate(build(cls)) for _ in range(3)]
    for model in models:
        assert type(model) is cls
        assert_close(serve_once(model, x()), expected[0])
        assert all(torch.equal(eager(model.forward, x(seed)), expected[seed]) for seed in range(3))
    assert_close(eager(build(cls), x()), expected[0])
    assert entrance_of(models[1]) is not entrance_of(models[2])
    for at in (0, 2, 1):
        torchpool.restore(models[at])
        assert_close(eager(models[at], x()), expected[0])
        left = [entrance_of(model) is not None for model in models]
        assert left == {0: [False, True, True], 2: [False, True, False], 1: [False] * 3}[at]
    assert vars(cls).get("forward") is before
    assert not any("_torchpool" in name for name in vars(cls))


def test_what_asks_for_the_name_only_has_a_class_made() -> None:
    class Named(Classifier):
        def extra_repr(self) -> str:
            return f"{type(self).__name__} {self.__class__.__qualname__} {type(self).__module__}"

        @classmethod
        def make(cls) -> Any:
            return cls().eval()

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x) * (2 if type(x) is torch.Tensor and x.__class__ is not None else 1)

    assert bears_subclass(Named)
    assert bears_subclass(nn.Transformer)
    assert not bears_subclass(Same)


def test_counts_in_the_class() -> None:
    class Counting(Classifier):
        calls = 0
        made = 0

        @classmethod
        def count(cls) -> None:
            cls.made += 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            type(self).calls += 1
            self.count()
            return super().forward(x)

    model = torchpool.accelerate(build(Counting), backend="python")
    for _ in range(3):
        eager(model, x())
    assert Counting.calls == Counting.made >= 3


class Reduced(Classifier):
    def __reduce__(self) -> Any:
        return _made, (self.__class__, self.state_dict())


def _made(cls: type[nn.Module], state: dict[str, Any]) -> nn.Module:
    module = cls().eval()
    module.load_state_dict(state)
    return module


class Stated(Classifier):
    def __getstate__(self) -> Any:
        return {"cls": type(self), **self.__dict__}

    def __setstate__(self, state: Any) -> None:
        assert state.pop("cls") is Stated
        self.__dict__.update(state)


class Copied(Classifier):
    def __deepcopy__(self, memo: Any) -> Any:
        cls = self.__class__
        copied = cls.__new__(cls)
        copied.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return copied


@pytest.mark.usefixtures("seeded")
@pytest.mark.parametrize("cls", [Reduced, Stated, Copied])
def test_copies_of_their_own_making(cls: type[Classifier]) -> None:
    model = torchpool.accelerate(build(cls))
    expected = serve_once(model, x())
    for other in (pickle.loads(pickle.dumps(model)), copy.deepcopy(model)):
        assert type(other) is cls
        assert entrance_of(other) is None
        assert_close(eager(other, x()), expected)


def test_registries_never_hear_of_another_class() -> None:
    heard: list[str] = []

    class Registered(Classifier):
        def __init_subclass__(cls, **options: Any) -> None:
            super().__init_subclass__(**options)
            assert cls.__name__ not in heard
            heard.append(cls.__name__)

    class Meta(type):
        def __init__(cls, *args: Any) -> None:
            super().__init__(*args)
            assert cls.__name__ not in heard
            heard.append(cls.__name__)

    class One(Registered):
        pass

    class Ending(Registered):
        __slots__ = ("scale",)

        def __del__(self) -> None:
            pass

    class Other(Classifier, metaclass=Meta):
        pass

    for cls in (One, Ending, Other):
        model = torchpool.accelerate(build(cls))
        expected = serve_once(model, x())
        torchpool.restore(model)
        assert_close(eager(model, x()), expected)
    assert heard == ["One", "Ending", "Other"]


def test_such_a_module_is_freed_and_leaves_no_entrance() -> None:
    kept, model = torchpool.accelerate(build(Same)), torchpool.accelerate(build(Same), backend="python")
    serve_once(model, x())
    ref = weakref.ref(model.inner)
    del model
    gc.collect()
    assert ref() is None
    assert len(vars(Same)["_torchpool_entered_class"].entrances) == 1
    torchpool.restore(kept)
    assert not any("_torchpool" in name for name in vars(Same))


def test_a_block_ends_only_its_own_module() -> None:
    kept = torchpool.accelerate(build(Same))
    with torchpool.accelerate(build(Same)) as model:
        serve_once(model, x())
    assert entrance_of(model) is None
    assert entrance_of(kept) is not None
    torchpool.restore(kept)
    assert not hasattr(Same, "__enter__")


# Patches of the class.


def patched(self: Any, x: torch.Tensor) -> torch.Tensor:
    return self.inner(x).sum(1, keepdim=True) + 100


@pytest.mark.graphs
@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("name", ["forward", "__call__"])
@pytest.mark.parametrize("where", ["class", "above", "type(model)"])
@pytest.mark.parametrize("learned", [False, True])
def test_patches_of_the_class_hold_and_end(
    asks: bool, name: str, where: str, learned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Base(Classifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x)

    class Model(Base):
        own = property(lambda self: type(self) is Model) if asks else None

    plain, model = classifier(), torchpool.accelerate(build(Model))
    expected = eager(plain, x())
    if learned:
        serve_once(model, x())
        assert torchpool.predictor_of(model).ready(60)
        serve_once(model, x())
    of = {"class": Model, "above": Base, "type(model)": type(model)}[where]
    with monkeypatch.context() as patch:
        patch.setattr(of, name, patched, raising=False)
        for seed in range(4):
            assert_close(eager(model, x(seed)), eager(patched, plain, x(seed)))
            if name == "forward":
                assert_close(eager(model.forward, x(seed)), eager(patched, plain, x(seed)))
    for _ in range(3):
        assert_close(eager(model, x()), expected)
        assert_close(eager(model.forward, x()), expected)
    assert_close(serve_once(model, x()), expected)
    torchpool.restore(model)
    assert_close(eager(model, x()), expected)
    assert not any("_torchpool" in key for key in vars(Model))


def test_a_patch_that_writes_to_its_arguments_is_looked_at() -> None:
    class Model(Classifier):
        pass

    def writes(self: Any, x: torch.Tensor) -> torch.Tensor:
        return x.add_(1)

    model = torchpool.accelerate(build(Model))
    serve_once(model, x())
    Model.forward = writes  # type: ignore[method-assign, assignment]
    for _ in range(3):
        inputs = x()
        eager(model, inputs)
        assert torch.equal(inputs, x() + 1)
    assert came(model, "arguments written") == 2, entrance_counts(model)


def test_what_is_set_in_the_class_that_was_made() -> None:
    class Model(Classifier):
        scale = 1.0

        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x) * self.scale

    model = torchpool.accelerate(build(Model))
    expected = serve_once(model, x())
    copy.copy(model), type(model).__annotations__  # notes of Python's own, in that class
    served = came(model)
    eager(model, x())
    assert came(model) == served + 1
    type(model).scale = 2.0
    for _ in range(3):
        assert_close(eager(model, x()), expected * 2)
    assert came(model, "class changed") == 3
    del type(model).scale
    assert_close(serve_once(model, x()), expected)


def test_each_object_of_an_accelerated_class_that_asks_is_served() -> None:
    class Model(Classifier):
        def forward(self, x: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
            return super().forward(x) * (2 if type(self) is Model else 1)

    plain = build(Model)
    expected, before = eager(plain, x()), Model.forward
    torchpool.accelerate(Model)
    models = [build(Model) for _ in range(3)]
    for model in models:
        assert_close(serve_once(model, x()), expected)
    torchpool.restore(Model)
    assert [entrance_of(model) for model in models] == [None] * 3
    assert all(torch.equal(eager(model, x()), expected) for model in models)
    assert Model.forward is before
    assert not any("_torchpool" in name for name in vars(Model))
