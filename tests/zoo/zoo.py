"""The zoo: small models of many kinds with random weights, and the calls that are made of them.

The entries are in zoo_text, zoo_media, zoo_torch and zoo_python; test_zoo wraps each and compares it with eager.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
import transformers
from support import build, draw
from torch import nn

Calls = list[Any]
"""Of one model, each as `wrap(example=)` takes it: a tensor, a tuple of positional or a dict of keyword arguments."""

LENGTHS = (6, 9, 4, 12, 1, 9)
"""Of the calls that a model of sequences gets: the first two are its examples, and 1 is the shortest there is."""

TEXT_PAD = {"input_ids": 0, "attention_mask": 0}
VOCABULARY = 50
ENCODER_DECODER: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 32,
    "decoder_ffn_dim": 32,
}


@dataclass(frozen=True)
class Entry:
    """A model of the zoo."""

    name: str
    model: Callable[[], nn.Module]
    calls: Callable[[], Calls]
    expect: Literal["graph", "lifted", "no graph", "alone"] = "graph"
    """What serves it: a graph, in shared batches, as it is or lifted, since its rows meet; or its own calls one at a
    time, as it is safe to batch but has no graph, or because its rows meet or it has state."""
    pad: Mapping[str, float] | None = None

    @property
    def safe(self) -> bool:
        """Its rows do not meet, and it has no state."""
        return self.expect in ("graph", "no graph")

    def build(self) -> nn.Module:
        """The model in eval mode, with the same weights each time."""
        return build(self.model)


def pretrained(cls: str, **config: Any) -> Callable[[], nn.Module]:
    """Builds a transformers model of that class name, with random weights and a configuration of these values."""

    def make() -> nn.Module:
        model = getattr(transformers, cls)
        return model(model.config_class(**config))

    return make


# --- inputs -----------------------------------------------------------------------------------------------------------


def ids(*shape: int, seed: int = 0, below: int = VOCABULARY) -> torch.Tensor:
    """Token ids, none of them special."""
    return torch.randint(4, below, shape, generator=torch.Generator().manual_seed(seed))


def texts(lengths: tuple[int, ...] = LENGTHS, *, mask: bool = True) -> Calls:
    """Texts by keyword; the longest has masked positions at its end, as one of a padded pair would."""
    calls: Calls = [{"input_ids": ids(1, length, seed=seed)} for seed, length in enumerate(lengths)]
    for call in calls if mask else ():
        call["attention_mask"] = torch.ones_like(call["input_ids"])
        if call["input_ids"].shape[1] == max(lengths):
            call["attention_mask"][:, -3:] = 0
    return calls


def bare_texts() -> Calls:
    """Texts of models that know no mask, or are called without one."""
    return texts(mask=False)


def text_pairs() -> Calls:
    """A text for an encoder and the start of one for a decoder."""
    lengths = zip(texts(), (3, 5, 2, 7, 1, 4), strict=True)
    return [{**text, "decoder_input_ids": ids(1, length, seed=length)} for text, length in lengths]


def inputs(*shapes: tuple[int, ...]) -> Callable[[], Calls]:
    """Calls with one tensor of each of these shapes; every shape comes once more at the end."""
    return lambda: [draw(*shape, seed=seed) for seed, shape in enumerate([*shapes, *shapes])]


def sequences(*features: int, lengths: tuple[int, ...] = LENGTHS, dim: int = 1) -> Callable[[], Calls]:
    """Calls with one tensor of one row: its length in dim 1, or in dim 0 with the row in dim 1, then the features."""

    def shape(length: int) -> tuple[int, ...]:
        return (1, length, *features) if dim == 1 else (length, 1, *features)

    return lambda: [draw(*shape(length), seed=seed) for seed, length in enumerate(lengths)]
