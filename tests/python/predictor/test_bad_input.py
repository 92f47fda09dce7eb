"""Calls that do not fit: a typed error at the call or the model's own result, and no effect on neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from bad_models import Embedder, Masked, outcome, together
from support import LSTMClassifier, assert_close, build, draw, draws, eager, run_threads
from torch import nn

import torchpool

Tensor = torch.Tensor


class Tagged(torch.Tensor):
    """A subclass, which is left to the model."""


class Layer(nn.Linear):
    def __init__(self) -> None:
        super().__init__(10, 3)


@dataclass
class Served:
    model: nn.Module
    predict: torchpool.Predictor
    runtime: torchpool.Runtime
    shape: tuple[int, ...]

    def beside_neighbours(self, *args: Any, **kwargs: Any) -> Any:
        """The call's result or exception, while 8 threads make good calls and get right results."""

        def work(number: int) -> Any:
            if number == 0:
                return outcome(self.predict, *args, **kwargs)
            for x in draws(4, *self.shape):
                assert_close(self.predict(x), eager(self.model, x))
            return None

        result = run_threads(9, work)[0]
        self.check_intact()
        return result

    def check_intact(self) -> None:
        """It still answers, and still in shared batches."""
        before = self.predict.stats()["batch_rows"]["count"]
        xs = draws(6, *self.shape)
        for x, y in zip(xs, together(self.predict, self.runtime, [(x,) for x in xs]), strict=True):
            assert_close(y, eager(self.model, x))
        assert self.predict.stats()["batch_rows"]["count"] == before + 1
        assert self.predict.explain().contracts[0].mode == "merge"


@pytest.fixture(params=["linear", "lstm"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    shape = (1, 10) if request.param == "linear" else (1, 50, 10)
    model = build(Layer if request.param == "linear" else LSTMClassifier)
    runtime = torchpool.Runtime(1)
    yield Served(model, torchpool.wrap(model, example=draw(*shape), runtime=runtime), runtime, shape)
    runtime.close()


REFUSED: dict[str, tuple[Callable[[Tensor], tuple[tuple[Any, ...], dict[str, Any]]], type[Exception], str]] = {
    "wrong dtype": (lambda x: ((x.double(),), {}), TypeError, r"input '\w+' has dtype float64, expected float32"),
    "integers": (lambda x: ((x.long(),), {}), TypeError, r"input '\w+' has dtype int64, expected float32"),
    "wrong fixed dim": (
        lambda x: ((x[..., :7],), {}),
        ValueError,
        r"input '\w+' has size 7 in dim \d \(shape \[1, .*7\]\), expected 10",
    ),
    "wrong device": (lambda x: ((x.to("meta"),), {}), ValueError, r"input '\w+' is on device meta, expected cpu"),
    "missing argument": (lambda x: ((), {}), TypeError, r"missing 1 required positional argument: '\w+'"),
    "extra argument": (lambda x: ((x, x), {}), TypeError, "takes 2 positional arguments but 3 were given"),
    "unknown keyword": (lambda x: ((x,), {"mask": x}), TypeError, "unexpected keyword argument 'mask'"),
    "unknown value": (lambda x: ((x,), {"mask": 1}), TypeError, "unexpected keyword argument 'mask'"),
    "numpy array": (
        lambda x: ((x.numpy(),), {}),
        TypeError,
        r"argument '(input|x)' is of type numpy.ndarray.* passed tensors \((input|x): float32\): .*as_tensor",
    ),
    "list of floats": (lambda x: (([0.5] * 10,), {}), TypeError, r"'(input|x)' .*(Tensor|tensor)"),
    "string": (lambda x: (("text",), {}), TypeError, r"'(input|x)' .*(Tensor|tensor)"),
    "None": (lambda x: ((None,), {}), TypeError, r"'(input|x)' .*(Tensor|tensor)"),
    "requires grad": (lambda x: ((x.clone().requires_grad_(),), {}), TypeError, "requires grad.*torch.no_grad"),
    "Parameter": (lambda x: ((nn.Parameter(x),), {}), TypeError, "requires grad.*torch.no_grad"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_call_that_does_not_fit_is_a_typed_error_that_names_the_input(served: Served, what: str) -> None:
    make, cls, words = REFUSED[what]
    args, kwargs = make(draw(*served.shape))

    def call() -> Any:
        with torch.enable_grad():
            return served.predict(*args, **kwargs)

    assert isinstance(outcome(served.predict, *draws(1, *served.shape)), Tensor)
    error = None
    try:
        call()
    except Exception as raised:
        error = raised
    assert type(error) is cls, error
    with pytest.raises(cls, match=words):
        raise error


@pytest.mark.parametrize("what", [name for name in REFUSED if name not in ("requires grad", "Parameter")])
def test_a_call_that_does_not_fit_leaves_its_neighbours_alone(served: Served, what: str) -> None:
    args, kwargs = REFUSED[what][0](draw(*served.shape))
    assert isinstance(served.beside_neighbours(*args, **kwargs), Exception)


ODD: dict[str, Callable[[Tensor], Any]] = {
    "no rows": lambda x: x[:0],
    "not contiguous": lambda x: torch.cat([x, x], -1)[..., ::2],
    "expanded": lambda x: x[:, :1].expand_as(x),
    "transposed": lambda x: x.transpose(0, -1).contiguous().transpose(0, -1),
    "one value for all": lambda x: torch.tensor(0.5).expand_as(x),
    "subclass": lambda x: x.as_subclass(Tagged),
    "requires grad": lambda x: x.clone().requires_grad_(),
    "Parameter": lambda x: nn.Parameter(x),
    "part of a graph": lambda x: x.clone().requires_grad_() * 2,
    "view of an array": lambda x: torch.from_numpy(x.numpy().copy()),
    "read-only memory": lambda x: torch.frombuffer(bytearray(x.numpy().tobytes()), dtype=torch.float32).view(x.shape),
    "negated view": lambda x: torch._neg_view(x),
    "no batch dim": lambda x: x[0],
    "inference tensor": lambda x: _inference(x),
}


def _inference(x: Tensor) -> Tensor:
    with torch.inference_mode():
        return x.clone()


@pytest.mark.parametrize("what", ODD)
def test_an_odd_input_gives_what_eager_gives(served: Served, what: str) -> None:
    x = ODD[what](draw(*served.shape))
    assert_close(served.beside_neighbours(x), eager(served.model, x))


@pytest.mark.parametrize("what", ODD)
def test_odd_inputs_that_wait_together_give_what_eager_gives(served: Served, what: str) -> None:
    with torch.no_grad():
        xs = [x if i % 2 else ODD[what](x) for i, x in enumerate(draws(6, *served.shape))]
        results = together(served.predict, served.runtime, [(x,) for x in xs])
    for x, y in zip(xs, results, strict=True):
        assert_close(y, eager(served.model, x))


def test_sparse_input_gives_what_eager_gives_or_says_what_it_is(served: Served) -> None:
    x = draw(*served.shape).to_sparse()
    expected = outcome(served.model, x)
    result = served.beside_neighbours(x)
    if isinstance(expected, Tensor):
        assert_close(result, expected)
    else:
        assert isinstance(result, TypeError) and "not dense" in str(result)


def test_wrong_rank_names_the_input(served: Served) -> None:
    x = draw(*served.shape)[None, None]
    expected = outcome(served.model, x)
    result = served.beside_neighbours(x)
    if isinstance(expected, Tensor):
        assert_close(result, expected)
    else:
        assert isinstance(result, ValueError)
        assert str(result).startswith("input 'x' has 5 dims, expected 3 as in earlier calls; the model refuses it")


def test_nan_stays_in_its_row(served: Served) -> None:
    xs = draws(6, *served.shape)
    xs[2][..., 0] = float("nan")
    results = together(served.predict, served.runtime, [(x,) for x in xs])
    assert [bool(y.isnan().all()) for y in results] == [i == 2 for i in range(6)]
    for i in (0, 1, 3, 4, 5):
        assert_close(results[i], eager(served.model, xs[i]))


def test_an_error_says_what_the_model_said_and_keeps_it_as_cause(served: Served) -> None:
    with pytest.raises(ValueError, match="the model refuses it: RuntimeError") as caught:
        served.predict(draw(*served.shape)[..., :7])
    assert isinstance(caught.value.__cause__, RuntimeError)


def test_grad_is_refused_for_the_input_that_has_it() -> None:
    model = build(Masked)
    predict = torchpool.wrap(model, example=(draw(1, 5, 4), torch.ones(1, 5)))
    with pytest.raises(TypeError, match=r"input 'mask' requires grad.*torch.no_grad"):
        predict(draw(1, 5, 4), torch.ones(1, 5, requires_grad=True))


def test_grad_is_refused_inside_containers() -> None:
    predict = torchpool.wrap(_Sum().eval(), example={"pair": (draw(1, 4), draw(1, 4))})
    with pytest.raises(TypeError, match="requires grad"):
        predict(pair=(draw(1, 4), draw(1, 4).requires_grad_()))


class _Sum(nn.Module):
    def forward(self, pair: tuple[Tensor, Tensor]) -> Tensor:
        return pair[0] + pair[1]


def test_unequal_rows_in_one_call_name_both_inputs() -> None:
    model = build(Masked)
    predict = torchpool.wrap(model, example=(draw(1, 5, 4), torch.ones(1, 5)))
    with pytest.raises(ValueError, match=r"input 'mask' has size 3 in dim 0 .* expected 2 rows as in input 'x'"):
        predict(draw(2, 5, 4), torch.ones(3, 5))
    broadcast = draw(2, 5, 4), torch.ones(1, 5)
    assert_close(predict(*broadcast), eager(model, *broadcast))


def test_unequal_lengths_in_one_call_name_the_input() -> None:
    predict = torchpool.wrap(build(Masked), example=[(draw(1, n, 4), torch.ones(1, n)) for n in (5, 7)])
    with pytest.raises(ValueError, match=r"input 'mask' has size 6 in dim 1 .* expected 8"):
        predict(draw(1, 8, 4), torch.ones(1, 6))


def test_none_where_a_tensor_was_learned_names_the_input() -> None:
    predict = torchpool.wrap(build(Masked), example=(draw(1, 5, 4), torch.ones(1, 5)))
    with pytest.raises(TypeError, match=r"input 'mask' is None, expected a tensor \(float32\) as in earlier calls"):
        predict(draw(1, 5, 4), None)


def test_bad_values_in_an_input_of_another_size_raise_the_models_own_error() -> None:
    model = build(Embedder)
    predict = torchpool.wrap(model, example=torch.arange(6)[None])
    expected = outcome(model, torch.tensor([[1, 99]]))
    assert isinstance(expected, IndexError)
    with pytest.raises(IndexError) as caught:
        predict(torch.tensor([[1, 99]]))
    assert str(caught.value) == str(expected)


def test_bad_values_in_an_input_of_another_dtype_raise_the_models_own_error() -> None:
    predict = torchpool.wrap(build(Embedder), example=torch.arange(6)[None])
    with pytest.raises(IndexError, match="index out of range"):
        predict(torch.tensor([[1, 99, 0, 0, 0, 0]], dtype=torch.int32))


def test_an_empty_first_call_does_not_decide_how_later_ones_run() -> None:
    predict = torchpool.wrap(build(Layer))
    assert predict(draw(0, 10)).shape == (0, 3)
    predict(draw(1, 10))
    assert predict.explain().contracts[0].mode == "merge"


def test_a_refused_first_call_does_not_decide_how_later_ones_run() -> None:
    predict = torchpool.wrap(build(Layer))
    with pytest.raises(RuntimeError):
        predict(draw(1, 9))
    predict(draw(1, 10))
    assert predict.explain().contracts[0].mode == "merge"


def test_an_object_array_is_refused_as_eager_refuses_it(served: Served) -> None:
    result = served.beside_neighbours(np.array([object()]))
    assert isinstance(result, TypeError) and "numpy.ndarray" in str(result)
