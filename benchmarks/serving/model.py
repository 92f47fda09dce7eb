"""What the serving layers serve: a model, calls of it, and how a batch of calls is run where a layer leaves that to its
user."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.harness import data, models
from benchmarks.harness.machine import usable_cores

Item = dict[str, Tensor]  # one call's keyword arguments, [1, ...] each
Arrays = dict[str, np.ndarray[Any, Any]]  # the same for layers that send calls to other processes

MODELS = ("cnn", "short")
TITLES = {
    "cnn": "SimpleCNN, digits of 1x1x28x28",
    "short": "MiniLM, sentences of at most 60 characters, tokenised, to one embedding each",
}


class Embedder(nn.Module):
    """Token ids and masks [B, L] to embeddings [B, 384], the mean over each text's tokens, as embedding services
    answer: layers that send answers between processes are not charged for the states of all tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, token_type_ids: Tensor, attention_mask: Tensor) -> Tensor:
        found = self.model(input_ids=input_ids, token_type_ids=token_type_ids, attention_mask=attention_mask)
        hidden: Tensor = found.last_hidden_state
        mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
        return (hidden * mask).sum(1) / mask.sum(1)


@dataclass
class Served:
    """`expected` [calls, ...] is what the module answers to each of `items` alone."""

    name: str
    module: nn.Module
    items: list[Item]
    expected: Tensor

    @property
    def arrays(self) -> list[Arrays]:
        return [{name: tensor.numpy() for name, tensor in item.items()} for item in self.items]

    @property
    def examples(self) -> list[Item]:
        """The shortest call, one in the middle and the longest."""
        by_size = sorted(self.items, key=lambda item: sum(tensor.numel() for tensor in item.values()))
        return [by_size[0], by_size[len(by_size) // 2], by_size[-1]]


def module_of(name: str) -> nn.Module:
    if name == "cnn":
        return models.build(models.SimpleCNN)
    return Embedder(models.load_minilm()[1]).eval()


def load(name: str) -> Served:
    if name == "cnn":
        module = module_of(name)
        items = [{"x": image} for image in data.digit_images(512)]
    else:
        tokenizer, model = models.load_minilm()
        module = Embedder(model).eval()
        items = [dict(tokenizer(text, return_tensors="pt")) for text in data.short_texts()]
    with torch.no_grad():
        expected = torch.cat([module(**item) for item in items])
    return Served(name, module, items, expected)


def merged(calls: list[Arrays]) -> Item:
    """One batch of the calls, right-padded to the longest with zeros: MiniLM's padding token, and masked."""
    batch = {}
    for name in calls[0]:
        rows = [torch.from_numpy(call[name]) for call in calls]
        longest = max(row.shape[1] for row in rows)
        if any(row.shape[1] != longest for row in rows):
            rows = [nn.functional.pad(row, (0, longest - row.shape[1])) for row in rows]
        batch[name] = torch.cat(rows)
    return batch


class Batched:
    """Runs batches of calls on every core, by torch's own threads, as a layer's user would write it."""

    def __init__(self, module: nn.Module) -> None:
        torch.set_num_threads(usable_cores())  # some layers start their processes with one
        self._module = module

    def __call__(self, calls: list[Arrays]) -> list[np.ndarray[Any, Any]]:
        with torch.inference_mode():
            return list(self._module(**merged(calls)).numpy())
