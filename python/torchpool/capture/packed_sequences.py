"""Packed sequences under export: padded rows with their lengths beside them, as our recurrent kernel takes them.

The order in which rows are packed follows from all lengths of a batch, and so does the length of what is packed. Export
could follow neither, and the proof of rows would see rows meet. So while a module is exported, torch's functions that
pack and pad keep the rows where they are. What they give is good for recurrent layers and for padding, and refuses all
else.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.fx.experimental.symbolic_shapes import statically_known_true
from torch.nn.utils import rnn

from torchpool.capture.program import CaptureError


class Sequence(rnn.PackedSequence):
    """What stands for a packed sequence."""

    padded: Tensor
    lengths: Tensor
    """Of each row, int64."""
    batch_first: bool
    clean: bool
    """Whether `padded` is 0 behind the rows' ends."""

    def __new__(cls, padded: Tensor, lengths: Tensor, batch_first: bool, clean: bool) -> Sequence:
        made = tuple.__new__(cls, (None, None, None, None))
        made.padded, made.lengths, made.batch_first, made.clean = padded, lengths, batch_first, clean
        return made

    @property
    def steps(self) -> Any:
        """Of the longest row that there may be."""
        return self.padded.shape[1 if self.batch_first else 0]

    def _refuse(self) -> NoReturn:
        raise CaptureError("a packed sequence is used for more than recurrent layers and pad_packed_sequence")

    data = batch_sizes = sorted_indices = unsorted_indices = property(_refuse)


def pack(padded: Tensor, lengths: Any, batch_first: bool) -> Sequence:
    """`pack_padded_sequence`. Rows need not be sorted, whatever the caller promises: our kernel sorts them."""
    if not isinstance(lengths, Tensor):
        raise CaptureError("the lengths of a packed sequence are no tensor: they would be the same for all calls")
    return Sequence(padded, lengths.to(dtype=torch.int64), batch_first, clean=False)


def pad(sequence: Any, batch_first: bool, padding_value: float, total_length: Any) -> tuple[Tensor, Tensor]:
    """`pad_packed_sequence`, back to as many steps as there were before packing."""
    if not isinstance(sequence, Sequence):
        raise CaptureError("a packed sequence comes from elsewhere than pack_padded_sequence")
    if total_length is None or not statically_known_true(total_length == sequence.steps):
        raise CaptureError(
            "the result of pad_packed_sequence is as long as the longest row of a batch: "
            "give it total_length, the steps that the rows had before they were packed"
        )
    found = sequence.padded
    if padding_value != 0 or not sequence.clean:
        step = torch.arange(sequence.steps)
        ends = sequence.lengths
        behind = step >= ends.unsqueeze(1) if sequence.batch_first else step.unsqueeze(1) >= ends
        found = found.masked_fill(behind.reshape(*behind.shape, *[1] * (found.dim() - 2)), padding_value)
    return found if batch_first == sequence.batch_first else found.transpose(0, 1), sequence.lengths


@contextlib.contextmanager
def kept_padded() -> Iterator[None]:
    """Lets torch's functions do so. A module may have imported them by name: their code is exchanged."""
    pairs: tuple[tuple[Any, Any], ...] = ((rnn.pack_padded_sequence, _pack), (rnn.pad_packed_sequence, _pad))
    before = [function.__code__ for function, _ in pairs]
    try:
        for function, own in pairs:
            function.__code__ = own.__code__
        yield
    finally:
        for (function, _), code in zip(pairs, before, strict=True):
            function.__code__ = code


# These run with the globals of torch's module.


def _pack(input: Any, lengths: Any, batch_first: bool = False, enforce_sorted: bool = True) -> Any:
    from torchpool.capture import packed_sequences

    return packed_sequences.pack(input, lengths, batch_first)


def _pad(sequence: Any, batch_first: bool = False, padding_value: float = 0.0, total_length: Any = None) -> Any:
    from torchpool.capture import packed_sequences

    return packed_sequences.pad(sequence, batch_first, padding_value, total_length)
