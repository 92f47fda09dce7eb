"""What map goes over: each result is that of the model in the loop that its author would write."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from map_sources import WAYS, Indexed, Pairs, Rows, Stream, Sum, Table, Way
from support import POISON, MarkerModule, Poisoned, assert_all_close, build, draw, eager, row
from torch import nn
from torch.utils import data
from transformers import BatchEncoding

import torchpool


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest) -> Way:
    way: Way = request.param
    return way


class OfFields(nn.Module):
    """Takes a loader's list itself, and would take a tensor of two rows for one."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, batch: Any) -> torch.Tensor:
        return self.linear(batch[0])


INPUTS, LABELS = draw(23, 4), torch.arange(23)
model = build(MarkerModule)


def loader_of(dataset: Any, **options: Any) -> data.DataLoader[Any]:
    """With a generator of its own: a loader draws a seed each time that it is iterated over."""
    return data.DataLoader(dataset, **{"batch_size": 5, "generator": torch.Generator().manual_seed(3), **options})


def loader(*tensors: torch.Tensor, **options: Any) -> data.DataLoader[Any]:
    return loader_of(data.TensorDataset(*tensors), **options)


@pytest.fixture(params=["no example", "a row", "a batch"])
def predict(request: pytest.FixtureRequest) -> Iterator[torchpool.Predictor]:
    example = {"no example": None, "a row": draw(4), "a batch": draw(1, 4)}[request.param]
    with torchpool.wrap(model, example=example) as predictor:
        yield predictor


# --- loaders and datasets ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tensors", [(INPUTS,), (INPUTS, LABELS)], ids=["inputs", "pairs"])
def test_a_loader_gives_results_batch_by_batch(predict: torchpool.Predictor, way: Way, tensors: Any) -> None:
    assert_all_close(way(predict, loader(*tensors)), [eager(model, batch[0]) for batch in loader(*tensors)])


def test_a_loader_of_tensors_gives_results_batch_by_batch(predict: torchpool.Predictor, way: Way) -> None:
    batches = loader_of(INPUTS)
    assert_all_close(way(predict, batches), [eager(model, batch) for batch in batches])


@pytest.mark.parametrize("source", [data.TensorDataset(INPUTS, LABELS), Pairs(INPUTS, LABELS), Indexed(INPUTS)])
def test_a_dataset_gives_results_sample_by_sample(predict: torchpool.Predictor, way: Way, source: Any) -> None:
    assert_all_close(way(predict, source), [eager(model, x) for x in INPUTS])


def test_a_subset_and_a_stream_give_results_sample_by_sample(predict: torchpool.Predictor, way: Way) -> None:
    picked = data.Subset(Pairs(INPUTS, LABELS), [3, 1, 4])
    assert_all_close(way(predict, picked), [eager(model, INPUTS[i]) for i in (3, 1, 4)])
    assert_all_close(way(predict, Stream(INPUTS)), [eager(model, x) for x in INPUTS])


def test_a_shuffled_loader_of_inputs_is_taken_in_its_order(predict: torchpool.Predictor) -> None:
    taken, expected = loader(INPUTS, shuffle=True), loader(INPUTS, shuffle=True)
    assert_all_close(predict.map(taken), [eager(model, x) for (x,) in expected])


def test_labels_are_not_lost_where_a_second_pass_gives_others(predict: torchpool.Predictor) -> None:
    with pytest.raises(ValueError, match=r"shuffled DataLoader .* shuffle=False, or keep what it gives"):
        next(predict.map(loader(INPUTS, LABELS, shuffle=True)))


def test_labels_are_kept_as_the_error_says(predict: torchpool.Predictor) -> None:
    pairs = loader(INPUTS, LABELS, shuffle=True)
    a, b = itertools.tee(pairs)
    seen = 0
    for (x, y), result in zip(a, predict.map(x for x, _ in b), strict=True):
        assert_all_close([result, INPUTS[y]], [eager(model, x), x])
        seen += len(y)
    assert seen == len(LABELS)


def test_three_fields_are_refused_with_what_to_write(predict: torchpool.Predictor, way: Way) -> None:
    with pytest.raises(TypeError, match=r"3 fields .* from a DataLoader.*takes \(x\): write starmap\(loader\)"):
        way(predict, loader(INPUTS, INPUTS, LABELS))


@pytest.mark.parametrize("example", [None, (draw(1, 4), draw(1, 4))])
def test_pairs_are_not_guessed_for_a_model_of_several_arguments(example: Any) -> None:
    predict = torchpool.wrap(Sum().eval(), example=example)
    with pytest.raises(TypeError, match=r"2 fields .* takes \(a, b, scale\): write starmap\(loader\)"):
        list(predict.map(loader(INPUTS, INPUTS)))
    assert_all_close(predict.starmap(loader(INPUTS, INPUTS)), [x + y for x, y in loader(INPUTS, INPUTS)])
    assert_all_close(predict.starmap(Pairs(INPUTS, INPUTS)), [2 * x for x in INPUTS])


@pytest.mark.parametrize("tensors", [(INPUTS,), (INPUTS, LABELS)])
@pytest.mark.parametrize("size", [1, 2])
def test_a_model_that_takes_the_list_itself_gets_it(way: Way, tensors: Any, size: int) -> None:
    takes_lists = build(OfFields)
    predict = torchpool.wrap(takes_lists)
    expected = [eager(takes_lists, batch) for batch in loader(*tensors, batch_size=size)]
    assert_all_close(way(predict, loader(*tensors, batch_size=size)), expected)


@pytest.mark.parametrize("error", [TypeError, ValueError, AttributeError])
def test_an_error_of_the_first_batchs_values_tells_nothing_of_what_the_model_takes(error: type[Exception]) -> None:
    class Picky(OfFields):
        def forward(self, batch: Any) -> torch.Tensor:
            if bool((batch[0] == POISON).any()):
                raise error("a poisoned row")
            return super().forward(batch)

    picky = build(Picky)
    batches = loader(torch.cat([row(POISON), row(1), row(2), row(3)]), LABELS[:4], batch_size=2)
    first, second = torchpool.wrap(picky).map(batches, return_exceptions=True)
    assert type(first) is error
    assert "the model takes" in first.__notes__[0]
    assert_all_close([second], [eager(picky, list(batches)[1])])


@pytest.mark.parametrize(
    "forward",
    [
        lambda x: torch.relu(x),
        lambda x: x.relu(),
        lambda x: x[:, 1:] + 1,
        lambda x: x * 0.5,
        lambda x: -x,
        lambda x: 1 - x,
        lambda x: torch.nn.functional.softmax(x, -1),
        lambda x: torch.cat([x, x]),
        lambda x: x.shape[0] * x,
        lambda x: x @ torch.ones(4),
        lambda x: torch.ones(4) + x,
        lambda x: nn.functional.conv1d(x[:, None], torch.ones(1, 1, 2)),
        lambda x: x.float(),
    ],
)
def test_models_that_take_no_list_are_seen_by_what_they_say(forward: Any) -> None:
    class Model(nn.Module):
        def forward(self, x: Any) -> Any:
            return forward(x)

    batches = loader(INPUTS, LABELS)
    assert_all_close(torchpool.wrap(Model()).map(batches), [forward(x) for x, _ in batches])


def test_what_neither_shows_nor_refutes_it_is_raised_with_what_to_say() -> None:
    class Einsum(nn.Module):
        def forward(self, x: Any) -> torch.Tensor:
            return torch.einsum("bi->b", x)  # which takes lists, too

    with pytest.raises(RuntimeError, match="einsum") as raised:
        list(torchpool.wrap(Einsum()).map(loader(INPUTS, LABELS)))
    assert "wrap(example=) says what the model takes" in raised.value.__notes__[0]
    predict = torchpool.wrap(Einsum(), example=draw(1, 4))
    assert_all_close(predict.map(loader(INPUTS, LABELS)), [x.sum(1) for x, _ in loader(INPUTS, LABELS)])


def test_an_example_of_a_list_says_that_the_model_takes_it() -> None:
    takes_lists = build(OfFields)
    predict = torchpool.wrap(takes_lists, example=([draw(1, 4), torch.zeros(1)],))
    batches = loader(INPUTS, LABELS)
    assert_all_close(predict.map(batches), [eager(takes_lists, batch) for batch in batches])


def test_lists_that_a_loaders_own_function_makes_are_left_as_they_are() -> None:
    takes_lists = build(OfFields)
    predict = torchpool.wrap(takes_lists)
    batches = loader_of(INPUTS, batch_size=2, collate_fn=list)
    assert_all_close(predict.map(batches), [eager(takes_lists, batch) for batch in batches])


def test_a_script_is_asked_too() -> None:
    script = torch.jit.script(build(lambda: nn.Sequential(nn.Linear(4, 3))))
    batches = loader(INPUTS, LABELS)
    assert_all_close(torchpool.wrap(script).map(batches), [eager(script, x) for x, _ in batches])


def test_the_predictor_behind_an_accelerated_model_goes_over_loaders(way: Way) -> None:
    accelerated = torchpool.accelerate(build(MarkerModule))
    predict = torchpool.predictor_of(accelerated)
    assert_all_close(way(predict, loader(INPUTS, LABELS)), [eager(model, x) for x, _ in loader(INPUTS, LABELS)])


def test_a_bad_sample_hurts_only_itself(predict: torchpool.Predictor) -> None:
    samples = data.TensorDataset(torch.cat([row(1), row(POISON), row(3)]))
    results = list(predict.map(samples, return_exceptions=True))
    assert [type(result) for result in results] == [torch.Tensor, Poisoned, torch.Tensor]


def test_an_error_of_a_dataset_comes_after_the_results_before_it(predict: torchpool.Predictor) -> None:
    class Broken(Indexed):
        def __getitem__(self, index: int) -> torch.Tensor:
            if index == 2:
                raise OSError("a file is gone")
            return super().__getitem__(index)

    results = predict.map(Broken(INPUTS))
    assert_all_close(itertools.islice(results, 2), [eager(model, x) for x in INPUTS[:2]])
    with pytest.raises(OSError, match="a file is gone"):
        next(results)


def test_a_table_is_refused_at_the_call(predict: torchpool.Predictor) -> None:
    with pytest.raises(TypeError, match=r"names of its columns: pass one column, table\['name'\]"):
        predict.map(Table([1.0, 2.0]))


# --- mappings ---------------------------------------------------------------------------------------------------------

A, B = draw(7, 4, seed=1), draw(7, 4, seed=2)
EXPECTED = [a[None] + b[None] for a, b in zip(A, B, strict=True)]


@pytest.mark.parametrize("kind", [dict, BatchEncoding, collections.UserDict])
def test_mappings_are_keyword_arguments(way: Way, kind: Any) -> None:
    calls = [kind({"a": a[None], "b": b[None]}) for a, b in zip(A, B, strict=True)]
    assert_all_close(way(torchpool.wrap(Sum().eval()), calls), EXPECTED)


@pytest.mark.parametrize("kind", [dict, BatchEncoding])
def test_a_tokenizers_output_is_taken_row_by_row(way: Way, kind: Any) -> None:
    predict = torchpool.wrap(Sum().eval())
    assert_all_close(way(predict, kind({"a": A, "b": B})), EXPECTED)
    assert_all_close(predict.starmap(kind({"a": A, "b": B})), EXPECTED)
    assert len(predict.map(kind({"a": A, "b": B}))) == 7


def test_a_loader_of_mappings_gives_results_batch_by_batch(way: Way) -> None:
    batches = loader_of([{"a": a, "b": b} for a, b in zip(A, B, strict=True)], batch_size=3)
    assert_all_close(way(torchpool.wrap(Sum().eval()), batches), [batch["a"] + batch["b"] for batch in batches])


def test_rows_of_python_values_become_what_the_example_shows(way: Way) -> None:
    rows = Rows([{"a": a, "b": b} for a, b in zip(A.tolist(), B.tolist(), strict=True)])
    for example in ((draw(1, 4), draw(1, 4)), {"a": draw(1, 4), "b": draw(1, 4)}):
        predict = torchpool.wrap(Sum().eval(), example=example)
        assert_all_close(way(predict, rows), EXPECTED)
        assert_all_close(predict.starmap(rows), EXPECTED)


def test_keys_that_the_model_has_no_argument_for_are_named(way: Way) -> None:
    with pytest.raises(TypeError, match=r"a mapping with 'text', which .* beside 'a', 'b': .*remove_columns"):
        way(torchpool.wrap(Sum().eval()), [{"a": A, "b": B, "text": "no"}])


def test_a_model_whose_argument_is_a_mapping_gets_it(way: Way) -> None:
    class OfDict(nn.Module):
        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            return batch["a"] + batch["b"]

    calls = [{"a": a[None], "b": b[None]} for a, b in zip(A, B, strict=True)]
    assert_all_close(way(torchpool.wrap(OfDict().eval()), calls), EXPECTED)


@pytest.mark.parametrize("wrong", [{"a": A.tolist()}, {"a": A, "b": B[:3]}, {}, {"train": Rows([{}])}])
def test_a_mapping_of_other_things_is_refused_at_the_call(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r'map\(\) over a dict takes .* return_tensors="pt"'):
        torchpool.wrap(Sum().eval()).map(wrong)
