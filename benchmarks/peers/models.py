"""The models that engines are compared on, and one call's tensors for each item."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import data, models

Item = tuple[Tensor, ...]


@dataclass(frozen=True)
class Model:
    """A module from an item's tensors, which all have a batch dim of one, to one tensor."""

    title: str
    module: nn.Module
    items: list[Item]
    names: tuple[str, ...]
    """Of the tensors."""
    lengths: bool = False
    """Dim 1 of the tensors is a length that varies; zeros pad it."""


class _LastStep(nn.Module):
    """The last hidden state of a recurrent net, through a linear layer."""

    def __init__(self, kind: type[nn.RNNBase], *sizes: int) -> None:
        super().__init__()
        self.rnn = kind(*sizes, batch_first=True)
        self.fc = nn.Linear(sizes[1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


class _Field(nn.Module):
    """One field of a transformer's output."""

    def __init__(self, inner: nn.Module, field: str) -> None:
        super().__init__()
        self.inner, self.field = inner, field

    def forward(self, *tensors: Tensor) -> Tensor:
        names = ("input_ids", "attention_mask") if len(tensors) == 2 else ("pixel_values",)
        return self.inner(**dict(zip(names, tensors, strict=True)))[self.field]


def _seeded(make: Callable[[], nn.Module]) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return make().eval().requires_grad_(False)


def _draws(count: int, *shape: int) -> list[Item]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(1, *shape, generator=generator),) for _ in range(count)]


def _lstm() -> Model:
    module = _seeded(lambda: _LastStep(nn.LSTM, 10, 20, 3))
    return Model("LSTM, 3 layers of 20, 50 steps", module, _draws(1_000, 50, 10), ("x",))


def _gru() -> Model:
    module = _seeded(lambda: _LastStep(nn.GRU, 10, 20, 3))
    return Model("GRU, 3 layers of 20, 50 steps", module, _draws(1_000, 50, 10), ("x",))


def _mlp() -> Model:
    def make() -> nn.Module:
        return nn.Sequential(nn.Linear(128, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))

    return Model("MLP, 128-512-512-10", _seeded(make), _draws(2_000, 128), ("x",))


def _cnn() -> Model:
    items = [(image,) for image in data.digit_images(600)]
    return Model("SimpleCNN, 28 x 28", _seeded(models.SimpleCNN), items, ("x",))


def _resnet() -> Model:
    from transformers import ResNetConfig, ResNetForImageClassification

    sizes = {"depths": [2, 2, 2, 2], "hidden_sizes": [64, 128, 256, 512], "embedding_size": 64}
    made = _seeded(lambda: ResNetForImageClassification(ResNetConfig(layer_type="basic", **sizes)))
    return Model("ResNet-18, 96 x 96", _Field(made, "logits"), _draws(64, 3, 96, 96), ("x",))


def _vit() -> Model:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 3, "intermediate_size": 768}
    made = _seeded(lambda: ViTForImageClassification(ViTConfig(image_size=224, patch_size=16, **sizes)))
    return Model("ViT tiny, 224 x 224", _Field(made, "logits"), _draws(32, 3, 224, 224), ("x",))


def _texts(title: str, texts: list[str]) -> Model:
    tokenizer, model = models.load_minilm()
    encoded = [tokenizer(text, truncation=True, max_length=256, return_tensors="pt") for text in texts]
    items = [(one["input_ids"], one["attention_mask"]) for one in encoded]
    module = _Field(model.requires_grad_(False), "pooler_output")
    return Model(title, module, items, ("input_ids", "attention_mask"), lengths=True)


def _bert() -> Model:
    from transformers import BertConfig, BertModel

    made = _seeded(lambda: BertModel(BertConfig()))
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(1_000, 30_000, (1, 13), generator=generator) for _ in range(32)]
    items = [(one, torch.ones_like(one)) for one in ids]
    module = _Field(made, "pooler_output")
    return Model("BERT base, 13 tokens", module, items, ("input_ids", "attention_mask"), lengths=True)


MODELS: dict[str, Callable[[], Model]] = {
    "lstm": _lstm,
    "gru": _gru,
    "cnn": _cnn,
    "resnet": _resnet,
    "documents": lambda: _texts("MiniLM, documents", data.documents(128)),
    "short": lambda: _texts("MiniLM, first sentences", data.short_texts(256)),
    "mixed": lambda: _texts("MiniLM, both mixed", [x for pair in _pairs() for x in pair]),
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
