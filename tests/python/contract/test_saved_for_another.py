"""A contract that was saved for another model, or another version, is not used: calls are probed anew."""

from __future__ import annotations

import json
import pickle
import textwrap
from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import assert_clean, assert_close, build, draw, draws, eager, run_python
from torch import nn

import torchpool
from torchpool.contract import Contract, Fingerprint
from torchpool.contract import fingerprint as fingerprints
from torchpool.contract.reach import Reach

FACTOR = 2.0


class Plain(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)
        self.centre, self.calls, self.model_path = False, 0, "/models/a"

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        y: torch.Tensor = self.linear(x)
        return y - y.mean(0) if self.centre else y * FACTOR


class Centred(Plain):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.linear(x)
        return y - y.mean(0)


def _centring() -> Plain:
    model = Plain()
    model.centre = True
    return model


def _hooked() -> Plain:
    model = Plain()
    model.linear.register_forward_hook(lambda module, inputs, output: output - output.mean(0))
    return model


def _other_code() -> Plain:
    """The same class by name, as after an edit of its file."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.centre, self.calls = False, 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.linear(x)
            return y - y.mean(0)

    Plain.__qualname__ = globals()["Plain"].__qualname__
    return Plain()  # type: ignore[return-value]


def _of_half() -> nn.Module:
    model = Plain()
    model.linear.half()
    return model


def saved(model: Any = None, **options: Any) -> dict[str, Any]:
    """What explain() gives to save, as a file has it."""
    model = build(Plain) if model is None else model
    predict = torchpool.wrap(model, example=draw(2, 4), **options)
    return json.loads(json.dumps(predict.explain().to_dict()))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (Centred, "the classes of its modules differ"),
        (lambda: Plain(5), "names, shapes or dtypes of its parameters differ"),
        (_other_code, "the code that its calls run differs"),
        (_hooked, "the code that its calls run differs"),
        (_centring, "its attributes, or values that its code reads, differ"),
    ],
)
def test_a_contract_saved_for_another_model_is_not_used(
    make: Callable[[], nn.Module], words: str, caplog: pytest.LogCaptureFixture
) -> None:
    model = build(make)
    predict = torchpool.wrap(model, batch=saved())
    for x, y in zip(draws(6, 1, 4), predict.map(draws(6, 1, 4)), strict=True):
        assert_close(y, eager(model, x))
    text = str(predict.explain())
    assert f"a saved contract is not used, and calls are probed anew: it was saved for another model: {words}" in text
    assert words in caplog.text
    merges = predict.explain().contracts[0].mode == "merge"
    assert merges == (words == "names, shapes or dtypes of its parameters differ")


def test_another_function_is_another_model() -> None:
    def make(factor: float) -> Callable[[torch.Tensor], torch.Tensor]:
        return lambda x: x * factor if factor > 0 else x - x.mean()

    predict = torchpool.wrap(make(-1.0), batch=saved(make(2.0)))
    x = draw(3, 4)
    assert_close(predict(x), make(-1.0)(x))
    assert predict.explain().contracts[0].mode == "alone"
    again = torchpool.wrap(make(2.0), batch=saved(make(2.0)))
    again(x)
    assert "not used" not in str(again.explain())


def test_another_script_is_another_model() -> None:
    class Scripted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    class Other(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x - x.mean()

    one, other = (torch.jit.script(cls().eval()) for cls in (Scripted, Other))
    predict = torchpool.wrap(other, batch=saved(one))
    assert_close(predict(draw(3, 4)), eager(other, draw(3, 4)))
    assert predict.explain().contracts[0].mode == "alone"


@pytest.mark.parametrize("entry", ["Python", "torch", "torchpool"])
def test_another_version_is_probed_anew(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    old = saved()
    if entry == "torch":
        monkeypatch.setattr(torch, "__version__", "1.2.3")
    elif entry == "Python":
        monkeypatch.setattr(fingerprints.platform, "python_version", lambda: "1.2.3")
    else:
        monkeypatch.setattr(fingerprints.metadata, "version", lambda name: "1.2.3")
    predict = torchpool.wrap(build(Plain), batch=old)
    predict(draw(1, 4))
    assert "and this is Python" in str(predict.explain()) and f"{entry} 1.2.3" in str(predict.explain())


def test_a_contract_that_names_no_model_is_probed_anew() -> None:
    old = saved()
    del old["contracts"][0]["model"]
    predict = torchpool.wrap(build(Centred), batch=old)
    assert_close(predict(draw(3, 4)), eager(build(Centred), draw(3, 4)))
    assert "it does not say for which model it was saved" in str(predict.explain())
    assert predict.explain().contracts[0].mode == "alone"


def test_the_same_model_is_not_probed_again() -> None:
    model = build(Plain)
    old = saved(model)
    model.calls, model.model_path = 17, "/models/b"  # its own counter; where it lies
    with torch.no_grad():
        model.linear.weight.mul_(2)
    for form in (old, Contract.from_dict(old["contracts"][0])):
        model.calls = 0
        predict = torchpool.wrap(model, batch=form)  # type: ignore[arg-type]
        assert_close(predict(draw(1, 4)), eager(model, draw(1, 4)))
        assert model.calls < 12, "it was probed"
        assert "not used" not in str(predict.explain())


def test_a_pickled_predictor_knows_its_model() -> None:
    model = build(Plain)
    predict = torchpool.wrap(model, example=draw(2, 4))
    again = pickle.loads(pickle.dumps(predict))
    again(draw(1, 4))
    assert "not used" not in str(again.explain())


def test_a_fingerprint_is_the_same_in_each_process() -> None:
    source = textwrap.dedent("""
        from torch import nn
        from torchpool.contract import Fingerprint
        from torchpool.contract.reach import Reach

        class Odd(nn.Module):
            def forward(self, x, *, kinds=("a", "b")):
                return x if str(x.dtype) in {"one", "two", "three", "four"} else x * 2

        model = nn.Sequential(nn.Linear(4, 3), Odd())
        print(Fingerprint.of(model, Reach(model, model)))
    """)
    found = [run_python(source, fresh=fresh) for fresh in (False, True)]
    assert_clean(found[0])
    assert found[0].stdout == found[1].stdout != ""


@pytest.mark.parametrize("value", ["text", {"classes": "a"}, {**dict.fromkeys(Fingerprint.__annotations__, 3)}])
def test_a_fingerprint_that_makes_no_sense_is_refused(value: Any) -> None:
    old = saved()
    old["contracts"][0]["model"] = value
    with pytest.raises(ValueError, match="'model'"):
        torchpool.wrap(build(Plain), batch=old)


def test_a_fingerprint_tells_nothing_of_what_weights_hold() -> None:
    one, other = build(Plain), build(Plain)
    nn.init.ones_(other.linear.weight)  # type: ignore[arg-type, union-attr]
    assert Fingerprint.of(one, Reach(one, one)) == Fingerprint.of(other, Reach(other, other))
