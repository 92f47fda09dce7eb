"""What is measured: a model, its inputs, and the user's code for one input."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness import data, models

Call = Callable[..., Any]  # the model, plain or wrapped
BATCH = 8  # texts
BATCHES = "-batches"  # behind the name of a workload of texts: they come tokenised, BATCH at a time


@dataclass
class Workload:
    """`one(call, item)` is the body of the user's loop; `wrap_options` is what torchpool.wrap is told."""

    name: str
    model: nn.Module
    items: list[Any]
    one: Callable[[Call, Any], Any]
    bulk: Callable[[Any, Iterable[Any]], Iterator[Any]]  # the same loop as a torchpool map
    wrap_options: dict[str, Any] = field(default_factory=dict)


def _tensor_workload(name: str, cls: type[nn.Module], items: list[Tensor]) -> Workload:
    def one(call: Call, x: Tensor) -> Tensor:
        with torch.no_grad():
            return call(x)

    def bulk(predict: Any, xs: Iterable[Tensor]) -> Iterator[Tensor]:
        return predict.map(xs)

    return Workload(name, models.build(cls), items, one, bulk, {"example": items[0]})


def _text_workload(name: str, texts: list[str]) -> Workload:
    tokenizer, model = models.load_minilm()

    def encode(text: str) -> Any:
        return tokenizer(text, truncation=True, max_length=256, return_tensors="pt")

    def one(call: Call, text: str) -> Any:
        with torch.no_grad():
            return call(**encode(text))

    def bulk(predict: Any, xs: Iterable[str]) -> Iterator[Any]:
        return predict.starmap(encode(text) for text in xs)

    by_length = sorted(texts, key=len)
    example = [dict(encode(text)) for text in (by_length[0], by_length[len(texts) // 2], by_length[-1])]
    return Workload(name, model, texts, one, bulk, {"example": example})


def _batch_workload(name: str, texts: list[str]) -> Workload:
    """The forward pass alone: texts in the order of their lengths, tokenised in batches padded to their longest."""
    tokenizer, model = models.load_minilm()
    by_tokens = sorted(texts, key=lambda text: len(tokenizer(text, truncation=True, max_length=256)["input_ids"]))
    batches = [
        dict(tokenizer(by_tokens[i : i + BATCH], truncation=True, max_length=256, padding=True, return_tensors="pt"))
        for i in range(0, len(by_tokens), BATCH)
    ]

    def one(call: Call, batch: dict[str, Tensor]) -> Any:
        with torch.no_grad():
            return call(**batch)

    def bulk(predict: Any, xs: Iterable[dict[str, Tensor]]) -> Iterator[Any]:
        return predict.starmap(xs)

    ends = (batches[0], batches[len(batches) // 2], batches[-1])
    example = [{name: rows[-1:] for name, rows in batch.items()} for batch in ends]  # the longest text of each
    return Workload(name, model, batches, one, bulk, {"example": example, "max_batch": BATCH})


def load(name: str) -> Workload:
    """Builds one workload by name; only that one's libraries are imported."""
    if name == "lstm":
        return _tensor_workload(name, models.LSTMClassifier, data.lstm_samples())
    if name == "cnn":
        return _tensor_workload(name, models.SimpleCNN, data.digit_images())
    texts = {"documents": data.documents, "short": data.short_texts, "long": data.long_texts}
    if name.endswith(BATCHES):
        return _batch_workload(name, texts[name.removesuffix(BATCHES)]())
    return _text_workload(name, texts[name]())


WORKLOADS = ("lstm", "cnn", "documents", "short")


def leaves(output: Any) -> list[Tensor]:
    """The tensors of an output, in a fixed order."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if hasattr(output, "values") else output
    return [leaf for value in values for leaf in leaves(value)]


def relative_difference(output: Any, reference: Any) -> float:
    """max|output - reference| / max|reference|, the largest over the leaves; inf where shapes differ."""
    ours, theirs = leaves(output), leaves(reference)
    if [x.shape for x in ours] != [x.shape for x in theirs]:
        return float("inf")
    worst = 0.0
    for ours_leaf, theirs_leaf in zip(ours, theirs, strict=True):
        scale = theirs_leaf.abs().max().item()
        difference = (ours_leaf - theirs_leaf).abs().max().item()
        worst = max(worst, difference / scale if scale else difference)
    return worst
