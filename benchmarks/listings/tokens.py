"""Labels of tokens: a tokenizer a thread, a BERT, and lists of numbers, under a pool of four threads."""

from __future__ import annotations

import concurrent.futures
import copy
import threading
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

import torchpool
from benchmarks.harness.data import short_texts
from benchmarks.harness.models import build, load_minilm
from benchmarks.listings.listing import ITEMS_TO_LEARN, Listing

THREADS = 4
TEXTS = 400


def _bert() -> nn.Module:
    """Four layers of 256, random weights, nine labels."""
    from transformers import BertConfig, BertForTokenClassification

    config = BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024, num_labels=9
    )
    return BertForTokenClassification(config)


class _Tokenizers(threading.local):
    """A copy a thread: fast tokenizers keep the last call's settings."""

    def __init__(self, tokenizer: Any) -> None:
        self.own = copy.deepcopy(tokenizer)

    def __call__(self, text: str) -> Any:
        return self.own(text, return_tensors="pt")


def _loop(model: nn.Module, executor: Any) -> Callable[[], list[list[int]]]:
    tokenise, texts = _Tokenizers(load_minilm()[0]), short_texts(TEXTS)

    def label(text: str) -> list[int]:
        inputs = tokenise(text)
        with torch.no_grad():
            labels: list[int] = model(**inputs).logits.argmax(-1).squeeze().tolist()
        return labels

    def run(count: int | None = None) -> list[list[int]]:
        with executor(max_workers=THREADS) as pool:
            return list(pool.map(label, texts[:count]))

    return run


def before() -> Callable[[], list[list[int]]]:
    return _loop(build(_bert), concurrent.futures.ThreadPoolExecutor)  # type: ignore[arg-type]


def _accelerated(executor: Any) -> Callable[[], list[list[int]]]:
    model = torchpool.accelerate(build(_bert))  # type: ignore[arg-type]
    run: Any = _loop(model, executor)
    run(ITEMS_TO_LEARN)
    torchpool.predictor_of(model).ready(60)
    return run


def one_line() -> Callable[[], list[list[int]]]:
    return _accelerated(concurrent.futures.ThreadPoolExecutor)


def best() -> Callable[[], list[list[int]]]:
    return _accelerated(torchpool.ThreadPoolExecutor)


def starmap() -> Callable[[], list[list[int]]]:
    """The same by the predictor's starmap, on one thread."""
    predict = torchpool.wrap(build(_bert).requires_grad_(False))  # type: ignore[arg-type]
    tokenise, texts = _Tokenizers(load_minilm()[0]), short_texts(TEXTS)

    def run(count: int | None = None) -> list[list[int]]:
        outputs = predict.starmap(tokenise(text) for text in texts[:count])
        return [output.logits.argmax(-1).squeeze().tolist() for output in outputs]

    run(ITEMS_TO_LEARN)
    predict.ready(60)
    return run


LISTING = Listing(
    "tokens", f"BERT of 4 x 256, labels of the tokens of {TEXTS} first sentences", TEXTS,
    {"before": before, "one line": one_line, "best": best, "starmap": starmap},
)  # fmt: skip
