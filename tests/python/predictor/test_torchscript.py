"""Scripted and traced modules, served by libtorch without the interpreter's lock: same calls, same results."""

from __future__ import annotations

import enum
import io
import threading
from collections.abc import Callable, Iterator
from typing import Any, Dict, List, NamedTuple, Optional, Tuple  # noqa: UP035 - what TorchScript reads

import pytest
import torch
from bad_models import assert_same, together
from support import HANG, LSTMClassifier, assert_close, build, draw, draws, eager, run_threads
from torch import nn

import torchpool

Tensor = torch.Tensor
_ops = torch.library.Library("torchpool_tests", "DEF")
_ops.define("gate(Tensor x) -> Tensor")
_entered, _leave = threading.Event(), threading.Event()
_leave.set()


@torch.library.impl(_ops, "gate", "CPU")
def _gate(x: Tensor) -> Tensor:
    _entered.set()
    assert _leave.wait(HANG), "nobody opened the gate"
    return x * 2


class Gate(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.torchpool_tests.gate(x)


class Lane:
    """A runtime whose one native worker can be held, so that submitted calls wait together."""

    def __init__(self) -> None:
        self.runtime = torchpool.Runtime(1)
        self.blocker = torchpool.wrap(torch.jit.script(Gate().eval()), example=draw(1, 2), runtime=self.runtime)

    def together(self, predict: torchpool.Predictor, calls: list[tuple[Any, ...]]) -> list[Any]:
        self.blocker(torch.ones(1, 2))  # learns how to serve it under the ambient state of now
        _entered.clear()
        _leave.clear()
        held = self.blocker.submit(torch.ones(1, 2))
        assert _entered.wait(HANG), "the native worker never came"
        try:
            futures = [predict.submit(*call) for call in calls]
        finally:
            _leave.set()
        held.result(HANG)
        return [future.exception(HANG) or future.result() for future in futures]

    def check(self, model: Callable[..., Any], calls: list[tuple[Any, ...]]) -> torchpool.Predictor:
        """All calls share one batch, and each gets what eager gives it."""
        predict = torchpool.wrap(model, example=calls[0], runtime=self.runtime)
        assert predict.explain().backend == "torchscript"
        for call, result in zip(calls, self.together(predict, calls), strict=True):
            assert_same(result, eager(model, *call))
        assert predict.stats()["batch_rows"]["count"] == 1
        return predict


@pytest.fixture
def lane() -> Iterator[Lane]:
    lane = Lane()
    yield lane
    lane.runtime.close()


def _loaded(script: torch.jit.ScriptModule) -> torch.jit.ScriptModule:
    file = io.BytesIO()
    torch.jit.save(script, file)
    file.seek(0)
    return torch.jit.load(file)


def _scripted(cls: Callable[[], nn.Module]) -> torch.jit.ScriptModule:
    return torch.jit.script(build(cls))


def test_a_scripted_module(lane: Lane) -> None:
    lane.check(_scripted(LSTMClassifier), [(x,) for x in draws(6, 1, 50, 10)])


@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")
def test_a_traced_module(lane: Lane) -> None:
    model = torch.jit.trace(build(LSTMClassifier), draw(2, 50, 10))
    predict = lane.check(model, [(x,) for x in draws(6, 1, 50, 10)])
    assert predict.explain().contracts[0].inputs[0].name == "x"


def test_a_module_loaded_from_a_file(lane: Lane) -> None:
    lane.check(_loaded(_scripted(LSTMClassifier)), [(x,) for x in draws(6, 1, 50, 10)])


def test_a_frozen_module(lane: Lane) -> None:
    lane.check(torch.jit.freeze(_scripted(LSTMClassifier)), [(x,) for x in draws(6, 1, 50, 10)])


# --- results ----------------------------------------------------------------------------------------------------------


class Point(NamedTuple):
    first: Tensor
    second: Tensor


class AsTuple(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Tuple[Tensor, Tensor]]:  # noqa: UP006
        return x, (x + 1, x.sum(1))


class AsDict(nn.Module):
    def forward(self, x: Tensor) -> Dict[str, Tensor]:  # noqa: UP006
        return {"b": x * 2, "a": x.argmax(1)}


class AsList(nn.Module):
    def forward(self, x: Tensor) -> List[Tensor]:  # noqa: UP006
        return [x, -x]


class AsNamedTuple(nn.Module):
    def forward(self, x: Tensor) -> Point:
        return Point(x, x * 3)


class WithNone(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, Optional[Tensor]]:  # noqa: UP006, UP045
        return x * 2, None


class WithNumber(nn.Module):
    def forward(self, x: Tensor) -> Tuple[Tensor, int]:  # noqa: UP006
        return x * 2, 3


class WithConstant(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("steps", torch.arange(5))

    def forward(self, x: Tensor) -> Tuple[Tensor, Tensor]:  # noqa: UP006
        return x * 2, self.steps


@pytest.mark.parametrize("cls", [AsTuple, AsDict, AsList, WithNone, WithNumber, WithConstant])
def test_results_keep_their_structure(cls: type[nn.Module], lane: Lane) -> None:
    lane.check(torch.jit.script(cls().eval()), [(x,) for x in draws(4, 2, 4)])


def test_a_named_tuple_keeps_its_fields(lane: Lane) -> None:
    model = torch.jit.script(AsNamedTuple().eval())
    predict = torchpool.wrap(model, example=draw(2, 4), runtime=lane.runtime)
    calls = [(x,) for x in draws(4, 2, 4)]
    for call, result in zip(calls, lane.together(predict, calls), strict=True):
        expected = eager(model, *call)
        assert type(result).__name__ == type(expected).__name__ and result._fields == expected._fields
        assert_close(result.first, expected.first)
        assert_close(result.second, expected.second)


def test_results_are_ordinary_tensors_fit_for_training(lane: Lane) -> None:
    model = _scripted(lambda: nn.Linear(4, 3))
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=lane.runtime)
    results = lane.together(predict, [(x,) for x in draws(3, 2, 4)])
    results += [predict(draw(2, 4)), predict.submit(draw(40, 4)).result(HANG)]
    for y in results:
        assert not y.is_inference() and not y.requires_grad
        weight = torch.ones(3, requires_grad=True)
        with torch.enable_grad():
            (y * weight).sum().backward()
        assert weight.grad is not None
        y.add_(1).requires_grad_()


# --- arguments --------------------------------------------------------------------------------------------------------


class Color(enum.Enum):
    RED = 1
    BLUE = 2


class Defaults(nn.Module):
    def forward(self, x: Tensor, y: Optional[Tensor] = None, scale: float = 2.0, shift: int = 1) -> Tensor:  # noqa: UP045
        out = x * scale + shift
        if y is not None:
            out = out + y
        return out


class Listed(nn.Module):
    def forward(self, xs: List[Tensor], weights: List[float]) -> Tensor:  # noqa: UP006
        total = torch.zeros_like(xs[0])
        for x in xs:
            total = total + x
        for weight in weights:
            total = total * weight
        return total


class Mapped(nn.Module):
    def forward(self, xs: Dict[str, Tensor]) -> Tensor:  # noqa: UP006
        return xs["a"] + 2 * xs["b"]


class Tupled(nn.Module):
    def forward(self, x: Tensor, state: Tuple[Tensor, Tensor]) -> Tensor:  # noqa: UP006
        return x + state[0] * state[1]


class Colored(nn.Module):
    def forward(self, x: Tensor, color: Color) -> Tensor:
        if color == Color.RED:
            return x
        return -x


class Typed(nn.Module):
    def forward(self, x: Tensor, dtype: torch.dtype, name: str) -> Tensor:
        if name == "double":
            x = x * 2
        return x.to(dtype)


def _x(seed: int) -> Tensor:
    return draw(1 + seed % 2, 4, seed=seed)


ARGUMENTS: dict[str, tuple[Callable[[], nn.Module], Callable[[int], tuple[Any, ...]]]] = {
    "defaults": (Defaults, lambda i: (_x(i),)),
    "optional tensor": (Defaults, lambda i: (_x(i), _x(i + 10))),
    "None": (Defaults, lambda i: (_x(i), None, 3.0)),
    "an int for a float": (Defaults, lambda i: (_x(i), None, 3)),
    "lists": (Listed, lambda i: ([_x(i), _x(i + 2)], [0.5, 2.0])),
    "empty list": (Listed, lambda i: ([_x(i)], [])),
    "a tuple for a list": (Listed, lambda i: ((_x(i), _x(i + 2)), (0.5,))),
    "dict": (Mapped, lambda i: ({"a": _x(i), "b": _x(i + 2)},)),
    "tuple": (Tupled, lambda i: (_x(i), (_x(i + 2), _x(i + 4)))),
    "enum": (Colored, lambda i: (_x(i), Color.BLUE)),
    "dtype and str": (Typed, lambda i: (_x(i), torch.float64, "double")),
}


@pytest.mark.parametrize("kind", ARGUMENTS)
def test_arguments_reach_the_script_as_python_passes_them(kind: str, lane: Lane) -> None:
    cls, make = ARGUMENTS[kind]
    lane.check(torch.jit.script(cls().eval()), [make(i) for i in range(4)])


def test_keywords_and_defaults(lane: Lane) -> None:
    model = torch.jit.script(Defaults().eval())
    predict = torchpool.wrap(model, runtime=lane.runtime)
    x, y = draws(2, 1, 4)
    calls: list[dict[str, Any]] = [
        {"x": x},
        {"x": x, "scale": 3.0},
        {"y": y, "x": x},
        {"shift": 4, "x": x, "scale": 0.5},
    ]
    for call in calls:
        expected = eager(model, **call)
        assert_close(predict(**call), expected)
        assert_close(predict.submit(**call).result(HANG), expected)


def test_threads_that_alternate_values_do_not_mix() -> None:
    model = torch.jit.script(Defaults().eval())
    predict = torchpool.wrap(model)

    def work(number: int) -> None:
        for i, x in enumerate(draws(20, 1, 4)):
            scale = 2.0 + (i + number) % 2
            assert_close(predict(x, None, scale), eager(model, x, None, scale))

    run_threads(8, work)


def test_an_argument_that_the_script_does_not_take_is_the_scripts_error() -> None:
    model = torch.jit.script(Defaults().eval())
    predict = torchpool.wrap(model, example=draw(1, 4))
    for call in ({"x": draw(1, 4), "nonsense": 1}, {"x": draw(1, 4), "scale": "text"}, {}):
        with pytest.raises(RuntimeError, match="forward"):
            predict(**call)


# --- methods, state, hooks, ambient state -----------------------------------------------------------------------------


class Methods(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x

    @torch.jit.export
    def encode(self, x: Tensor, times: int = 2) -> Tensor:
        return x * times


@pytest.mark.parametrize("load", [False, True])
def test_a_method_other_than_forward(lane: Lane, load: bool) -> None:
    model = torch.jit.script(Methods().eval())
    if load:
        model = _loaded(model)
    predict = lane.check(model.encode, [(x,) for x in draws(4, 2, 4)])
    assert predict.stats()["name"] == "Methods.encode"
    assert_close(predict(draw(1, 4), times=5), draw(1, 4) * 5)


def test_weights_that_change_later_are_seen(lane: Lane) -> None:
    model = _scripted(lambda: nn.Linear(4, 3))
    predict = torchpool.wrap(model, example=draw(1, 4), runtime=lane.runtime)
    before = predict(draw(1, 4))
    model.load_state_dict({"weight": torch.ones(3, 4), "bias": torch.zeros(3)})
    after = lane.together(predict, [(x,) for x in draws(3, 1, 4)])
    for x, y in zip(draws(3, 1, 4), after, strict=True):
        assert_close(y, eager(model, x))
    assert not torch.equal(before, after[0])


class Hooked(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * 2


def _add_five(self: nn.Module, input: Tuple[Tensor], output: Tensor) -> Tensor:  # noqa: UP006
    return output + 5


def test_compiled_hooks_are_run() -> None:
    plain = Hooked().eval()
    plain.register_forward_hook(_add_five)
    model = torch.jit.script(plain)
    predict = torchpool.wrap(model, example=draw(1, 4))
    for x in draws(3, 1, 4):
        assert_close(predict.submit(x).result(HANG), eager(model, x))
    with pytest.raises(TypeError, match="forward hooks"):
        torchpool.wrap(model, backend="torchscript")


def test_autocast_around_a_call_is_honoured(lane: Lane) -> None:
    model = _scripted(lambda: nn.Linear(4, 3))
    predict = torchpool.wrap(model, runtime=lane.runtime)
    x = draw(2, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = eager(model, x)
        assert expected.dtype is torch.bfloat16
        results = [predict(x), predict.submit(x).result(HANG)]
        results += lane.together(predict, [(x,), (x,)])
    for result in results:
        assert_same(result, expected)
    assert_close(predict(x), eager(model, x))


def test_the_torchscript_backend_refuses_what_is_no_script() -> None:
    with pytest.raises(TypeError, match="backend 'torchscript' needs a ScriptModule"):
        torchpool.wrap(build(lambda: nn.Linear(4, 3)), backend="torchscript")


def test_a_script_can_be_served_by_the_python_backend() -> None:
    runtime = torchpool.Runtime(1)
    model = _scripted(lambda: nn.Linear(4, 3))
    predict = torchpool.wrap(model, example=draw(1, 4), backend="python", runtime=runtime)
    xs = draws(4, 1, 4)
    for x, y in zip(xs, together(predict, runtime, [(x,) for x in xs]), strict=True):
        assert_close(y, eager(model, x))
    assert predict.explain().backend == "python"
    runtime.close()
