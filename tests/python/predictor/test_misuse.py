"""What is told to who gives wrap() no model, an option that it does not have, or asks a predictor for what is its
model's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from bad_models import Raiser
from support import assert_close, build, draw, eager
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import torchpool


class Callable:
    """An object of it is called."""

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return x + 1


class Pipeline:
    """Holds its model, and is not called."""

    def __init__(self) -> None:
        self.model = build(Raiser)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Raiser, r"got the class Raiser, .*make one first, as in wrap\(Raiser\(\.\.\.\)\.eval\(\)\)"),
        (Callable, r"got the class Callable, .*as in wrap\(Callable\(\.\.\.\)"),
        (nn.ModuleList([nn.ReLU()]), "have a forward, and ModuleList has no forward: wrap"),
        (nn.Module(), "have a forward, and Module has no forward: wrap"),
        (build(Raiser).state_dict(), r"looks like a state dict: make the model, model\.load_state_dict\(state\)"),
        (draw(1, 4), "got Tensor: wrap the model, not its result"),
        (DataLoader(TensorDataset(draw(4, 4))), r"got DataLoader: .*predict\.map\(loader\)"),
        ([build(Raiser), build(Raiser)], r"got list: wrap each of them"),
        (Pipeline(), r"got Pipeline: wrap its model, .*torchpool\.accelerate\(it\)"),
        (None, "got NoneType: give an nn.Module in eval mode"),
        ("model.pt", "got the path 'model.pt', and there is no such file: load the model first"),
        ("bert-base-uncased", r"AutoModel\.from_pretrained\('bert-base-uncased'\)\.eval\(\)"),
        (Path("model.pt"), "got the path 'model.pt', and there is no such file"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else type(value).__name__,
)
def test_what_is_no_model_is_told_what_to_wrap(model: Any, words: str) -> None:
    with pytest.raises(TypeError, match=f"model must .*{words}"):
        torchpool.wrap(model)


def test_a_file_is_told_how_to_load_it(tmp_path: Path) -> None:
    model = build(Raiser)
    torch.jit.trace(nn.ReLU(), draw(1, 4)).save(str(tmp_path / "script.pt"))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    torch.export.save(torch.export.export(nn.ReLU(), (draw(1, 4),)), tmp_path / "exported.pt2")
    (tmp_path / "weights.safetensors").write_bytes(b"")
    (tmp_path / "graph.onnx").write_bytes(b"")
    told = {
        "script.pt": r"it holds a script: wrap\(torch\.jit\.load\(.*script\.pt'\)\.eval\(\)\)",
        "weights.pt": r"model\.load_state_dict\(torch\.load\(.*weights_only=False",
        "exported.pt2": r"wrap\(torch\.export\.load\(.*exported\.pt2'\)\.module\(\)\)",
        "weights.safetensors": r"safetensors\.torch\.load_file\(",
        "graph.onnx": "wrap the model that it was exported from",
    }
    for name, words in told.items():
        with pytest.raises(TypeError, match=f"which is not loaded: .*{words}"):
            torchpool.wrap(str(tmp_path / name))


def test_a_callable_object_is_no_class() -> None:
    assert_close(torchpool.wrap(Callable())(draw(2, 4)), draw(2, 4) + 1)


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ("batch_size", "max_batch="),
        ("num_workers", r"runtime=torchpool\.Runtime\(4\)"),
        ("device", r"model\.to\(device\)"),
        ("max_bach", "did you mean max_batch="),
        ("MaxBatch", "did you mean max_batch="),
        ("examples", "did you mean example="),
        ("back_end", "did you mean backend="),
        ("xyzzy", "it has example, batch, pad,"),
    ],
)
def test_an_option_that_there_is_not_is_told_which_was_meant(option: str, words: str) -> None:
    model: Any = build(Raiser)
    options: Any = {option: 8}
    with pytest.raises(TypeError, match=rf"wrap\(\) has no option '{option}': .*{words}"):
        torchpool.wrap(model, **options)
    with pytest.raises(TypeError, match=rf"accelerate\(\) has no option '{option}': .*{words}"):
        torchpool.accelerate(model, **options)


@pytest.mark.parametrize(
    ("options", "cls", "words"),
    [
        ({"batch": 8}, TypeError, "the most rows of a batch are max_batch=8"),
        ({"batch": True}, TypeError, "unless it is False, so leave it out"),
        ({"backend": "pyhton"}, ValueError, "did you mean 'python'?"),
        ({"prove": "verified"}, ValueError, "did you mean 'verify'?"),
        ({"dtype": "bfloat16"}, ValueError, "give torch.bfloat16, which is no string"),
        ({"runtime": 4}, TypeError, r"got 4: give torchpool\.Runtime\(4\)"),
        ({"runtime": "4"}, TypeError, "must be a torchpool.Runtime, or None, got '4'$"),
    ],
    ids=str,
)
def test_a_value_that_makes_no_sense_is_told_what_to_give(
    options: dict[str, Any], cls: type[Exception], words: str
) -> None:
    with pytest.raises(cls, match=words):
        torchpool.wrap(build(Raiser), **options)


def test_arguments_without_a_name_are_told_what_they_may_be() -> None:
    wrap: Any = torchpool.wrap
    with pytest.raises(TypeError, match=r"got 2 arguments without a name, the second a Tensor\. .*example=x"):
        wrap(build(Raiser), draw(1, 4))
    with pytest.raises(TypeError, match=r"wrap\(\) needs the model"):
        wrap()


@pytest.mark.parametrize("name", ["state_dict", "eval", "linear", "training"])
def test_an_attribute_of_the_model_is_told_where_it_is(name: str) -> None:
    predict: Any = torchpool.wrap(build(Raiser))
    with pytest.raises(AttributeError, match=rf"predict\.model\.{name}\. torchpool\.accelerate\(model\) keeps") as told:
        getattr(predict, name)
    assert (told.value.name, told.value.obj) == (name, predict)
    assert not hasattr(predict, name)


def test_an_attribute_that_nobody_has_is_plainly_missing() -> None:
    predict: Any = torchpool.wrap(build(Raiser))
    with pytest.raises(AttributeError, match=r"a Predictor has no attribute 'explian'$"):
        predict.explian  # noqa: B018
    with pytest.raises(AttributeError, match="call it on what options"):
        predict.options(priority=1).stats()
    with pytest.raises(AttributeError, match=r"a view of a predictor has no attribute 'explian'$"):
        predict.options(priority=1).explian  # noqa: B018


def test_a_property_of_the_model_is_not_run_to_tell_that_it_is_there() -> None:
    class Loud(nn.Module):
        ran = 0

        @property
        def loud(self) -> int:
            type(self).ran += 1
            return 1

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x

    predict: Any = torchpool.wrap(Loud().eval())
    with pytest.raises(AttributeError, match=r"predict\.model\.loud"):
        predict.loud  # noqa: B018
    assert Loud.ran == 0


def test_what_holds_tensors_is_told_how_to_pass_them() -> None:
    model = build(Raiser)
    predict = torchpool.wrap(model)
    x = draw(1, 4)
    loader = DataLoader(TensorDataset(draw(4, 4)))
    with pytest.raises(
        TypeError, match=r"of type DataLoader, .*refuses it: pass what one call takes, .*predict\.map\(loader\)"
    ):
        predict(loader)  # before anything was learned
    assert_close(predict(x), eager(model, x))
    with pytest.raises(
        TypeError, match=r"of type DataLoader, .*passed tensors \(x: float32\): pass what one call takes"
    ):
        predict(loader)
    with pytest.raises(TypeError, match=r"a dict of tensors \(x: pass them as keywords, as in predict\(\*\*inputs\)\)"):
        predict({"x": x})
    with pytest.raises(TypeError, match=r"a list of tensors \(2: .*predict\(\*inputs\), or torch\.stack"):
        predict([x, x])
    with pytest.raises(TypeError, match=r"a list of values .*torch\.tensor\(\) first"):
        predict([1.0, 2.0])
    with pytest.raises(TypeError, match=r"'a text', expected a tensor .*tokenizer"):
        predict("a text")
    assert_close(predict(x), eager(model, x))


def test_what_the_model_takes_is_no_misuse() -> None:
    class Either(nn.Module):
        def forward(self, x: Any) -> torch.Tensor:
            return (x["x"] if isinstance(x, dict) else x) * 2

    predict = torchpool.wrap(Either().eval())
    x = draw(1, 4)
    assert_close(predict(x), x * 2)
    assert_close(predict({"x": x}), x * 2)
