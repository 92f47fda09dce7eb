"""Calls of different lengths: which may share a batch, what pads them, and that every result has its own length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest
import torch
from bad_models import Masked, assert_same, batches_together, together
from support import LSTMClassifier, assert_close, build, draw, draws, eager, run_threads
from torch import nn
from transformers import BertConfig, BertModel
from transformers.modeling_outputs import BaseModelOutputWithPoolingAndCrossAttentions

import torchpool

Tensor = torch.Tensor


def _padded(predict: torchpool.Predictor) -> set[str]:
    return set().union(*(contract.padded for contract in predict.explain().contracts))


# --- without padding --------------------------------------------------------------------------------------------------


def test_calls_of_equal_lengths_merge_and_others_do_not(runtime: torchpool.Runtime) -> None:
    examples = [draw(1, 5, 10), draw(1, 8, 10)]
    predict = torchpool.wrap(build(LSTMClassifier), example=examples, runtime=runtime)
    calls = [(draw(1, (5, 8, 11)[i % 3], 10, seed=i),) for i in range(9)]
    assert batches_together(predict, runtime, calls) == 3
    assert _padded(predict) == set()
    assert "no pad value was given" in str(predict.explain())


def test_a_call_of_another_length_widens_what_was_learned(runtime: torchpool.Runtime) -> None:
    model = build(LSTMClassifier)
    predict = torchpool.wrap(model, runtime=runtime)
    for length in (5, 8, 3, 9):
        x = draw(1, length, 10)
        assert_close(predict(x), eager(model, x))
    assert [spec.sizes for spec in predict.explain().contracts[0].inputs] == [("batch", "s0", 10)]
    calls = [(draw(1, (4, 12)[i % 2], 10, seed=i),) for i in range(6)]
    assert batches_together(predict, runtime, calls) == 2


def test_lengths_that_widen_from_many_threads_at_once() -> None:
    model = build(LSTMClassifier)
    predict = torchpool.wrap(model)

    def work(number: int) -> None:
        for step in range(12):
            x = draw(1 + step % 2, 1 + (3 * number + step) % 9, 10, seed=step)
            assert_close(predict(x), eager(model, x))

    run_threads(8, work)


class Centered(nn.Module):
    """Right for rows of length 4; for any other length, the rows influence each other."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 2 if x.shape[1] == 4 else x - x.mean()


def test_a_length_that_may_not_merge_does_not_undo_what_was_proven(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(Centered().eval(), example=draw(1, 4), runtime=runtime)
    odd = [(draw(2, 6, seed=i),) for i in range(3)]
    batches_together(predict, runtime, odd)
    assert batches_together(predict, runtime, [(x,) for x in draws(5, 1, 4)]) == 1
    assert "of other sizes run alone: rows influence each other" in str(predict.explain())


def test_a_stated_pad_that_changes_results_is_not_used(runtime: torchpool.Runtime) -> None:
    model = build(LSTMClassifier)  # its last hidden state sees the padding
    examples = [draw(1, 5, 10), draw(1, 8, 10)]
    predict = torchpool.wrap(model, example=examples, pad={"x": 0.0}, runtime=runtime)
    batches_together(predict, runtime, [(draw(1, 3 + i % 4, 10, seed=i),) for i in range(8)])
    assert _padded(predict) == set()
    assert "padding is not used: output 'output' changes by" in str(predict.explain())


# --- padded -----------------------------------------------------------------------------------------------------------


class Pointwise(nn.Module):
    """Each position [B, T, 4] by itself, to [B, T, 3]."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = self.linear(x)
        return {"each": y, "twice": torch.cat([y, y], 1), "ends": y[:, :1]}


def test_a_stated_pad_merges_all_lengths_and_trims_the_results(runtime: torchpool.Runtime) -> None:
    examples = [draw(1, 5, 4), draw(1, 8, 4)]
    predict = torchpool.wrap(build(lambda: _Each()), example=examples, pad={"x": 0.0}, runtime=runtime)
    calls = [(draw(1 + i % 2, 6 + i % 3, 4, seed=i),) for i in range(8)]
    assert batches_together(predict, runtime, calls) == 1
    assert _padded(predict) == {"s0"}


class _Each(Pointwise):
    def forward(self, x: Tensor) -> Any:
        y = self.linear(x)
        return y, y.transpose(1, 2)


def test_an_output_that_padding_would_garble_keeps_lengths_apart(runtime: torchpool.Runtime) -> None:
    examples = [draw(1, 5, 4), draw(1, 8, 4)]
    predict = torchpool.wrap(build(Pointwise), example=examples, pad={"x": 0.0}, runtime=runtime)
    assert batches_together(predict, runtime, [(draw(1, 4 + i % 4, 4, seed=i),) for i in range(8)]) == 4


def test_a_pad_for_an_unknown_input_is_refused() -> None:
    with pytest.raises(ValueError, match=r"pad= names no input of the model: \['nonsense'\] \(inputs: \['x'\]\)"):
        torchpool.wrap(build(_Each), example=draw(1, 5, 4), pad={"nonsense": 0.0})


def _masked_call(length: int, seed: int, rows: int = 1) -> tuple[Tensor, Tensor]:
    mask = torch.ones(rows, length)
    mask[:, length - length // 3 :] = 0
    return draw(rows, length, 4, seed=seed), mask


def test_a_mask_makes_padding_safe(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Masked), example=_masked_call(9, 0), runtime=runtime)
    assert _padded(predict) == {"s0"}
    assert batches_together(predict, runtime, [_masked_call(7 + i % 3, i, 1 + i % 2) for i in range(8)]) == 1


def test_lengths_far_apart_are_not_padded_to_each_other(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Masked), example=_masked_call(9, 0), runtime=runtime)
    calls = [_masked_call((1, 12, 40, 200)[i % 4], i) for i in range(8)]
    assert batches_together(predict, runtime, calls) == 4


def test_bool_and_integer_masks(runtime: torchpool.Runtime) -> None:
    model = build(Masked)
    for dtype in (torch.bool, torch.int64):
        x, mask = _masked_call(9, 0)
        predict = torchpool.wrap(model, example=(x, mask.to(dtype)), runtime=runtime)
        calls = [(x, mask.to(dtype)) for x, mask in (_masked_call(6 + i % 3, i) for i in range(6))]
        assert batches_together(predict, runtime, calls) == 1


class WithoutUse(nn.Module):
    """Takes a mask and ignores it: padding would not be safe."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return x.mean(1)


def test_a_mask_that_is_not_used_does_not_make_padding_safe(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(WithoutUse().eval(), example=_masked_call(9, 0), runtime=runtime)
    batches_together(predict, runtime, [_masked_call(5 + i % 3, i) for i in range(6)])
    assert _padded(predict) == set()


# --- transformers -----------------------------------------------------------------------------------------------------


def _bert() -> BertModel:
    config = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    return BertModel(config)


def _text(length: int, seed: int, rows: int = 1) -> dict[str, Tensor]:
    ids = torch.randint(4, 50, (rows, length), generator=torch.Generator().manual_seed(seed))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.zeros_like(ids)}


@dataclass
class TokenizerLike:
    """What wrap() looks at in a tokenizer."""

    pad_token_id: int | None = 0
    pad_token_type_id: int = 0
    padding_side: str = "right"


@pytest.fixture(scope="module")
def bert() -> BertModel:
    return build(_bert)


@pytest.mark.parametrize("pad", [None, TokenizerLike()], ids=["mask alone", "tokenizer"])
def test_bert_texts_of_all_lengths_share_a_batch(bert: BertModel, runtime: torchpool.Runtime, pad: Any) -> None:
    predict = torchpool.wrap(bert, example=_text(12, 0), pad=pad, runtime=runtime)
    texts = [_text(length, length) for length in (9, 10, 11, 12, 12, 8)]
    results = _together_by_keyword(predict, runtime, texts)
    for text, result in zip(texts, results, strict=True):
        expected = eager(bert, **text)
        assert type(result) is BaseModelOutputWithPoolingAndCrossAttentions
        assert result.last_hidden_state.shape == (1, text["input_ids"].shape[1], 16)
        assert_same(result, expected)
        assert_close(result[1], expected.pooler_output)
    assert predict.stats()["batch_rows"]["max"] == len(texts)


def _together_by_keyword(
    predict: torchpool.Predictor, runtime: torchpool.Runtime, calls: list[dict[str, Tensor]]
) -> list[Any]:
    class ByKeyword:
        def submit(self, call: dict[str, Tensor]) -> Any:
            return predict.submit(**call)

    return together(ByKeyword(), runtime, [(call,) for call in calls])


def test_bert_through_starmap_and_threads(bert: BertModel) -> None:
    predict = torchpool.wrap(bert, example=_text(12, 0), pad=TokenizerLike())
    texts = [_text(1 + seed % 20, seed, 1 + seed % 2) for seed in range(30)]
    for text, result in zip(texts, predict.starmap(texts), strict=True):
        assert_same(result, eager(bert, **text))

    def work(number: int) -> None:
        for text in texts[number::8]:
            assert_same(predict(**text), eager(bert, **text))

    run_threads(8, work)


def test_bert_with_padding_inside_a_call(bert: BertModel, runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(bert, example=_text(12, 0), pad=TokenizerLike(), runtime=runtime)
    texts = [_text(10, seed, 2) for seed in range(4)]
    for text in texts:
        text["attention_mask"][1, 6:] = 0
        text["input_ids"][1, 6:] = 0
    for text, result in zip(texts, _together_by_keyword(predict, runtime, texts), strict=True):
        assert_same(result, eager(bert, **text))


def test_a_tokenizer_that_pads_on_the_left_is_refused(bert: BertModel) -> None:
    with pytest.raises(ValueError, match="pads on the left; only right-padding is supported"):
        torchpool.wrap(bert, pad=TokenizerLike(padding_side="left"))


def test_a_tokenizer_without_a_pad_token_is_refused(bert: BertModel) -> None:
    with pytest.raises(TypeError, match="a tokenizer with a pad token"):
        torchpool.wrap(bert, pad=TokenizerLike(pad_token_id=None))


def test_pad_values_must_be_numbers() -> None:
    with pytest.raises(ValueError, match="pad must map input names to numbers, got 'x': 'zero'"):
        torchpool.wrap(build(Masked), pad={"x": "zero"})
