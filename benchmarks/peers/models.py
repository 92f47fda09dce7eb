"""The models that engines are compared on, and one call's tensors for each item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import data, models

Item = tuple[Tensor, ...]
_MANY, _FEW = (8, 32, 128, 512), (1, 4, 16)  # of quick items and of slow ones


@dataclass(frozen=True)
class Model:
    """A module from an item's tensors, which all have a batch dim of one, to one tensor."""

    title: str
    module: nn.Module
    items: list[Item]
    names: tuple[str, ...]
    """Of the tensors."""
    rows: tuple[int, ...] = (1, 8, 32)
    """Sizes of batches that engines try which want batches."""
    lengths: bool = False
    """Dim 1 of the tensors is a length that varies; zeros pad it."""
    alone: bool = False
    """One item at a time: the next comes when the last has its result."""
    encoder: Callable[[], Any] | None = None
    """The module as transformers saves and loads it, where it is a BERT: for engines that read such folders."""


class _LastStep(nn.Module):
    """The last hidden state of a recurrent net, through a linear layer."""

    def __init__(self, kind: type[nn.RNNBase], *sizes: int) -> None:
        super().__init__()
        self.rnn = kind(*sizes, batch_first=True)
        self.fc = nn.Linear(sizes[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


class _Logits(nn.Module):
    """A transformers model of images, to its logits."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.inner(pixel_values=pixel_values)["logits"]


class _Pooled(nn.Module):
    """A transformers model of texts, to the pooler's output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask)["pooler_output"]


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


def _draws(count: int, *shape: int) -> list[Item]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, *shape, generator=generator),) for _ in range(count)]


def _lstm() -> Model:
    module = _seeded(lambda: _LastStep(nn.LSTM, 10, 20, 3))
    return Model("LSTM, 3 layers of 20, 50 steps", module, _draws(1_024, 50, 10), ("x",), rows=_MANY)


def _gru() -> Model:
    module = _seeded(lambda: _LastStep(nn.GRU, 10, 20, 3))
    return Model("GRU, 3 layers of 20, 50 steps", module, _draws(1_024, 50, 10), ("x",), rows=_MANY)


def _mlp() -> Model:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

    return Model("MLP, 128-512-512-10", _seeded(make), _draws(2_048, 128), ("x",), rows=_MANY)


def _cnn() -> Model:
    items = [(image,) for image in data.digit_images(640)]
    return Model("SimpleCNN, 28 x 28", _seeded(models.SimpleCNN), items, ("x",), rows=(8, 32, 128))


def _resnet() -> Model:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "embedding_size": 64}
    made = _seeded(lambda: ResNetForImageClassification(ResNetConfig(layer_type="basic", **sizes)))
    return Model("ResNet-18, 96 x 96", _Logits(made), _draws(64, 3, 96, 96), ("x",), rows=_FEW)


def _vit() -> Model:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    made = _seeded(lambda: ViTForImageClassification(ViTConfig(image_size=224, patch_size=16, **sizes)))
    return Model("ViT tiny, 224 x 224", _Logits(made), _draws(32, 3, 224, 224), ("x",), rows=_FEW)


def _texts(title: str, texts: list[str], alone: bool = False) -> Model:
    tokenizer, model = models.load_minilm()
    encoded = [tokenizer(text, truncation=True, max_length=256, return_tensors="pt") for text in texts]
    items = [(one["input_ids"], one["attention_mask"]) for one in encoded]
    module = _Pooled(model.requires_grad_(False))
    return _encoder(title, module, items, alone)


def _bert() -> Model:
    from transformers import BertConfig, BertModel

    made = _seeded(lambda: BertModel(BertConfig()))
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1_000, 30_000, (1, 13), generator=generator) for _ in range(32)]
    items = [(one, torch.ones_like(one)) for one in ids]
    return _encoder("BERT base, 13 tokens", _Pooled(made), items, False)


def _encoder(title: str, module: _Pooled, items: list[Item], alone: bool) -> Model:
    names, rows = ("input_ids", "attention_mask"), (1,) if alone else (1, 8, 32)
    return Model(title, module, items, names, rows, lengths=True, alone=alone, encoder=lambda: module.inner)


MODELS: dict[str, Callable[[], Model]] = {
    "lstm": _lstm,
    "gru": _gru,
    "cnn": _cnn,
    "resnet": _resnet,
    "documents": lambda: _texts("MiniLM, documents", data.documents(128)),
    "short": lambda: _texts("MiniLM, first sentences", data.short_texts(256)),
    "mixed": lambda: _texts("MiniLM, both mixed", [x for pair in _pairs() for x in pair]),
    "lone": lambda: _texts("MiniLM, one first sentence after the other", data.short_texts(64), alone=True),
    "bert": _bert,
    "vit": _vit,
    "mlp": _mlp,
}


def _pairs() -> list[tuple[str, str]]:
    return list(zip(data.documents(96), data.short_texts(96), strict=True))


def merged(items: list[Item]) -> Item:
    """One batch of items, padded to the longest."""
    if len(items) == 1:
        return items[0]
    columns: list[Any] = []
    for tensors in zip(*items, strict=True):
        longest = max(tensor.shape[1] for tensor in tensors)
        if all(tensor.shape[1] == longest for tensor in tensors):
            columns.append(torch.cat(tensors))
            continue
        batch = tensors[0].new_zeros(len(tensors), longest)
        for row, tensor in enumerate(tensors):
            batch[row, : tensor.shape[1]] = tensor[0]
        columns.append(batch)
    return tuple(columns)


def batches(model: Model, rows: int) -> list[tuple[list[int], Item]]:
    """Batches of that many items with the items' numbers, of near lengths where these vary."""
    order = list(range(len(model.items)))
    if model.lengths and rows > 1:
        order.sort(key=lambda i: model.items[i][0].shape[1])
    parts = [order[i : i + rows] for i in range(0, len(order), rows)]
    return [(part, merged([model.items[i] for i in part])) for part in parts]
