"""What was learned of a model is saved in a file, and loaded by another process for the model or one like it."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from spawned import Pooled, refuse
from support import SimpleCNN, assert_all_close, assert_clean, assert_close, build, draw, draws, eager, run_python
from torch import Tensor, nn

import torchpool
from torchpool.predictor import building, probes, saved_file

pytestmark = pytest.mark.graphs

HEADER = struct.Struct("<9sHQ32s")


class Pair(NamedTuple):
    scores: Tensor
    best: Tensor


class Scores(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.linear = nn.Linear(4, width)
        self.factor = 2.0

    def forward(self, x: Tensor) -> Pair:
        y = self.linear(x) * self.factor
        return Pair(y, y.argmax(1))

    def score(self, x: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"score": self.linear(x) * scale}


class Wide(Scores):
    def __init__(self) -> None:
        super().__init__(5)


class Scaled(nn.Module):
    """Rows of a batch meet: its graph is lifted."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x / (x.abs().max() + 1e-6))


class Branching(nn.Module):
    """There is no graph of it, since values decide."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.sum() > 0 else self.linear(-x)


class WithTable(nn.Module):
    """Its graph holds a constant that is no weight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + torch.tensor([1.0, -2.0, 3.0, 0.5])


@pytest.fixture
def nothing_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    """From its call on nothing is probed, captured or measured."""

    def begin() -> None:
        monkeypatch.setattr(probes, "find", refuse)
        monkeypatch.setattr(building, "capture_elsewhere", refuse)
        monkeypatch.setattr(building, "choose_first_batch", refuse)

    yield begin


def saved(path: Path, model: Any, *calls: tuple[Any, ...], **options: Any) -> Path:
    """A file of a predictor that has learned from the calls."""
    with torchpool.wrap(model, **options) as predict:
        for call in calls:
            predict(*call)
        predict.save(path)
    return path


def edited(path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """The file with another json, and a checksum that fits."""
    data = path.read_bytes()
    magic, version, length, _ = HEADER.unpack_from(data)
    content = json.loads(data[HEADER.size : HEADER.size + length])
    change(content)
    text = json.dumps(content).encode()
    body = text + b"\0" * (-len(text) % 64) + data[HEADER.size + length + -length % 64 :]
    path.write_bytes(HEADER.pack(magic, version, len(text), hashlib.sha256(body).digest()) + body)
    return path


@pytest.mark.parametrize("cls", [Scores, SimpleCNN, Scaled, WithTable])
def test_a_loaded_predictor_serves_its_first_call_by_the_graph(
    cls: Callable[[], nn.Module], tmp_path: Path, nothing_again: Callable[[], None]
) -> None:
    shape = (1, 1, 28, 28) if cls is SimpleCNN else (1, 4)
    xs = draws(12, *shape)
    path = saved(tmp_path / "model.torchpool", build(cls), (xs[0],))
    model = build(cls)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.5)  # the file holds no weights
    nothing_again()
    with torchpool.load(path, model) as predict:
        assert_close(predict(xs[0]), eager(model, xs[0]))
        assert predict.explain().served_by == ("graph",)
        assert_all_close(predict.map(xs), [eager(model, x) for x in xs])
        verdict = predict.explain().contracts[0].rows
        assert verdict is not None
        assert verdict.allows


def test_methods_and_further_kinds_are_loaded(tmp_path: Path, nothing_again: Callable[[], None]) -> None:
    x = draw(1, 4)
    model = build(Scores)
    path = saved(tmp_path / "m", model.score, (x,), (x, 3.0), name="scores")
    again = build(Scores)
    nothing_again()
    with torchpool.load(path, again.score, max_batch=8) as predict:
        assert_close(predict(x), eager(again.score, x))
        assert_close(predict(x, 3.0), eager(again.score, x, 3.0))
        explained = predict.explain()
        assert explained.served_by == ("graph", "graph")
        assert (explained.name, explained.max_batch) == ("scores", 8)


def test_padding_is_loaded(tmp_path: Path, nothing_again: Callable[[], None]) -> None:
    calls = [(draw(1, length, 8, seed=length), torch.ones(1, length)) for length in (5, 7, 3, 6)]
    path = saved(tmp_path / "m", build(Pooled), example=calls[:2], pad={"x": 0, "mask": 0})
    model = build(Pooled)
    nothing_again()
    with torchpool.load(path, model) as predict:
        assert_close(predict(*calls[0]), eager(model, *calls[0]))
        assert predict.explain().contracts[0].padded
        assert_all_close(predict.starmap(calls), [eager(model, *call) for call in calls])


def test_that_there_is_no_graph_is_loaded(tmp_path: Path, nothing_again: Callable[[], None]) -> None:
    path = saved(tmp_path / "m", build(Branching), (draw(1, 4),))
    model = build(Branching)
    nothing_again()
    with torchpool.load(path, model) as predict:
        assert_close(predict(-draw(1, 4)), eager(model, -draw(1, 4)))
        assert "a branch or a size depends on values" in str(predict.explain())


def test_another_process_loads_it_for_results_of_a_class(tmp_path: Path) -> None:
    path = saved(tmp_path / "m", build(Pooled), example=[(draw(1, 5, 8), torch.ones(1, 5))])
    done = run_python(
        f"""
        import torch, torchpool
        from spawned import Pooled
        from support import build
        predict = torchpool.load({str(path)!r}, build(Pooled))
        predict(torch.ones(1, 5, 8), torch.ones(1, 5))
        assert predict.explain().served_by == ("graph",), predict.explain()
        """
    )
    assert_clean(done)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda model: setattr(model, "factor", 3.0), "its attributes, or values that its code reads, differ"),
        (
            lambda model: setattr(model, "linear", build(Wide).linear),
            "names, shapes or dtypes of its parameters differ",
        ),
        (lambda model: setattr(model, "linear", nn.Sequential(model.linear)), "the classes of its modules differ"),
    ],
)
def test_a_file_of_another_model_is_refused(change: Callable[[Any], None], text: str, tmp_path: Path) -> None:
    path = saved(tmp_path / "m", build(Scores), (draw(1, 4),))
    other = build(Scores)
    change(other)
    with pytest.raises(ValueError, match=f"is not for this Scores: it was saved for another model: {text}"):
        torchpool.load(path, other)


def test_what_a_fingerprint_does_not_tell_is_seen_by_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = saved(tmp_path / "m", build(Scores), (draw(1, 4),))
    model = build(Scores)
    model.factor = 3.0
    monkeypatch.setattr("torchpool.contract.fingerprint._settings", lambda parts, reach: [])
    forged = saved(tmp_path / "forged", build(Scores), (draw(1, 4),))
    del path
    with torchpool.load(forged, model) as predict, caplog.at_level(logging.WARNING, "torchpool"):
        assert_close(predict(draw(1, 4)), eager(model, draw(1, 4)))
        assert predict.ready()
        assert_close(predict(draw(1, 4)), eager(model, draw(1, 4)))
        assert predict.explain().served_by == ("graph",)  # a new one
    assert "is not used, and its graph made anew: its graph is not equal to the module" in caplog.text


def test_on_another_processor_graphs_are_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x = draw(1, 4)
    path = saved(tmp_path / "m", build(Scores), (x,))
    monkeypatch.setattr(saved_file, "machine", lambda: "another")
    monkeypatch.setattr(probes, "find", refuse)  # the contract holds
    model = build(Scores)
    with torchpool.load(path, model) as predict:
        assert_close(predict(x), eager(model, x))
        assert predict.ready()
        assert predict.explain().served_by == ("graph",)


def test_options_that_decide_are_not_given_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "m", build(Scores), (draw(1, 4),))
    with pytest.raises(TypeError, match=r"load\(\) takes no dtype=, since what was learned depends on it"):
        torchpool.load(path, build(Scores), dtype=torch.bfloat16)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match=r"load\(\) has no option 'max_bacth': did you mean max_batch="):
        torchpool.load(path, build(Scores), max_bacth=3)  # type: ignore[call-overload]


def test_what_has_learned_nothing_is_not_saved(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="has learned nothing yet that may be saved: call it first"):
        torchpool.wrap(build(Scores)).save(tmp_path / "m")
    with pytest.raises(ValueError, match="merging is off"):
        torchpool.wrap(build(Scores), batch=False).save(tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m"
    path.write_bytes(b"PK\x03\x04 something else, longer than a header of this kind would be, by far")
    with pytest.raises(ValueError, match=r"is no file that Predictor\.save\(\) has written"):
        torchpool.load(path, build(Scores))
    with pytest.raises(FileNotFoundError):
        torchpool.load(tmp_path / "none", build(Scores))


def test_a_damaged_file_is_refused_at_whatever_byte(tmp_path: Path) -> None:
    path = saved(tmp_path / "m", build(Scores), (draw(1, 4),))
    data = path.read_bytes()
    for at in (0, 9, 12, 30, HEADER.size + 5, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:at] + bytes([data[at] ^ 0x40]) + data[at + 1 :])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            torchpool.load(path, build(Scores))
    for length in (10, HEADER.size, len(data) // 2, len(data) - 1):
        path.write_bytes(data[:length])
        with pytest.raises(ValueError, match=re.escape(str(path))):
            torchpool.load(path, build(Scores))


def _with_program(content: dict[str, Any], **changes: Any) -> None:
    programs = content["kinds"][0]["outcome"]["programs"]["$Programs"]
    programs["packed"]["$Lowered"].update(changes)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda c: c.update(more=1), "expected the entries"),
        (lambda c: c.update(batch=[0, 1]), "rows of a batch must be"),
        (lambda c: _with_program(c, num_slots=2), "names others"),
        (lambda c: _with_program(c, input_slots=[-1]), "names others"),
        (lambda c: _with_program(c, weight_names=["linear.weight"]), "a slot for each weight"),
        (lambda c: _with_program(c, body=[{"$Nothing": 1}]), "no such entry is known"),
        (lambda c: _with_program(c, body=[{"$Slot": {"place": 1}}]), "must have the entries"),
        (lambda c: _with_program(c, body=[{"$class": "subprocess:Popen"}]), "must be of instructions"),
        (lambda c: c["kinds"][0]["outcome"].update(spec={"$class": "os:system"}), r"os\.system is no class"),
        (lambda c: c["kinds"][0]["outcome"].update(spec={"$class": "nowhere:X"}), "'nowhere' is not imported here"),
        (lambda c: c["kinds"][0]["outcome"].update(spec={"$tuple": [1, 2]}), "expected a TreeSpec"),
    ],
)
def test_a_forged_file_is_refused_by_its_entry(
    change: Callable[[dict[str, Any]], None], text: str, tmp_path: Path
) -> None:
    path = edited(saved(tmp_path / "m", build(Scores), (draw(1, 4),)), change)
    with pytest.raises(ValueError, match=text):
        torchpool.load(path, build(Scores))
