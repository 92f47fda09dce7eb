"""What wrap() refuses, saying what it expected and what came; and what it takes."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from bad_models import Masked, Raiser
from support import assert_close, build, draw, eager
from torch import nn

import torchpool


@pytest.mark.parametrize(
    ("options", "cls", "words"),
    [
        ({"max_batch": 0}, ValueError, "max_batch must be an int of at least 1, or None, got 0"),
        ({"max_batch": 2.5}, ValueError, "max_batch must be an int of at least 1, or None, got 2.5"),
        ({"max_batch": True}, ValueError, "max_batch must be an int of at least 1, or None, got True"),
        ({"queue_size": -1}, ValueError, "queue_size must be an int of at least 1, or None, got -1"),
        ({"queue_bytes": "1 MB"}, ValueError, "queue_bytes must be an int of at least 1, or None, got '1 MB'"),
        ({"overflow": "drop"}, ValueError, "overflow must be one of 'block', 'reject', got 'drop'"),
        (
            {"backend": "onnx"},
            ValueError,
            "backend must be one of 'auto', 'graph', 'python', 'torchscript', got 'onnx'",
        ),
        ({"example": []}, ValueError, "example is an empty list: give at least one call's arguments"),
        ({"batch": "rows"}, TypeError, "batch must be None, False, a mapping of names to dims, or what explain"),
        ({"batch": True}, TypeError, "batch must be None, False"),
        ({"pad": 0}, TypeError, "pad must be a mapping of input names to values or a tokenizer"),
        ({"pad": {"x": None}}, ValueError, "pad must map input names to numbers, got 'x': None"),
    ],
    ids=str,
)
def test_an_option_that_makes_no_sense_is_named(options: dict[str, Any], cls: type[Exception], words: str) -> None:
    with pytest.raises(cls, match=words):
        torchpool.wrap(build(Raiser), **options)


@pytest.mark.parametrize("model", [None, 3, "model", torch.ones(3)])
def test_what_cannot_be_called_is_refused(model: Any) -> None:
    with pytest.raises(TypeError, match="model must be callable, got"):
        torchpool.wrap(model)


@pytest.mark.parametrize("example", [(draw(1, 5, 4), torch.ones(1, 5)), {"mask": torch.ones(1, 5), "x": draw(1, 5, 4)}])
def test_an_example_is_a_tuple_of_positional_or_a_mapping_of_keyword_arguments(example: Any) -> None:
    model = build(Masked)
    predict = torchpool.wrap(model, example=example)
    assert [spec.name for spec in predict.explain().contracts[0].inputs] in (["x", "mask"], ["mask", "x"])
    x, mask = draw(2, 7, 4), torch.ones(2, 7)
    assert_close(predict(x, mask), eager(model, x, mask))
    assert_close(predict(mask=mask, x=x), eager(model, x, mask))


def test_examples_may_show_several_kinds_of_calls() -> None:
    model = nn.Flatten().eval()
    examples = [draw(1, 2, 3), draw(1, 2, 3, 4), draw(1, 2, 3).double()]
    predict = torchpool.wrap(model, example=examples)
    assert [contract.mode for contract in predict.explain().contracts] == ["merge"] * 3


def test_probing_logs_one_line(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "torchpool"):
        torchpool.wrap(build(Raiser), example=draw(1, 4))
    assert len(caplog.records) == 1
    assert "may merge" in caplog.records[0].getMessage()


def test_a_bound_method_is_served_with_its_module_watched() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def encode(self, x: torch.Tensor, times: int = 2) -> torch.Tensor:
            return self.linear(x) * times

    model = build(Encoder)
    predict = torchpool.wrap(model.encode)
    assert_close(predict(draw(2, 4)), eager(model.encode, draw(2, 4)))
    assert_close(predict(draw(2, 4), times=5), eager(model.encode, draw(2, 4), times=5))
    assert predict.explain().contracts[0].mode == "merge"
    assert predict.model == model.encode


def test_a_large_first_call_is_not_kept_in_memory() -> None:
    model = build(Raiser)
    predict = torchpool.wrap(model)
    x = draw(5000, 4)
    assert_close(predict(x), eager(model, x))
    kept = sum(leaf.nbytes for kind in predict._learner.kinds.values() for call in kind.samples for leaf in call)
    assert kept < 1000
