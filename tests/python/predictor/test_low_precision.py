"""wrap(weights=, dtype=): weights in less than fp32, rows that keep their bits, and an error that is told."""

from __future__ import annotations

import logging
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from support import HANG, build, draw, draws, eager
from torch import nn

import torchpool
from torchpool.capture import Difference, Tolerance, compare, linear_choice, programs
from torchpool.capture.linear_choice import ATEN, ONEDNN, OWN, LinearChoice
from torchpool.contract import ProofSample
from torchpool.predictor import precision

pytestmark = pytest.mark.graphs

BOUNDS = {"bf16": 1e-2, "int8": 3e-2}


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(64, 300)
        self.norm = nn.LayerNorm(300)
        self.last = nn.Linear(300, 48)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.norm(nn.functional.gelu(self.first(x))))


@pytest.fixture(autouse=True)
def by_own_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is measured: what is chosen does not depend on who shares the machine."""
    monkeypatch.setattr(linear_choice, "forced", OWN)


def wrap(model: nn.Module, example: Any, **options: Any) -> torchpool.Predictor:
    predict = torchpool.wrap(model, example=example, backend="graph", **options)
    assert predict.explain().served_by == ("graph",)
    return predict


def off(found: torch.Tensor, wanted: torch.Tensor) -> float:
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize("weights", ["bf16", "int8"])
def test_stored_weights_give_nearly_the_same_and_say_how_nearly(weights: Any, caplog: pytest.LogCaptureFixture) -> None:
    model, xs = build(Layers), draws(40, 1, 64)
    with caplog.at_level(logging.WARNING, "torchpool"), wrap(model, xs[0], weights=weights) as predict:
        results = list(predict.map(xs))
        expected = [eager(model, x) for x in xs]
        error = off(torch.cat(results), torch.cat(expected))
        assert 0 < error < BOUNDS[weights]
        assert all(y.dtype == torch.float32 and torch.equal(y, predict(x)) for y, x in zip(results, xs, strict=True))
        told = f"weights: {weights} in 2 of 2 linear layers, outputs differ from float32 by "
        notes = [note for note in predict.explain().to_dict()["notes"] if told in note]
        assert len(notes) == 1 and notes[0] in str(predict.explain())
        percent = float(notes[0].split(told)[1].split(" % (root mean square), by ")[0])
        assert error / 3 < percent / 100 < 3 * error, "of other inputs than these"
        assert f"{weights} weights)" in str(predict.explain())
    assert [record.message for record in caplog.records] == [f"Layers: {notes[0].split('): ', 1)[1]}"]


def test_int8_takes_a_quarter_of_the_memory() -> None:
    model, x = build(lambda: nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 512))), draw(1, 512)
    sizes = {}
    for weights in (None, "bf16", "int8"):
        with wrap(model, x, weights=weights) as predict:
            predict(x)
            before = torchpool._core.packed_weights()[1]
        del predict
        sizes[weights] = before
    assert sizes["bf16"] < 0.6 * sizes[None] and sizes["int8"] < 0.35 * sizes[None]


def test_new_weights_are_stored_anew() -> None:
    model, x = build(Layers), draw(5, 64)
    with wrap(model, x, weights="int8") as predict:
        predict(x)
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(-0.7)
        for _ in range(3):
            assert off(predict(x), eager(model, x)) < BOUNDS["int8"]


@pytest.mark.parametrize(
    ("model", "x", "why"),
    [
        (lambda: nn.Conv2d(3, 4, 3), (1, 3, 8, 8), "the graph has no linear layer of float32 with a constant weight"),
        (lambda: nn.Linear(64, 64).double(), (1, 64), "the graph has no linear layer of float32"),
        (lambda: nn.Linear(64, 3), (1, 64), "of its linear layers (1) none is faster so here, or large enough"),
    ],
)
def test_a_model_without_such_layers_is_told_so(
    model: Any, x: tuple[int, ...], why: str, caplog: pytest.LogCaptureFixture
) -> None:
    made = build(model)
    example = draw(*x).to(next(made.parameters()).dtype)
    with caplog.at_level(logging.WARNING, "torchpool"), wrap(made, example, weights="int8") as predict:
        assert torch.allclose(predict(example), eager(made, example), atol=1e-5)
        told = f"weights: as they are, not int8: {why}"
        assert any(told in note for note in predict.explain().notes)
    assert len(caplog.records) == 1 and told in caplog.records[0].getMessage()


def test_what_contradicts_is_refused() -> None:
    model = build(Layers)
    with pytest.raises(ValueError, match=r"weights='int8' contradicts dtype=torch.bfloat16: .*Give one of them"):
        torchpool.wrap(model, weights="int8", dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="weights must be one of 'bf16', 'int8', got 'int4'"):
        torchpool.wrap(model, weights="int4")  # type: ignore[call-overload]
    for options in ({"backend": "python"}, {"backend": "torchscript"}):
        with pytest.raises(TypeError, match="backend"):
            torchpool.wrap(model, weights="bf16", **options)
    with pytest.raises(TypeError, match=r"weights='bf16' needs an nn\.Module .* got function"):
        torchpool.wrap(lambda x: x, weights="bf16")
    with pytest.raises(TypeError, match=r"weights='bf16' needs an nn\.Module that is not scripted"):
        torchpool.wrap(torch.jit.script(model), weights="bf16")


def test_a_saved_program_keeps_its_weights_stored(tmp_path: Path) -> None:
    model, x = build(Layers), draw(3, 64)
    with wrap(model, x, weights="int8") as predict:
        expected = predict(x)
        predict.save(tmp_path / "saved")
    with pytest.raises(TypeError, match="load\\(\\) takes no weights="):
        torchpool.load(tmp_path / "saved", model, weights="bf16")
    with torchpool.load(tmp_path / "saved", model) as loaded:
        assert torch.equal(loaded(x), expected)
        assert loaded.ready(HANG) and loaded.explain().served_by == ("graph",)
        told = [note for note in loaded.explain().notes if "weights: int8 in 2 of 2 linear layers" in note]
        assert len(told) == 1


# dtype=


@pytest.mark.parametrize(("dtype", "storage"), [(torch.bfloat16, "bf16"), (torch.float16, "fp16")])
def test_without_products_of_a_dtype_weights_are_stored_in_it(
    dtype: torch.dtype, storage: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_products", lambda _: False)
    model, xs = build(Layers), draws(20, 1, 64)
    with wrap(model, xs[0], dtype=dtype) as predict:
        for y, x in zip(predict.map(xs), xs, strict=True):
            assert y.dtype == torch.float32 and 0 < off(y, eager(model, x)) < 1e-2
            assert torch.equal(y, predict(x)), "rows keep their bits"
        assert f"weights: {storage} in 2 of 2 linear layers" in str(predict.explain())
        assert "products of" not in str(predict.explain())


def test_a_wider_model_is_computed_in_float32_then(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "has_products", lambda _: False)
    model, x = build(lambda: Layers().double()), draw(3, 64).double()
    with wrap(model, x, dtype=torch.bfloat16) as predict:
        assert predict(x).dtype == torch.float64 and 0 < off(predict(x), eager(model, x)) < 1e-2
        assert "weights: bf16 in 2 of 2 linear layers" in str(predict.explain())


@pytest.mark.parametrize(
    ("times", "products"),
    [
        ({1: [1.0, 1.2], 16: [0.5, 1.0]}, True),
        ({1: [1.5, 1.2], 16: [0.5, 1.0]}, True),
        ({1: [1.2, 1.0], 16: [0.9, 1.0]}, False),
    ],
)
def test_with_products_the_faster_form_serves(
    times: dict[int, list[float]], products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "has_products", lambda _: True)
    monkeypatch.setattr(programs, "_times", lambda *_: times)
    model, x = build(Layers), draw(2, 64)
    with wrap(model, x, dtype=torch.bfloat16) as predict:
        assert predict(x).dtype == torch.float32 and 0 < off(predict(x), eager(model, x)) < 2e-2
        told = str(predict.explain())
        assert ("computed in torch.bfloat16: differs by" in told) == products
        assert ("weights: bf16 in 2 of 2 linear layers" in told) != products
        share = f"{times[1][0] / times[1][1]:.2f} at 1 row, {times[16][0] / times[16][1]:.2f} at 16 rows"
        assert f"products of torch.bfloat16 take {share} of the time of float32 with bf16 weights" in told


# Which layers.


def test_layers_that_would_be_slower_keep_their_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "forced", None)
    known = {
        ((300, 64), "int8"): LinearChoice(300, 64, OWN, ((1, 0.5),), "int8"),
        ((48, 300), "int8"): LinearChoice(48, 300, ATEN, ((1, 1.5),), "int8"),
        ((48, 300), "fp32"): LinearChoice(48, 300, OWN, ((1, 0.9),)),
    }
    monkeypatch.setattr(linear_choice, "_known", known)
    monkeypatch.setattr(linear_choice, "_measured", None)
    found = linear_choice.choose({(300, 64): 1, (48, 300): 2, (3, 64): 1}, "int8")
    assert {shape: (choice.kernel, choice.storage) for shape, choice in found.items()} == {
        (300, 64): (OWN, "int8"),
        (48, 300): (OWN, "fp32"),
        (3, 64): (ATEN, "fp32"),
    }
    isa = torchpool._core.linear_isa()
    told = linear_choice.describe(dict.fromkeys(found.values(), 1))
    assert told is not None and told.startswith(
        f"linear layers: 1 by ATen, 1 by torchpool ({isa}), 1 by torchpool ({isa}, int8 weights); measured"
    )
    model, x = build(Layers), draw(1, 64)
    with wrap(model, x, weights="int8") as predict:
        assert off(predict(x), eager(model, x)) < BOUNDS["int8"]
        assert "weights: int8 in 1 of 2 linear layers" in str(predict.explain())


def test_int8_may_be_slower_at_some_numbers_of_rows() -> None:
    def decided(storage: str, *ratios: float) -> str:
        shape = (256, 256)
        best = {(shape, rows, True): ratio for rows, ratio in zip((1, 4, 16, 48), ratios, strict=True)}
        best |= {(shape, rows, False): 1.0 for rows in (1, 4, 16, 48)}
        return linear_choice._decided(shape, best, storage).kernel

    assert decided("bf16", 0.4, 0.9, 1.0, 1.2) == ONEDNN
    assert decided("int8", 0.4, 0.9, 1.0, 1.2) == OWN
    assert decided("int8", 1.0, 1.0, 1.0, 1.2) == ONEDNN


def test_the_library_stores_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_choice, "forced", "library")
    model, x = build(Layers), draw(1, 64)
    with wrap(model, x, weights="bf16") as predict:
        assert off(predict(x), eager(model, x)) < 1e-5
        assert "weights: as they are, not bf16: of its linear layers (2) none is faster so here" in str(
            predict.explain()
        )


# What is no rounding.


class Off:
    """A graph whose two forms are off by so much."""

    def __init__(self, packed: float, plain: float) -> None:
        self._packed, self._plain = packed, plain

    def run(self, leaves: list[torch.Tensor], *, plain: bool = False) -> list[torch.Tensor]:
        return [leaves[0] * (1 + (self._plain if plain else self._packed))]


@pytest.mark.parametrize(
    ("packed", "plain", "right"), [(0.01, 0.0, True), (0.3, 0.0, False), (0.0, 0.01, False), (0.0, 0.0, True)]
)
def test_only_the_packed_form_may_round(packed: float, plain: float, right: bool) -> None:
    x = draw(3, 4)
    sample = ProofSample("3 rows", [x], [x], False)
    backend: Any = Off(packed, plain)
    difference, wrong = compare(backend, [sample], Tolerance.of(None, "int8"))
    assert (wrong is None) == right
    if right:
        assert math.isclose(difference.root_mean_square, packed, rel_tol=1e-3, abs_tol=1e-9)
        assert math.isclose(difference.largest, packed, rel_tol=1e-3, abs_tol=1e-9)


def test_of_outputs_that_are_zero_there_is_no_part() -> None:
    difference = Difference()
    assert difference.add(torch.zeros(3), torch.zeros(3), 1e-5) is None
    assert difference.root_mean_square == 0.0
