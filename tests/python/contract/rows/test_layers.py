"""Layers that keep items apart, and those that keep planes apart: which dim the rows may be in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import Rows, Same


def _ask(ask: Callable[..., Any], sketch: Sketch, shape: list[int], dim: int, target: Any, more: Sequence[Any]) -> Any:
    """`more`: shapes of constants as tuples, other arguments as they are."""
    given = [sketch.const(*item) if isinstance(item, tuple) else item for item in more]
    return ask(target, sketch.rows(*shape, dim=dim), *given)


def _found(target: Any, shape: list[int], dim: int, *more: Any) -> Any:
    sketch = Sketch()
    return _ask(sketch.claim, sketch, shape, dim, target, more)


def _refusal(target: Any, shape: list[int], dim: int, *more: Any) -> str:
    sketch = Sketch()
    found: str = _ask(sketch.refusal, sketch, shape, dim, target, more)
    return found


CONVOLUTIONS = [
    (aten.conv1d.default, [3, 8], [(5, 3, 3), (5,)]),
    (aten.conv2d.default, [3, 8, 8], [(5, 3, 3, 3), (5,)]),
    (aten.conv2d.padding, [3, 8, 8], [(5, 3, 3, 3), None, [1, 1], "same"]),
    (aten.conv3d.default, [3, 8, 8, 8], [(5, 3, 3, 3, 3)]),
    (aten.conv_transpose1d.default, [3, 8], [(3, 5, 3)]),
    (aten.conv_transpose2d.input, [3, 8, 8], [(3, 5, 3, 3), (5,)]),
    (aten.conv_transpose3d.input, [3, 8, 8, 8], [(3, 5, 3, 3, 3)]),
    (aten.convolution.default, [3, 8], [(5, 3, 3), None, [1], [0], [1], False, [0], 1]),
]


@pytest.mark.parametrize(("target", "shape", "more"), CONVOLUTIONS)
def test_convolutions_of_a_batch(target: Any, shape: list[int], more: list[Any]) -> None:
    assert _found(target, shape, 0, *more) == Rows(0)
    name = target._schema.name.removeprefix("aten::")
    assert _refusal(target, [2, *shape[:-1]], len(shape), *more) == f"mixes: {name} over the rows"


def test_a_convolution_of_one_item_takes_the_first_dim_for_channels() -> None:
    sketch = Sketch()
    x = sketch.rows(8)
    found = sketch.refusal_like(aten.conv1d.default, x, sketch.const(5, 3, 3))
    assert found == "mixes: conv1d takes the rows for channels"


@pytest.mark.parametrize("place", ["weight", "bias"])
def test_weights_of_a_convolution_from_rows_are_refused(place: str) -> None:
    sketch = Sketch()
    x = sketch.rows(3, 8)
    weight = sketch.rows(3, 3) if place == "weight" else sketch.const(5, 3, 3)
    found = sketch.refusal_like(aten.conv1d.default, x, weight, sketch.rows() if place == "bias" else None)
    assert found == f"mixes: the {place} of conv1d comes from rows"


PLANES = [
    (aten.max_pool1d.default, 1, [2]),
    (aten.max_pool2d.default, 2, [[2, 2]]),
    (aten.max_pool3d.default, 3, [[2, 2, 2]]),
    (aten.avg_pool1d.default, 1, [[2]]),
    (aten.avg_pool2d.default, 2, [[2, 2]]),
    (aten.avg_pool3d.default, 3, [[2, 2, 2]]),
    (aten.adaptive_avg_pool1d.default, 1, [[2]]),
    (aten.adaptive_avg_pool2d.default, 2, [[2, 2]]),
    (aten.adaptive_avg_pool3d.default, 3, [[2, 2, 2]]),
    (aten._adaptive_avg_pool2d.default, 2, [[2, 2]]),
]
UPSAMPLING = [
    (aten.upsample_nearest1d.vec, 1, [[9], None]),
    (aten.upsample_nearest2d.vec, 2, [[9, 9], None]),
    (aten.upsample_nearest3d.vec, 3, [[9, 9, 9], None]),
    (aten.upsample_nearest2d.default, 2, [[9, 9]]),
    (aten._upsample_nearest_exact2d.default, 2, [[9, 9]]),
    (aten.upsample_linear1d.vec, 1, [[9], False, None]),
    (aten.upsample_bilinear2d.vec, 2, [[9, 9], False, None]),
    (aten.upsample_bicubic2d.vec, 2, [[9, 9], True, None]),
    (aten.upsample_trilinear3d.vec, 3, [[9, 9, 9], False, None]),
    (aten._upsample_bilinear2d_aa.vec, 2, [[9, 9], False, None]),
]


@pytest.mark.parametrize(("target", "plane", "more"), PLANES + UPSAMPLING)
@pytest.mark.parametrize("dim", [0, 1])
def test_rows_are_items_or_channels_of_planes(target: Any, plane: int, more: list[Any], dim: int) -> None:
    assert _found(target, [3, *[6] * plane], dim, *more) == Rows(dim)


@pytest.mark.parametrize(("target", "plane", "more"), PLANES)
def test_rows_are_channels_of_one_item(target: Any, plane: int, more: list[Any]) -> None:
    assert _found(target, [6] * plane, 0, *more) == Rows(0)


@pytest.mark.parametrize(("target", "plane", "more"), PLANES + UPSAMPLING)
def test_rows_in_a_plane_are_refused(target: Any, plane: int, more: list[Any]) -> None:
    name = target._schema.name.removeprefix("aten::")
    assert _refusal(target, [2, 3, *[6] * (plane - 1)], 2, *more) == f"mixes: {name} over the rows"


@pytest.mark.parametrize(
    ("target", "shape", "more"),
    [
        (aten.max_pool2d_with_indices.default, [3, 6, 6], [[2, 2]]),
        (aten.adaptive_max_pool1d.default, [3, 6], [[2]]),
        (aten.adaptive_max_pool2d.default, [3, 6, 6], [[2, 2]]),
    ],
)
@pytest.mark.parametrize("dim", [0, 1])
def test_indices_of_pools_are_places_in_a_plane(target: Any, shape: list[int], more: list[Any], dim: int) -> None:
    assert _found(target, shape, dim, *more) == [Rows(dim), Rows(dim)]


def test_unpooling() -> None:
    sketch = Sketch()
    x, indices = sketch.rows(3, 4, 4), sketch.rows(3, 4, 4, dtype=torch.int64)
    assert sketch.claim(aten.max_unpool2d.default, x, indices, [8, 8]) == Rows(0)
    late = [sketch.rows(3, 4, 4, dim=2), sketch.rows(3, 4, 4, dim=2, dtype=torch.int64)]
    assert sketch.refusal(aten.max_unpool2d.default, *late, [8, 8]) == "mixes: max_unpool2d over the rows"
    folded = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 3, 4, 4)
    other = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, 3, 4, 4, dtype=torch.int64)
    found = sketch.refusal(aten.max_unpool2d.default, folded, other, [8, 8])
    assert found.startswith("mixes: max_unpool2d by indices that are not aligned with the rows: rows in dim 0, 1 x")
    same = sketch.claimed(Same(0, 2), sketch.batch * 2, 3, 4, 4, dtype=torch.int64)
    assert sketch.claim(aten.max_unpool2d.default, folded, same, [8, 8]) == Rows(0, inner=2)


@pytest.mark.parametrize(
    ("target", "shape", "more", "apart"),
    [
        (aten.pixel_shuffle.default, [8, 6, 6], [2], 1),
        (aten.pixel_shuffle.default, [2, 8, 6, 6], [2], 2),
        (aten.pixel_unshuffle.default, [8, 6, 6], [2], 1),
        (aten.channel_shuffle.default, [8, 6, 6], [2], 1),
        (aten.im2col.default, [3, 6, 6], [[2, 2], [1, 1], [0, 0], [1, 1]], 1),
        (aten.col2im.default, [12, 9], [[4, 4], [2, 2], [1, 1], [0, 0], [1, 1]], 1),
    ],
)
def test_items_are_kept_apart(target: Any, shape: list[int], more: list[Any], apart: int) -> None:
    for dim in range(apart):
        assert _found(target, shape, dim, *more) == Rows(dim)


@pytest.mark.parametrize(
    ("target", "shape", "dim", "more"),
    [
        (aten.pixel_shuffle.default, [2, 8, 6], 2, [2]),
        (aten.pixel_shuffle.default, [8, 6], 1, [2]),
        (aten.channel_shuffle.default, [2, 8, 6], 3, [2]),
        (aten.channel_shuffle.default, [2, 8, 6], 2, [2]),
        (aten.im2col.default, [2, 3, 6], 2, [[2, 2], [1, 1], [0, 0], [1, 1]]),
        (aten.im2col.default, [2, 6, 6], 1, [[2, 2], [1, 1], [0, 0], [1, 1]]),
    ],
)
def test_rows_in_an_item_are_refused(target: Any, shape: list[int], dim: int, more: list[Any]) -> None:
    name = target._schema.name.removeprefix("aten::")
    assert _refusal(target, shape, dim, *more) == f"mixes: {name} over the rows"


@pytest.mark.parametrize(("shape", "dim"), [([2, 12], 2), ([2, 9], 1), ([9], 0)])
def test_columns_of_rows_are_refused(shape: list[int], dim: int) -> None:
    sketch = Sketch()
    x = sketch.rows(*shape, dim=dim)
    found = sketch.refusal_like(aten.col2im.default, x, [4, 4], [2, 2], [1, 1], [0, 0], [1, 1])
    assert found == "mixes: col2im over the rows"


def test_items_are_sampled_at_their_own_places() -> None:
    sketch = Sketch()
    x, grid = sketch.rows(3, 6, 6), sketch.rows(4, 4, 2)
    for target in (aten.grid_sampler.default, aten.grid_sampler_2d.default):
        assert sketch.claim(target, x, grid, 0, 0, False) == Rows(0)
    channels = sketch.rows(2, 6, 6, dim=1)
    flat = sketch.const(2, 1, 4, 2)
    over = "mixes: grid_sampler over the rows"
    assert sketch.refusal(aten.grid_sampler.default, channels, flat, 0, 0, False) == over
    folded = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 3, 6, 6)
    other = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, 4, 4, 2)
    found = sketch.refusal(aten.grid_sampler.default, folded, other, 0, 0, False)
    assert found == "mixes: grid_sampler at places that are not aligned with the rows"
    places = sketch.rows(2, 4, 2, dim=1)
    assert sketch.refusal(aten.grid_sampler.default, sketch.const(2, 3, 6, 6), places, 0, 0, False) == over


def test_a_grid_for_each_matrix() -> None:
    sketch = Sketch()
    theta = sketch.rows(2, 3)
    size = sketch.add(aten.sym_size.int, theta, 0)
    assert sketch.claim(aten.affine_grid_generator.default, theta, [size, 3, 4, 4], False) == Rows(0)
    found = sketch.refusal_like(aten.affine_grid_generator.default, sketch.rows(2, 3, dim=1), [2, 3, 4, 4], False)
    assert found == "mixes: affine_grid_generator over the rows"


def test_spectra_and_signals() -> None:
    spectrum = aten.stft.default
    assert _found(spectrum, [64], 0, 16, 4, 16, (16,), False, True, True) == Rows(0)
    over = "mixes: stft over the rows"
    sketch = Sketch()
    assert sketch.refusal_like(spectrum, sketch.rows(), 16, 4, 16, None, False, True, True) == over
    assert sketch.refusal_like(spectrum, sketch.rows(2, dim=1), 16, 4, 16, None, False, True, True) == over
    x = sketch.rows(9, 20, dtype=torch.complex64)
    window = sketch.const(16)
    back: list[Any] = [16, 4, 16, window]
    node = sketch.graph.call_function(aten.istft.default, (x, *back))
    node.meta["val"] = sketch.rows(64).meta["val"]
    assert sketch.proof.claim_of(node) == Rows(0)
    over = "mixes: istft over the rows"
    assert sketch.refusal_like(aten.istft.default, sketch.rows(20, dtype=torch.complex64), *back) == over
    assert sketch.refusal_like(aten.istft.default, sketch.rows(2, 20, dim=1, dtype=torch.complex64), *back) == over


@pytest.mark.parametrize("name", ["stft", "istft"])
def test_a_window_from_rows_is_refused(name: str) -> None:
    sketch = Sketch()
    x, window = sketch.rows(9, 20, dtype=torch.complex64), sketch.rows()
    found = sketch.refusal_like(getattr(aten, name).default, x, 16, 4, 16, window)
    assert found == f"mixes: the window of {name} comes from rows"
