"""wrap(cache=True): what was learned is found by the next predictor of such a model, in a folder of the user's own."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from spawned import refuse
from support import assert_close, build, draw, eager
from torch import Tensor, nn

import torchpool
from torchpool.predictor import building, cache, probes

pytestmark = pytest.mark.graphs


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.factor = 2.0

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * self.factor


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCHPOOL_CACHE", str(tmp_path / "own" / "torchpool"))
    return tmp_path / "own" / "torchpool"


@pytest.fixture
def nothing_again(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], None]]:
    def begin() -> None:
        monkeypatch.setattr(probes, "find", refuse)
        monkeypatch.setattr(building, "capture_elsewhere", refuse)

    yield begin


def learned(model: nn.Module) -> None:
    with torchpool.wrap(model, cache=True) as predict:
        assert_close(predict(draw(1, 4)), eager(model, draw(1, 4)))
        assert predict.ready()


def test_the_next_predictor_begins_with_what_was_learned(folder: Path, nothing_again: Callable[[], None]) -> None:
    learned(build(Scores))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    nothing_again()
    model = build(Scores)
    with torchpool.wrap(model, cache=True) as predict:
        assert_close(predict(draw(1, 4)), eager(model, draw(1, 4)))
        assert predict.explain().served_by == ("graph",)


def test_it_is_written_once_the_graph_is_ready(folder: Path) -> None:
    predict = torchpool.wrap(build(Scores), cache=True)
    predict(draw(1, 4))
    assert predict.ready()
    assert len(list(folder.iterdir())) == 1


def test_other_models_and_options_have_files_of_their_own(folder: Path) -> None:
    learned(build(Scores))
    other = build(Scores)
    other.factor = 3.0
    learned(other)
    with torchpool.wrap(build(Scores), cache=True, max_batch=4) as predict:
        predict(draw(1, 4))
    assert len(list(folder.glob("*.torchpool"))) == 3


def test_without_it_nothing_is_written(folder: Path) -> None:
    with torchpool.wrap(build(Scores)) as predict:
        predict(draw(1, 4))
    assert not folder.exists()


def test_a_damaged_file_is_learned_anew_and_replaced(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    learned(build(Scores))
    (path,) = folder.iterdir()
    path.write_bytes(path.read_bytes()[:-1])
    with caplog.at_level(logging.WARNING, "torchpool"):
        learned(build(Scores))
    assert "is damaged" in caplog.text
    cache.saved_file.read(path)


@pytest.mark.parametrize("spoil", ["mode", "link", "file", "owner"])
def test_a_folder_of_others_is_not_used(
    spoil: str, folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.parent.mkdir()
    texts = {
        "mode": r"may be entered by others \(mode 750\)",
        "link": "must be a folder, and no link",
        "file": "must be a folder, and no link",
        "owner": "belongs to user",
    }
    if spoil == "mode":
        folder.mkdir(mode=0o750)
        folder.chmod(0o750)
    elif spoil == "link":
        (folder.parent / "elsewhere").mkdir(mode=0o700)
        folder.symlink_to(folder.parent / "elsewhere")
    elif spoil == "file":
        folder.write_text("")
    else:
        other = os.geteuid() + 1
        monkeypatch.setattr(cache.os, "geteuid", lambda: other)
    with caplog.at_level(logging.WARNING, "torchpool"):
        learned(build(Scores))
    assert len([one for one in caplog.messages if "what is learned is not kept" in one]) == 1
    with pytest.raises(OSError, match=texts[spoil]):
        cache.private_folder()
    assert not list(folder.parent.rglob("*.torchpool"))


def test_files_that_nobody_finds_go_first(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned(build(Scores))
    (kept,) = folder.iterdir()
    os.utime(kept, (2e9, 2e9))  # found later than all others
    for number in range(4):
        path = folder / f"{number}.torchpool"
        path.write_bytes(b"")
        os.utime(path, (number, number))
    monkeypatch.setattr(cache, "_MOST_FILES", 3)
    other = build(Scores)
    other.factor = 3.0
    learned(other)
    left = {path.name for path in folder.iterdir()}
    assert len(left) == 3
    assert kept.name in left
    assert "3.torchpool" in left


def test_a_full_disk_is_told_and_harms_nobody(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cache.saved_file, "write", full)
    with caplog.at_level(logging.WARNING, "torchpool"):
        learned(build(Scores))
    assert "what was learned is not kept: [Errno 28]" in caplog.text


def test_the_flag_is_a_flag() -> None:
    with pytest.raises(TypeError, match="cache must be True or False, got '/tmp'"):
        torchpool.wrap(build(Scores), cache="/tmp")  # type: ignore[call-overload]


def test_an_accelerated_model_is_found_again(folder: Path, nothing_again: Callable[[], None]) -> None:
    model = build(Scores)
    torchpool.accelerate(model, cache=True)
    predict = torchpool.predictor_of(model)
    with torch.no_grad():
        predict(draw(1, 4))
    assert predict.ready()
    torchpool.restore(model)
    nothing_again()
    again = build(Scores)
    torchpool.accelerate(again, cache=True)
    found = torchpool.predictor_of(again)
    with torch.no_grad():
        found(draw(1, 4))
    assert found.explain().served_by == ("graph",)
    torchpool.restore(again)
