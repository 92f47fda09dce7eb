"""Numbers, lists, arrays and columns that map goes over become tensors as the example shows, or fail in their place."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from map_sources import WAYS, Column, Sum, Way
from support import MarkerModule, assert_all_close, build, draw, eager
from torch import nn

import torchpool
from torchpool.predictor import conversion, inputs


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


INPUTS, A, B = draw(23, 4), draw(7, 4, seed=1), draw(7, 4, seed=2)
model = build(MarkerModule)


def test_lists_of_numbers_become_what_the_example_shows(way: Way) -> None:
    for example, shape in ((draw(4), (4,)), (draw(1, 4), (1, 4)), (draw(1, 1, 4), (1, 1, 4))):
        predict = torchpool.wrap(model, example=example)
        assert_all_close(way(predict, INPUTS.tolist()), [eager(model, x.reshape(shape)) for x in INPUTS])


def test_nested_lists_keep_their_dims() -> None:
    predict = torchpool.wrap(model, example=draw(1, 2, 4))
    nested = draw(6, 3, 4)
    assert_all_close(predict.map(nested.tolist()), [eager(model, x[None]) for x in nested])


def test_integers_become_the_examples_dtype() -> None:
    embed = build(lambda: nn.Embedding(9, 3))
    predict = torchpool.wrap(embed, example=torch.zeros(1, 2, dtype=torch.int32))
    assert_all_close(predict.map([[1, 2], [3, 8]]), [eager(embed, torch.tensor([ids])) for ids in ([1, 2], [3, 8])])
    predict = torchpool.wrap(model, example=draw(1, 4))
    assert_all_close(predict.map([[1, 2, 3, 4]]), [eager(model, torch.tensor([[1.0, 2, 3, 4]]))])


@pytest.mark.parametrize(
    ("dtype", "wrong", "error", "words"),
    [
        (torch.long, [1.0, 2.5], TypeError, "has floats, where the example has int64"),
        (torch.long, [1j, 2], TypeError, "has complex numbers, where the example has int64"),
        (torch.bool, [1, 2], TypeError, "has integers, where the example has bool"),
        (torch.uint8, [1, 256], ValueError, "has values that uint8, .* cannot hold"),
        (torch.uint8, [1, -1], ValueError, "has values that uint8, .* cannot hold"),
        (torch.long, [2**63, 2**63], ValueError, "has values that int64, .* cannot hold"),
        (torch.float32, [float("nan"), -1e300], ValueError, "has values that float32, .* cannot hold"),
        (torch.float16, [1.0, 1e9], ValueError, "has values that float16, .* cannot hold"),
        (torch.float32, ["a", "b"], TypeError, "holds values that are no numbers"),
        (torch.float32, [1.0, None], TypeError, "holds values that are no numbers"),
        (torch.float32, [[1.0], [2.0, 3.0]], ValueError, "makes no tensor"),
        (torch.float32, [[[1.0, 2.0]]], ValueError, r"has shape \(1, 1, 2\), where the example has \(1, 2\)"),
    ],
)
def test_values_that_do_not_fit_the_example_hurt_only_themselves(
    dtype: torch.dtype, wrong: Any, error: type[Exception], words: str
) -> None:
    predict = torchpool.wrap(lambda x: x + x, example=torch.ones(1, 2, dtype=dtype))
    known = [torch.tensor([x], dtype=dtype) for x in ([1, 0], [0, 1])]
    first, second, third = predict.map([[True, False], wrong, [False, True]], return_exceptions=True)
    assert_all_close([first, third], [2 * x if dtype != torch.bool else x for x in known])
    assert type(second) is error
    with pytest.raises(error, match=f"input 'x'.*{words}"):
        raise second


def test_nan_and_infinity_are_values_of_any_float() -> None:
    predict = torchpool.wrap(lambda x: x * 2, example=torch.ones(1, 2, dtype=torch.float16))
    (result,) = predict.map([[float("nan"), float("-inf")]])
    assert result.isnan().tolist() == [[True, False]]
    assert result[0, 1] == float("-inf")


def test_without_an_example_values_are_the_callables_own() -> None:
    assert list(torchpool.wrap(lambda values: sum(values)).map([[1, 2], [3, 4]])) == [3, 7]


def test_a_list_of_tensors_is_not_converted() -> None:
    predict = torchpool.wrap(lambda x: x[0] + x[1], example=torch.ones(2, 2), prove="trust")
    assert_all_close(predict.map([[draw(3), draw(3)]]), [draw(3) * 2])


def test_a_column_of_numbers_or_arrays_is_taken_item_by_item(way: Way) -> None:
    double = torchpool.wrap(lambda x: x * 2, example=torch.ones(1))
    numbers = way(double, Column([1.5, 2.5, 3.5]))
    assert_all_close(sorted(numbers, key=float), [torch.tensor([3.0]), torch.tensor([5.0]), torch.tensor([7.0])])
    predict = torchpool.wrap(model, example=draw(1, 4))
    for values in (list(INPUTS.double().numpy()), INPUTS.tolist()):
        assert_all_close(way(predict, Column(values)), [eager(model, x[None]) for x in INPUTS])


def test_a_column_of_numbers_without_an_example_is_rows_of_its_dtype() -> None:
    results = torchpool.wrap(lambda x: x * 2).map(Column([1.5, 2.5]))
    assert_all_close(results, torch.tensor([3.0, 5.0], dtype=torch.float64))


def test_several_inputs_are_each_converted() -> None:
    predict = torchpool.wrap(Sum().eval(), example=(draw(1, 4), draw(1, 4), 1.0))
    results = predict.map(A.tolist(), B, itertools.repeat(2.0))
    assert_all_close(results, [(a[None] + b) * 2 for a, b in zip(A, B, strict=True)])


NUMBERS = list(range(3000))


@pytest.mark.parametrize(
    ("values", "example"),
    [
        (Column(torch.arange(3000).double().numpy()), torch.zeros(1, 1)),
        (Column(torch.arange(3000).numpy()), torch.zeros(())),
        (range(3000), torch.zeros(1, 1, dtype=torch.int32)),
        (NUMBERS, torch.zeros(1, 1, dtype=torch.float64)),
        (tuple(map(float, NUMBERS)), torch.zeros(1)),
        ([[float(n), n / 3] for n in NUMBERS], torch.zeros(1, 2)),
        ([(n % 2 == 0, True) for n in NUMBERS], torch.zeros(2, dtype=torch.long)),
    ],
)
def test_numbers_of_one_type_are_converted_many_at_a_time(
    values: Any, example: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = torchpool.wrap(lambda x: x + x, example=example, prove="trust")
    one_by_one = [conversion.as_example(value, example, "x") for value in values]
    monkeypatch.setattr(inputs, "as_example", _no_more)
    assert_all_close([call[0] for call in predict._inputs().map((values,))], one_by_one)
    assert_all_close(predict.map(values), [x + x for x in one_by_one])
    assert_all_close([call[0] for call in predict._inputs().map((values, values))], one_by_one)


def _no_more(value: Any, like: Any, name: str) -> Any:
    assert isinstance(value, torch.Tensor), "it was left to be converted by itself"
    return value


@pytest.mark.parametrize(("wrong", "dtype"), [(None, torch.long), (2.5, torch.long), (1e300, torch.float32)])
def test_of_many_those_that_do_not_fit_hurt_only_themselves(wrong: Any, dtype: torch.dtype) -> None:
    predict = torchpool.wrap(lambda x: x + x, example=torch.zeros(1, dtype=dtype), prove="trust")
    values: list[Any] = [*NUMBERS]
    values[1500] = wrong
    results = list(predict.map(values, return_exceptions=True))
    assert isinstance(results.pop(1500), TypeError | ValueError)
    assert_all_close(results, [torch.tensor([2 * n], dtype=dtype) for n in NUMBERS if n != 1500])


def test_a_list_may_grow_while_it_is_mapped() -> None:
    values = [*NUMBERS]
    predict = torchpool.wrap(lambda x: x + x, example=torch.zeros(1), prove="trust")
    calls = predict._inputs().map((values,))
    next(calls)
    values.append(7)
    assert len([*calls]) == len(NUMBERS)
