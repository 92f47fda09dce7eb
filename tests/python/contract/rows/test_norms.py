"""Norms, activations that have weights, dropout."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import count, forced

from torchpool.contract.rows.domain import CONST, All, Iota, Rows


@pytest.mark.parametrize(
    ("target", "more", "results"),
    [
        (aten.layer_norm.default, [], 1),
        (aten.rms_norm.default, [], 1),
        (aten.native_layer_norm.default, [None, None, 1e-5], 3),
        (aten._fused_rms_norm.default, [None, 1e-5], 2),
    ],
)
def test_a_norm_of_the_last_dims(target: Any, more: list[Any], results: int) -> None:
    sketch = Sketch()
    name = target._schema.name.removeprefix("aten::")
    for dim in (0, 1):
        found = sketch.claim(target, sketch.rows(3, 4, dim=dim), [4], *more)
        assert found == (Rows(dim) if results == 1 else [Rows(dim)] * results)
    whole = sketch.claim(target, sketch.rows(3, 4), [3, 4], *more)
    assert whole == (Rows(0) if results == 1 else [Rows(0)] * results)
    # Sizes that no graph has, so that it is the number of dims alone that decides.
    over = f"mixes: {name} over the rows"
    assert sketch.refusal_like(target, sketch.rows(3, 4, dim=1), [7, 4], *more) == over
    assert sketch.refusal_like(target, sketch.rows(3, 4, dim=2), [7], *more) == over


@pytest.mark.parametrize("place", [0, 1])
def test_weights_of_a_norm_from_rows_are_refused(place: int) -> None:
    sketch = Sketch()
    weights = [sketch.rows() if place == number else None for number in range(2)]
    found = sketch.refusal_like(aten.layer_norm.default, sketch.rows(3, 4), [4], *weights)
    assert found == f"mixes: the {['weight', 'bias'][place]} of layer_norm comes from rows"


@pytest.mark.parametrize("shape", [(8,), (8, 6), (8, 6, 6)])
def test_norms_of_an_item(shape: tuple[int, ...]) -> None:
    sketch = Sketch()
    x = sketch.rows(*shape)
    assert sketch.claim(aten.group_norm.default, x, 2, sketch.const(8), sketch.const(8)) == Rows(0)
    if len(shape) > 1:
        found = sketch.claim(aten.instance_norm.default, x, None, None, None, None, True, 0.1, 1e-5, False)
        assert found == Rows(0)


@pytest.mark.parametrize("dim", [1, 2])
def test_norms_over_the_rows_are_refused(dim: int) -> None:
    sketch = Sketch()
    x = sketch.rows(8, 6, dim=dim)
    assert sketch.refusal_like(aten.group_norm.default, x, 2) == "mixes: group_norm over the rows"
    found = sketch.refusal_like(aten.instance_norm.default, x, None, None, None, None, True, 0.1, 1e-5, False)
    assert found == "mixes: instance_norm over the rows"


INSTANCE, GROUP = aten.instance_norm.default, aten.group_norm.default


@pytest.mark.parametrize("place", ["weight", "bias", "running_mean", "running_var"])
def test_weights_of_instance_and_batch_norm_from_rows_are_refused(place: str) -> None:
    sketch = Sketch()
    names = ("weight", "bias", "running_mean", "running_var")
    weights = [sketch.rows() if name == place else sketch.const(8) for name in names]
    x = sketch.rows(8, 6)
    found = sketch.refusal_like(INSTANCE, x, *weights, False, 0.1, 1e-5, False)
    assert found == f"mixes: the {place} of instance_norm comes from rows"
    found = sketch.refusal_like(aten.batch_norm.default, x, *weights, False, 0.1, 1e-5, False)
    assert found == f"mixes: the {place} of batch_norm comes from rows"
    if place in ("weight", "bias"):
        found = sketch.refusal_like(GROUP, x, 2, *weights[:2])
        assert found == f"mixes: the {place} of group_norm comes from rows"


def test_running_statistics_of_an_instance_norm() -> None:
    sketch = Sketch()
    x, statistics = sketch.rows(8, 6), [sketch.const(8), sketch.const(8)]
    assert sketch.claim(INSTANCE, x, None, None, *statistics, False, 0.1, 1e-5, False) == Rows(0)
    found = sketch.refusal_like(INSTANCE, x, None, None, *statistics, True, 0.1, 1e-5, False)
    assert found == "state: instance_norm in train mode updates its running statistics"


def test_batch_norm_in_eval_mode() -> None:
    sketch = Sketch()
    weights = [sketch.const(8) for _ in range(4)]
    norm = aten.batch_norm.default
    assert sketch.claim(norm, sketch.rows(8, 6), *weights, False, 0.1, 1e-5, False) == Rows(0)
    assert sketch.claim(norm, sketch.rows(3, 8, dim=2), *weights, False, 0.1, 1e-5, False) == Rows(2)
    legit = aten._native_batch_norm_legit_no_training.default
    assert sketch.claim(legit, sketch.rows(8, 6), *weights, 0.1, 1e-5) == [Rows(0), CONST, CONST]
    found = sketch.refusal_like(norm, sketch.rows(8, 6, dim=1), *weights, False, 0.1, 1e-5, False)
    assert found == "mixes: the rows are the channels of batch_norm"


@pytest.mark.parametrize("name", ["batch_norm", "native_batch_norm"])
def test_batch_norm_in_train_mode_is_refused(name: str) -> None:
    sketch = Sketch()
    weights = [sketch.const(8) for _ in range(4)]
    flags = [True, 0.1, 1e-5, False][: 4 if name == "batch_norm" else 3]
    found = sketch.refusal_like(getattr(aten, name).default, sketch.rows(8, 6), *weights, *flags)
    assert found == "mixes: batch_norm in train mode takes mean and variance over the batch"


@pytest.mark.parametrize("there", [0, 1])
def test_batch_norm_without_running_statistics_is_refused(there: int) -> None:
    sketch = Sketch()
    statistics: list[Any] = [None, None]
    statistics[there] = sketch.const(8)
    x = sketch.rows(8, 6)
    found = sketch.refusal_like(aten.batch_norm.default, x, None, None, *statistics, False, 0.1, 1e-5, False)
    assert found == "mixes: batch_norm without running statistics takes mean and variance over the batch"


def test_prelu() -> None:
    sketch = Sketch()
    prelu = aten.prelu.default
    assert sketch.claim(prelu, sketch.rows(8, 6), sketch.const(8)) == Rows(0)
    assert sketch.claim(prelu, sketch.rows(3, 8, dim=2), sketch.const(8)) == Rows(2)
    assert sketch.claim(prelu, sketch.rows(8, 6, dim=1), sketch.const(1)) == Rows(1)
    found = sketch.refusal_like(prelu, sketch.rows(8, 6, dim=1), sketch.const(8))
    assert found == "mixes: the rows are the channels of prelu"
    weight = sketch.rows()
    assert sketch.refusal_like(prelu, sketch.rows(8, 6), weight) == "mixes: the weight of prelu comes from rows"


@pytest.mark.parametrize("name", ["dropout", "feature_dropout", "alpha_dropout", "feature_alpha_dropout"])
def test_dropout_draws_in_train_mode_only(name: str) -> None:
    sketch = Sketch()
    x, target = sketch.rows(8, 6), getattr(aten, name).default
    assert sketch.claim(target, x, 0.5, False) == Rows(0)
    assert sketch.claim(target, x, 0.0, True) == Rows(0)
    numbers = sketch.claimed(Iota(0), sketch.batch)
    assert sketch.claim(target, numbers, 0.5, False) == Iota(0)
    assert sketch.refusal_like(target, sketch.const(8), 0.5, True) == f"random: {name} in train mode"
    assert sketch.refusal_like(target, x, 0.5, True) == f"random: {name} in train mode"


def test_rrelu_draws_in_train_mode_only() -> None:
    sketch = Sketch()
    x = sketch.rows(8)
    assert sketch.claim(aten.rrelu.default, x) == Rows(0)
    assert sketch.refusal_like(aten.rrelu.default, x, 0.1, 0.3, True) == "random: rrelu in train mode"
    assert torch.Tag.nondeterministic_seeded in aten.rrelu.default.tags


def test_a_group_norm_that_is_given_the_sizes() -> None:
    sketch = Sketch()
    x, norm = sketch.rows(6, 5), aten.native_group_norm.default
    given = [sketch.const(6), sketch.const(6)]
    assert sketch.claim(norm, x, *given, count(sketch), 6, 5, 2, 1e-5) == [Rows(0)] * 3
    folded = sketch.claimed(Rows(0, 1, 2), 2 * sketch.batch, 6, 5)
    twice = count(sketch, 2 * sketch.batch)
    assert sketch.claim(norm, folded, *given, twice, 6, 5, 2, 1e-5) == [Rows(0, 1, 2)] * 3
    weighted = _group_norm(sketch, x, sketch.rows(), count(sketch), 6, 5, 2)
    assert weighted == "mixes: the weight of native_group_norm comes from rows"
    for stated in ([1, count(sketch, 6 * sketch.batch), 5], [count(sketch), 3, 10], [count(sketch), 6, 10]):
        sizes = _group_norm(sketch, x, None, *stated, 2)
        assert sizes == "mixes: native_group_norm is given other sizes than its input's"
    channels = _group_norm(sketch, sketch.rows(3, 5, dim=1), None, 3, count(sketch), 5, 1)
    assert channels == "mixes: native_group_norm over the rows"
    groups = _group_norm(sketch, x, None, count(sketch), 6, 5, count(sketch))
    assert groups == "mixes: the number of groups comes from the number of rows"


def _group_norm(sketch: Sketch, x: Any, weight: Any, *sizes: Any) -> str:
    found = forced(sketch, [x] * 3, aten.native_group_norm.default, x, weight, None, *sizes, 1e-5)
    assert isinstance(found, All), found
    return f"{found.kind}: {found.why}"
