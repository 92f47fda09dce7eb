"""Calls share a batch of the module whatever their context variables hold, but for those that the module may read."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import operator
import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import transformers
from bad_models import assert_same, busy
from support import HANG, build, draw, draws, eager
from torch import nn

import torchpool
from torchpool.contract.probe import context_variables

Tensor = torch.Tensor

REQUEST: contextvars.ContextVar[int] = contextvars.ContextVar("REQUEST")
FACTOR: contextvars.ContextVar[float] = contextvars.ContextVar("FACTOR", default=1.0)
SETTINGS = types.ModuleType("settings_of_a_service")
SETTINGS.FACTOR = FACTOR  # type: ignore[attr-defined]


class Model(nn.Module):
    """Multiplies its result by what `factor` gives."""

    def __init__(self, factor: Callable[[], float] = lambda: 1.0) -> None:
        super().__init__()
        self.linear, self.factor = nn.Linear(4, 3), factor

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.factor()


class Reader:
    def __init__(self) -> None:
        self.variable = FACTOR

    def __call__(self) -> float:
        return self.variable.get()


class Named(Model):
    """Reads by its own code."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * FACTOR.get()


class InABranch(Model):
    """Not while it is learned."""

    scaled = False

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y * self.factor() if self.scaled else y


class Hooked(Model):
    def __init__(self) -> None:
        super().__init__()
        self.register_forward_hook(lambda module, args, y: y * FACTOR.get())


def _helper() -> float:
    return _inner_helper()


def _inner_helper() -> float:
    return FACTOR.get()


@functools.lru_cache(maxsize=1)
def _cached() -> contextvars.ContextVar[float]:
    return FACTOR


def _decorator(function: Callable[[], float]) -> Callable[[], float]:
    @functools.wraps(function)
    def wrapper() -> float:
        return function()

    return wrapper


_decorated = _decorator(_helper)


@contextlib.contextmanager
def _factor(value: float) -> Iterator[None]:
    token = FACTOR.set(value)
    try:
        yield
    finally:
        FACTOR.reset(token)


class InASlot:
    __slots__ = ("nothing", "variable")

    def __init__(self, variable: contextvars.ContextVar[float]) -> None:
        self.variable = variable


class Current(type):
    @property
    def factor(cls) -> float:
        return FACTOR.get()


class Service(metaclass=Current):
    pass


_IN_A_SLOT = InASlot(FACTOR)
_getter = operator.attrgetter
_get_variable = operator.attrgetter("FACTOR")


READS: dict[str, Callable[[], nn.Module]] = {
    "in forward": Named,
    "in a branch that was not taken": lambda: InABranch(lambda: FACTOR.get()),
    "in such a branch, by a helper's helper": lambda: InABranch(_helper),
    "in such a branch, by a bound method": lambda: InABranch(FACTOR.get),
    "in such a branch, by an object": lambda: InABranch(Reader()),
    "in such a branch, by an attribute of a module": lambda: InABranch(lambda: SETTINGS.FACTOR.get()),
    "in such a branch, by a partial": lambda: InABranch(functools.partial(_helper)),
    "in such a branch, by a cached function": lambda: InABranch(lambda: _cached().get()),
    "in such a branch, by a decorated function": lambda: InABranch(_decorated),
    "in such a branch, by a slot": lambda: InABranch(lambda: _IN_A_SLOT.variable.get()),
    "in such a branch, by a property of a class": lambda: InABranch(lambda: Service.factor),
    "in such a branch, by globals()": lambda: InABranch(lambda: globals()["FACTOR"].get()),
    "in such a branch, by eval()": lambda: InABranch(lambda: eval("FACTOR").get()),
    "in such a branch, by sys.modules": lambda: InABranch(lambda: vars(sys.modules[__name__])["FACTOR"].get()),
    "in such a branch, by a getter": lambda: InABranch(lambda: _get_variable(SETTINGS).get()),
    "in such a branch, by a getter of its own": lambda: InABranch(
        lambda: operator.attrgetter("FACTOR")(SETTINGS).get()
    ),
    "in a hook": Hooked,
    "in a lambda": lambda: Model(lambda: FACTOR.get()),
    "in a helper's helper": lambda: Model(_helper),
    "by a bound method": lambda: Model(FACTOR.get),
    "by an object": lambda: Model(Reader()),
    "by an attribute of a module": lambda: Model(lambda: SETTINGS.FACTOR.get()),
    "by a partial": lambda: Model(functools.partial(_helper)),
    "hidden in a cache": lambda: Model(lambda: _cached().get()),
    "by a copy of the context": lambda: Model(lambda: contextvars.copy_context().get(FACTOR, 1.0)),
    "by a name that is put together": lambda: Model(lambda: getattr(sys.modules[__name__], "FAC" + "TOR").get()),
    "in a submodule": lambda: nn.Sequential(nn.Linear(4, 4), Named()),
}


def together(predict: torchpool.Predictor, runtime: torchpool.Runtime, calls: list[Callable[[], Any]]) -> list[Any]:
    """Futures' results of calls that wait together, each made in a context of its own."""
    with busy(runtime):
        futures = [contextvars.copy_context().run(call) for call in calls]
    return [future.result(HANG) for future in futures]


def with_factor(predict: Any, x: Tensor, number: int, factor: float) -> Callable[[], Any]:
    def call() -> Any:
        REQUEST.set(number)
        FACTOR.set(factor)
        return predict(x)

    return call


@pytest.mark.parametrize("kind", READS)
def test_what_the_model_reads_is_the_callers_own(kind: str, runtime: torchpool.Runtime) -> None:
    model = build(READS[kind])
    predict = torchpool.wrap(model, example=draw(1, 4), backend="python", runtime=runtime)
    if isinstance(model, InABranch):
        model.scaled = True
    factors = [1.0, 2.0, 3.0]  # the same objects, so that calls with one of them may share a batch
    xs = [x + 100 * (number % 2) for number, x in enumerate(draws(12, 1, 4))]
    calls = [with_factor(predict.submit, x, number, factors[number % 3]) for number, x in enumerate(xs)]
    for number, (x, result) in enumerate(zip(xs, together(predict, runtime, calls), strict=True)):
        with _factor(factors[number % 3]):
            assert_same(result, eager(model, x))


@pytest.mark.parametrize("kind", ["in forward", "in a branch that was not taken", "in a helper's helper", "in a hook"])
def test_calls_with_equal_values_of_what_it_reads_share_a_batch(kind: str, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(READS[kind]), example=draw(1, 4), backend="python", runtime=runtime)
    before, factor = predict.stats()["batch_rows"]["count"], 2.0
    calls = [with_factor(predict.submit, x, number, factor) for number, x in enumerate(draws(6, 1, 4))]
    together(predict, runtime, calls)
    assert predict.stats()["batch_rows"]["count"] - before == 1
    assert "only with equal values of the context variables that the model may read: FACTOR" in str(predict.explain())


def _plain(x: Tensor) -> Tensor:
    return x * 2


@pytest.mark.parametrize(
    "make",
    [Model, lambda: _plain, lambda: torch.jit.script(build(lambda: nn.Linear(4, 3)))],
    ids=["module", "plain", "script"],
)
def test_what_it_does_not_read_ends_no_batch(make: Callable[[], Any], runtime: torchpool.Runtime) -> None:
    model = build(make) if make is Model else make()
    xs = draws(40, 1, 4)
    predict = torchpool.wrap(model, example=xs[0], prove="trust", runtime=runtime)
    calls = [with_factor(predict.submit, x, number, float(number)) for number, x in enumerate(xs)]
    for x, result in zip(xs, together(predict, runtime, calls), strict=True):
        assert_same(result, eager(model, x))
    # A script's worker is not the one that is held.
    assert predict.stats()["batch_rows"]["max"] > 1 or isinstance(model, torch.jit.ScriptModule)
    assert "whatever their context variables hold, since the model reads none" in str(predict.explain())


def test_a_variable_that_is_set_where_it_is_learned_from_counts(runtime: torchpool.Runtime) -> None:
    def learn() -> torchpool.Predictor:
        FACTOR.set(5.0)
        return torchpool.wrap(build(Named), example=draw(1, 4), backend="python", runtime=runtime)

    predict = contextvars.copy_context().run(learn)
    assert_same(predict(draw(1, 4)), eager(predict.model, draw(1, 4)))


class LocalProxy:
    """Named as werkzeug's, which hides the variable that it reads."""


PROXY = LocalProxy()


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (Model, ()),
        (Named, (FACTOR,)),
        (lambda: InABranch(lambda: FACTOR.get()), (FACTOR,)),
        (lambda: Model(lambda: contextvars.copy_context().get(FACTOR, 1.0)), None),
        (lambda: Model(lambda: float(PROXY is not None)), None),
    ],
)
def test_variables(make: Callable[[], nn.Module], found: Any) -> None:
    model = build(make)
    assert context_variables(model, model, functools.partial(model, draw(1, 4))) == found


class Tidies(Model):
    """Its code has names of ways to find a variable, and goes none of them."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.eval()
        return self.linear(x) * len(list(self.modules()))


def test_names_alone_keep_no_calls_apart() -> None:
    model = build(Tidies)
    assert context_variables(model, model, functools.partial(model, draw(1, 4))) == ()


class Hidden(Model):
    """No name leads to the variable, and C reads it, where no profile function sees it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * operator.methodcaller("get")(sys.modules["hidden_reads"].variable)


def test_a_run_without_variables_tells_of_reads_that_no_code_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("hidden_reads")
    module.variable = FACTOR  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hidden_reads", module)
    model = build(Hidden)

    def look() -> Any:
        FACTOR.set(3.0)
        return context_variables(model, model, functools.partial(model, draw(1, 4)))

    assert contextvars.copy_context().run(look) is None


class Unset(Model):
    """Draws, and remembers that it did, where its variable is not set."""

    drawn = 0

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x)
        if operator.methodcaller("get", None)(sys.modules["hidden_reads"].variable) is None:
            self.drawn += 1
            return y + torch.rand(3)
        return y


def test_a_run_without_variables_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("hidden_reads")
    variable = module.variable = contextvars.ContextVar("variable")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "hidden_reads", module)
    model: Any = build(Unset)

    def look() -> Any:
        variable.set(1)
        return context_variables(model, model, functools.partial(model, draw(1, 4)))

    before = torch.get_rng_state()
    assert contextvars.copy_context().run(look) is None
    assert torch.equal(before, torch.get_rng_state()) and model.drawn == 0


def test_under_somebodys_profiler_any_may_be_read() -> None:
    model = build(Model)
    profile = sys.getprofile()
    sys.setprofile(lambda frame, event, arg: None)
    try:
        assert context_variables(model, model, functools.partial(model, draw(1, 4))) is None
    finally:
        sys.setprofile(profile)


# --- graphs -----------------------------------------------------------------------------------------------------------

READ_BY_GRAPHS = [
    "in forward", "in a lambda", "in a helper's helper", "by a bound method", "by an object", "hidden in a cache",
    "by a copy of the context", "in a submodule",
]  # fmt: skip


@pytest.mark.graphs
@pytest.mark.parametrize("kind", READ_BY_GRAPHS)
def test_no_graph_has_the_value_of_the_call_that_it_was_learned_from(kind: str, runtime: torchpool.Runtime) -> None:
    model = build(READS[kind])
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=runtime)  # where the variable has its default
    assert predict.ready(HANG)
    calls = [with_factor(predict.submit, x, number, 1.0 + number % 3) for number, x in enumerate(draws(9, 1, 4))]
    for number, result in enumerate(together(predict, runtime, calls)):
        with _factor(1.0 + number % 3):
            assert_same(result, eager(model, draw(1, 4, seed=number)))
    assert "the module reads" in str(predict.explain()), predict.explain()


class Selects(Model):
    """Its rows meet for one of the variable's values."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x - x.mean(0) if FACTOR.get() > 1 else x)


@pytest.mark.graphs
def test_a_proof_for_one_value_is_none_for_another(runtime: torchpool.Runtime) -> None:
    model = build(Selects)
    predict = torchpool.wrap(model, example=draw(2, 4), backend="python", runtime=runtime)
    assert predict.ready(HANG)
    factor = 2.0
    calls = [with_factor(predict.submit, x, 0, factor) for x in draws(6, 2, 4)]
    for number, result in enumerate(together(predict, runtime, calls)):
        with _factor(factor):
            assert_same(result, eager(model, draw(2, 4, seed=number)))


@pytest.mark.graphs
def test_what_transformers_collects_by_keeps_no_graph_away(runtime: torchpool.Runtime) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = build(lambda: transformers.BertModel(transformers.BertConfig(vocab_size=30, **sizes)))
    ids = torch.arange(6).view(1, 6)
    predict = torchpool.wrap(model, example={"input_ids": ids, "output_hidden_states": True}, runtime=runtime)
    assert predict.ready(HANG)
    assert predict.explain().served_by == ("graph",), predict.explain()
