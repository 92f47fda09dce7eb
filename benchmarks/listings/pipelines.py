"""Pipelines of transformers that eight threads call, one text a call."""

from __future__ import annotations

import concurrent.futures
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

import torchpool
from benchmarks.harness.data import short_texts
from benchmarks.harness.models import load_minilm
from benchmarks.listings.listing import ITEMS_TO_LEARN, Listing

THREADS = 8
TEXTS = 400
TASKS = {
    "text-classification": "BertForSequenceClassification",
    "token-classification": "BertForTokenClassification",
    "feature-extraction": "BertModel",
}
Answer = list[tuple[str, float]]


def _pipeline(task: str) -> Any:
    import transformers

    config = transformers.BertConfig(
        hidden_size=256, num_hidden_layers=4, num_attention_heads=4, intermediate_size=1024
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = getattr(transformers, TASKS[task])(config).eval()
    return transformers.pipeline(task, model=model, tokenizer=load_minilm()[0], device="cpu")


def _answer(output: Any) -> Answer:
    """Labels and numbers of what a pipeline gives."""
    if isinstance(output, dict):
        return [(output.get("label") or output["entity"], output["score"])]
    if isinstance(output, float):
        return [("", output)]
    return [pair for part in output for pair in _answer(part)]


def same(one: Sequence[Answer], other: Sequence[Answer]) -> bool:
    """Equal labels, and numbers that are equal but for rounding."""
    pairs = [(a, b) for mine, yours in zip(one, other, strict=True) for a, b in zip(mine, yours, strict=True)]
    return all(a[0] == b[0] and math.isclose(a[1], b[1], rel_tol=1e-3, abs_tol=1e-4) for a, b in pairs)


def _loop(pipeline: Any) -> Callable[[], list[Answer]]:
    texts = short_texts(TEXTS)

    def run(count: int | None = None) -> list[Answer]:
        with concurrent.futures.ThreadPoolExecutor(THREADS) as pool:
            outputs = list(pool.map(pipeline, texts[:count]))
        return [_answer(output) for output in outputs]

    return run


def before(task: str) -> Callable[[], list[Answer]]:
    return _loop(_pipeline(task))


def one_line(task: str) -> Callable[[], list[Answer]]:
    pipeline = torchpool.accelerate(_pipeline(task))
    run: Any = _loop(pipeline)
    run(ITEMS_TO_LEARN)
    torchpool.predictor_of(pipeline.model).ready(60)
    return run


LISTINGS = tuple(
    Listing(
        task, f"pipeline({task!r}), BERT of 4 x 256, {TEXTS} first sentences, {THREADS} threads", TEXTS,
        {"before": functools.partial(before, task), "one line": functools.partial(one_line, task)}, same,
    )
    for task in TASKS
)  # fmt: skip
