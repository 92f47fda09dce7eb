"""Layers that work on each item of a batch, or on each plane of it: convolutions, pools, resampling, transforms."""

from __future__ import annotations

import re

from torchpool.contract.rows.domain import Claims, Rows, agree, mixes, show
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule


def rows_of(given: Operand, op: Op, dims: range) -> Rows:
    """The layout of rows, which must be in one of the dims that an operator keeps apart."""
    if not isinstance(given.claim, Rows) or given.claim.dim not in dims:
        mixes(f"{op.name} over the rows")
    return given.claim


def refuse_weights_from_rows(op: Op, *names: str) -> None:
    """Weights that a row has of its own would be those of the whole batch."""
    for name in names:
        if not op.operand(name).is_const:
            mixes(f"the {name} of {op.name} comes from rows")


@rule("""
    conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d convolution _convolution
    _convolution_mode
""")
def convolution(op: Op) -> Claims:
    """Of a batch, whose dim comes first; without one the first dim are the channels."""
    refuse_weights_from_rows(op, "weight", "bias")
    given = op.operand("input")
    if given.rank != op.operand("weight").rank:
        mixes(f"{op.name} takes the rows for channels")
    return rows_of(given, op, range(1))


_POOLS = """
    max_pool1d max_pool2d max_pool3d max_pool1d_with_indices max_pool2d_with_indices max_pool3d_with_indices
    avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
    _adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
"""
_UPSAMPLING = """
    upsample_nearest1d upsample_nearest2d upsample_nearest3d _upsample_nearest_exact1d _upsample_nearest_exact2d
    _upsample_nearest_exact3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d
    _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_lanczos2d_aa
"""


@rule(_POOLS, _UPSAMPLING)
def of_each_plane(op: Op) -> Claims:
    """Items and channels alike are kept apart, so that rows may be either. Indices are places in a plane."""
    given = op.operand(op.first("self", "input"))
    return op.each(rows_of(given, op, range(given.rank - _plane(op.name))))


def _plane(name: str) -> int:
    """How many dims a pool or an upsampling works over, as its name says."""
    return int(re.findall(r"(\d)d", name)[0])


@rule("max_unpool2d max_unpool3d")
def unpool(op: Op) -> Claims:
    """As pools; the indices have the same rows."""
    given, indices = op.operand("self"), op.operand("indices")
    layout = rows_of(given, op, range(given.rank - _plane(op.name)))
    both = agree(layout, indices.claim)
    if both is None:
        mixes(f"{op.name} by indices that are not aligned with the rows: {show(layout)}, {show(indices.claim)}")
    return both


@rule("pixel_shuffle pixel_unshuffle")
def shuffled_pixels(op: Op) -> Claims:
    """Of each image: channels, height and width are the last dims."""
    given = op.operand("self")
    return rows_of(given, op, range(given.rank - 3))


@rule("channel_shuffle native_channel_shuffle")
def shuffled_channels(op: Op) -> Claims:
    """Of a batch."""
    return rows_of(op.operand("self"), op, range(1))


@rule("im2col")
def unfolded_windows(op: Op) -> Claims:
    """Of a batch of images, or of one."""
    given = op.operand("self")
    return rows_of(given, op, range(given.rank - 3))


@rule("col2im")
def folded_windows(op: Op) -> Claims:
    """Of a batch of windows' columns, or of one image's."""
    given = op.operand("self")
    return rows_of(given, op, range(given.rank - 2))


@rule("grid_sampler grid_sampler_2d grid_sampler_3d")
def sampled(op: Op) -> Claims:
    """Each item at its own places."""
    layout = rows_of(op.operand("input"), op, range(1))
    both = agree(layout, op.operand("grid").claim)
    if both is None:
        mixes(f"{op.name} at places that are not aligned with the rows")
    return both


@rule("affine_grid_generator", sizes=True)
def affine_grid(op: Op) -> Claims:
    """A grid for each matrix."""
    return rows_of(op.operand("theta"), op, range(1))


@rule("stft")
def spectra(op: Op) -> Claims:
    """Of each signal along the last dim."""
    refuse_weights_from_rows(op, "window")
    given = op.operand("self")
    return rows_of(given, op, range(given.rank - 1))


@rule("istft")
def signals(op: Op) -> Claims:
    """Of each spectrum: frequencies and times are the last dims."""
    refuse_weights_from_rows(op, "window")
    given = op.operand("self")
    return rows_of(given, op, range(given.rank - 2))
