"""Models that are safe to batch: probing finds the right dims, and merging by its contract is right."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import transformers
from torch import nn

from torchpool.call.tree import flatten
from torchpool.contract.contract import Contract
from torchpool.contract.probe import probe

Leaves = list[torch.Tensor]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def find(
    model: Callable[..., Any], *calls: Sequence[torch.Tensor], names: Sequence[str] = (), **options: Any
) -> Contract:
    """The contract of `model(*leaves)`, saved and loaded, after a check that it merges correctly."""
    module = options.pop("module", model if isinstance(model, nn.Module) else None)
    names = names or [f"x{i}" for i in range(len(calls[0]))]
    contract = probe(lambda leaves: model(*leaves), calls, names, module=module, **options)
    if contract.mode == "merge":
        same_lengths = {tuple(leaf.shape for leaf in call) for call in calls}
        if len(same_lengths) == 1 or contract.padded:
            check_merging(contract, model, calls)
    assert Contract.from_dict(contract.to_dict()) == contract
    return contract


def check_merging(contract: Contract, model: Callable[..., Any], calls: Sequence[Sequence[torch.Tensor]]) -> None:
    """Merges the calls and a changed copy as the contract says, and compares with separate runs."""
    batch = [list(call) for call in calls]
    batch.append([
        leaf * 0.5 if leaf.is_floating_point() and spec.batch_dim is not None else leaf
        for leaf, spec in zip(calls[0], contract.inputs, strict=True)
    ])  # fmt: skip
    merged_in, lengths = [], [{} for _ in batch]  # type: list[torch.Tensor], list[dict[str, int]]
    for i, spec in enumerate(contract.inputs):
        parts = [call[i] for call in batch]
        for dim, symbol in enumerate(spec.sizes):
            if symbol not in contract.padded:
                continue
            longest = max(part.shape[dim] for part in parts)
            for k, part in enumerate(parts):
                lengths[k][str(symbol)] = part.shape[dim]
                shape = list(part.shape)
                shape[dim] = longest - shape[dim]
                parts[k] = torch.cat([part, part.new_full(shape, spec.pad)], dim)
        if spec.batch_dim is None:
            merged_in.append(parts[0])
        else:
            merged_in.append(torch.stack(parts) if spec.stacked else torch.cat(parts, spec.batch_dim))
    first = next(i for i, spec in enumerate(contract.inputs) if spec.batch_dim is not None)
    spec = contract.inputs[first]
    rows = [1 if spec.stacked else call[first].shape[spec.batch_dim or 0] for call in batch]
    with torch.no_grad():
        merged = flatten(model(*merged_in))[0]
        for k, call in enumerate(batch):
            for out, whole, own in zip(contract.outputs, merged, flatten(model(*call))[0], strict=True):
                part = whole
                if out.batch_dim is not None:
                    part = whole.narrow(out.batch_dim, sum(rows[:k]), rows[k])
                    for trim in out.trims:
                        part = part.narrow(trim.dim, 0, trim.size(lengths[k][trim.symbol]))
                    part = part.select(out.batch_dim, 0) if out.stacked else part
                torch.testing.assert_close(part, own, rtol=0, atol=1e-5 * float(own.abs().max()))


def dims(contract: Contract) -> tuple[list[int | None], list[int | None]]:
    assert contract.mode == "merge", contract.reason
    return [spec.batch_dim for spec in contract.inputs], [spec.batch_dim for spec in contract.outputs]


@pytest.mark.parametrize("rows", [1, 4])
def test_linear(rows: int) -> None:
    contract = find(nn.Linear(10, 3), [torch.randn(rows, 10)])
    assert dims(contract) == ([0], [0]) and contract.inputs[0].sizes == ("batch", 10)
    assert not contract.aliases and contract.reason is None and not contract.serial
    assert contract.row_seconds and all(check.passed for check in contract.checks)


def test_rows_may_differ_between_samples() -> None:
    contract = find(nn.Linear(10, 3), [torch.randn(4, 10)], [torch.randn(2, 10)])
    assert dims(contract) == ([0], [0]) and contract.inputs[0].sizes == ("batch", 10)


@pytest.mark.parametrize(
    ("model", "shape"), [(nn.Linear(10, 3), (10,)), (nn.Conv2d(3, 4, 3), (3, 8, 8)), (torch.neg, ())]
)
def test_calls_without_batch_dim_are_stacked(model: Callable[..., Any], shape: tuple[int, ...]) -> None:
    contract = find(model, [torch.randn(shape)])
    assert dims(contract) == ([0], [0]) and contract.inputs[0].stacked and contract.outputs[0].stacked
    assert contract.inputs[0].sizes == shape


def test_conv_net_with_batch_norm_in_eval_mode() -> None:
    layers = [
        nn.Conv2d(1, 8, 3),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(1352, 10),
    ]
    contract = find(nn.Sequential(*layers).eval(), [torch.randn(1, 1, 28, 28)])
    assert dims(contract) == ([0], [0]) and contract.inputs[0].sizes == ("batch", 1, 28, 28)


def test_lstm_batch_first() -> None:
    contract = find(nn.LSTM(10, 20, batch_first=True), [torch.randn(1, 12, 10)])
    assert dims(contract) == ([0], [0, 1, 1])
    assert [out.name for out in contract.outputs] == ["0", "1[0]", "1[1]"]


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU])
def test_recurrent_with_sequence_first(cell: Callable[..., nn.Module]) -> None:
    contract = find(cell(10, 20), [torch.randn(12, 1, 10)])
    assert set(dims(contract)[0] + dims(contract)[1]) == {1}


def test_lstm_states_have_their_batch_on_dim_1() -> None:
    lstm = nn.LSTM(10, 20, num_layers=2, batch_first=True)
    sample = [torch.randn(1, 12, 10), torch.zeros(2, 1, 20), torch.zeros(2, 1, 20)]
    contract = find(lambda x, h, c: lstm(x, (h, c)), sample, module=lstm)
    assert dims(contract) == ([0, 1, 1], [0, 1, 1])


def test_lstm_without_batch_dim() -> None:
    contract = find(nn.LSTM(10, 20, batch_first=True), [torch.randn(12, 10)])
    assert dims(contract) == ([0], [0, 1, 1]) and all(out.stacked for out in contract.outputs)


def test_embedding_bag() -> None:
    assert dims(find(nn.EmbeddingBag(50, 8), [torch.randint(50, (1, 7))])) == ([0], [0])


def test_shared_inputs() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    sample = [torch.randn(1, 9, 16), torch.ones(9, 9).triu(1).bool(), torch.tensor(2.0)]
    contract = find(lambda x, m, t: layer(x, src_mask=m) / t, sample, module=layer)
    assert dims(contract) == ([0, None, None], [0])


def test_constant_outputs_share_memory_with_the_model() -> None:
    linear = nn.Linear(10, 3)
    contract = find(lambda x: {"y": linear(x), "w": linear.weight, "n": 0.5}, [torch.randn(1, 10)], module=linear)
    assert dims(contract) == ([0], [0, None]) and contract.aliases
    assert find(lambda x: (x, x), [torch.randn(1, 10)]).aliases


class Named(NamedTuple):
    scores: torch.Tensor
    label: torch.Tensor


@dataclasses.dataclass(frozen=True)
class Result:
    scores: torch.Tensor
    label: torch.Tensor


@pytest.mark.parametrize("kind", [Named, Result])
def test_structured_outputs(kind: Callable[..., Any]) -> None:
    linear = nn.Linear(10, 3)
    contract = find(lambda x: kind(linear(x), linear(x).argmax(-1)), [torch.randn(1, 10)], module=linear)
    assert [out.name for out in contract.outputs] == ["scores", "label"] and dims(contract)[1] == [0, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_other_precisions(dtype: torch.dtype) -> None:
    model = nn.Linear(10, 3).to(dtype)
    contract = probe(lambda leaves: model(*leaves), [[torch.randn(1, 10).to(dtype)]], ["x"], module=model)
    assert dims(contract) == ([0], [0]) and contract.inputs[0].dtype == dtype


def test_lengths_that_vary_merge_only_with_equal_ones() -> None:
    lstm = nn.LSTM(10, 20, batch_first=True)
    contract = find(lstm, [torch.randn(1, 12, 10)], [torch.randn(1, 5, 10)], names=["x"])
    assert contract.inputs[0].sizes == ("batch", "s0", 10) and contract.padded == frozenset()
    assert contract.reason is not None and "no pad value" in contract.reason and "'x' dim 1" in contract.reason


def test_padding_that_changes_results_is_not_used() -> None:
    lstm = nn.LSTM(10, 20, batch_first=True)
    calls = [[torch.randn(1, n, 10)] for n in (12, 5)]
    contract = find(lstm, *calls, names=["x"], pad={"x": 0.0})
    assert contract.padded == frozenset() and "output '1[" in (contract.reason or "")
    only_sequence = find(lambda x: lstm(x)[0], *calls, names=["x"], pad={"x": 0.0}, module=lstm)
    assert only_sequence.padded == {"s0"} and only_sequence.inputs[0].pad == 0.0


def test_trims_follow_exact_formulas_only() -> None:
    valid = find(nn.Conv1d(3, 4, 3), [torch.randn(1, 3, 20)], names=["x"], pad={"x": 0.0})
    (trim,) = valid.outputs[0].trims
    assert (trim.dim, trim.symbol, trim.scale, trim.offset) == (2, "s0", 1, -2)
    grown = find(nn.ConvTranspose1d(3, 4, 2, stride=2), [torch.randn(1, 3, 9)], names=["x"], pad={"x": 0.0})
    assert grown.outputs[0].trims[0].scale == 2
    strided = find(nn.Conv1d(3, 4, 3, stride=2), [torch.randn(1, 3, 20)], names=["x"], pad={"x": 0.0})
    assert strided.padded == frozenset() and "no exact multiple" in (strided.reason or "")


def test_two_lengths_are_padded_apart() -> None:
    def row_sums(x: torch.Tensor) -> torch.Tensor:
        return x.sum(-1)

    calls = [[torch.randn(1, h, w)] for h, w in ((6, 9), (4, 7), (8, 5))]
    contract = find(row_sums, *calls, names=["x"], pad={"x": 0.0})
    assert contract.padded == {"s0", "s1"} and [(t.dim, t.symbol) for t in contract.outputs[0].trims] == [(1, "s0")]


def test_key_padding_mask_is_true_at_padding() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True).eval()
    contract = find(
        lambda x, m: layer(x, src_key_padding_mask=m),
        [torch.randn(1, 9, 16), torch.zeros(1, 9, dtype=torch.bool)],
        names=["x", "key_padding_mask"],
        module=layer,
    )
    assert contract.padded == {"s0"} and contract.inputs[1].pad is True and contract.inputs[0].sizes[1] == "s0"


TINY = {"vocab_size": 100, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}


def bert() -> nn.Module:
    config = transformers.BertConfig(**TINY, intermediate_size=64, max_position_embeddings=64)
    return transformers.BertModel(config).eval()


def text(length: int) -> Leaves:
    return [torch.randint(3, 100, (1, length)), torch.ones(1, length, dtype=torch.long)]


def test_bert_is_padded_from_a_single_sample() -> None:
    model = bert()
    contract = find(
        lambda i, a, t: model(input_ids=i, attention_mask=a, token_type_ids=t),
        [*text(12), torch.zeros(1, 12, dtype=torch.long)],
        names=["input_ids", "attention_mask", "token_type_ids"],
        module=model,
    )
    assert contract.padded == {"s0"} and [spec.sizes for spec in contract.inputs] == [("batch", "s0")] * 3
    assert [spec.pad for spec in contract.inputs] == [0, 0, 0]
    hidden, pooled = contract.outputs
    assert hidden.name == "last_hidden_state" and hidden.trims[0].dim == 1
    assert pooled.name == "pooler_output" and pooled.trims == ()


def test_bert_on_several_lengths() -> None:
    model = bert()
    run = lambda i, a: model(input_ids=i, attention_mask=a)  # noqa: E731
    contract = find(run, text(12), text(7), names=["input_ids", "attention_mask"], module=model)
    assert contract.padded == {"s0"} and contract.reason is None


def gpt2(kind: str, **options: Any) -> nn.Module:
    config = transformers.GPT2Config(
        vocab_size=100,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=64,
        bos_token_id=1,
        eos_token_id=2,
        **options,
    )
    model: nn.Module = getattr(transformers, kind)(config)
    return model.eval()


def test_gpt2_without_mask_is_padded_when_the_value_is_given() -> None:
    model = gpt2("GPT2LMHeadModel")
    run = lambda i: model(input_ids=i, use_cache=False)  # noqa: E731
    assert find(run, text(9)[:1], names=["input_ids"], module=model).inputs[0].sizes == ("batch", 9)
    assert find(run, text(9)[:1], names=["input_ids"], module=model, pad={"input_ids": 0}).padded == {"s0"}


def test_pad_value_that_matters_under_a_mask_must_be_stated() -> None:
    model = gpt2("GPT2ForSequenceClassification", pad_token_id=0)
    names = ["input_ids", "attention_mask"]
    run = lambda i, a: model(input_ids=i, attention_mask=a, use_cache=False)  # noqa: E731
    without = find(run, text(9), names=names, module=model)
    assert without.padded == frozenset() and "state its value with pad=" in (without.reason or "")
    assert find(run, text(9), names=names, module=model, pad={"input_ids": 0}).padded == {"s0"}


def test_mixture_of_experts() -> None:
    config = transformers.MixtralConfig(
        **TINY, intermediate_size=48, num_key_value_heads=2, num_local_experts=4, max_position_embeddings=64
    )
    model = transformers.MixtralForCausalLM(config).eval()
    run = lambda i, a: model(input_ids=i, attention_mask=a, use_cache=False)  # noqa: E731
    contract = find(run, text(9), names=["input_ids", "attention_mask"], module=model)
    assert dims(contract) == ([0, 0], [0]) and contract.padded == {"s0"}


def test_stated_batch_is_taken_and_proven() -> None:
    contract = find(nn.Linear(4, 3), [torch.randn(4, 4)], names=["x"], batch={"x": -2, "output": 0})
    assert dims(contract) == ([0], [0])
    pairs = find(lambda x, y: x + y, [torch.randn(1, 4), torch.randn(1, 4)], names=["x", "y"], batch={"y": None})
    assert dims(pairs) == ([0, None], [0])


def test_probing_leaves_no_trace(caplog: pytest.LogCaptureFixture) -> None:
    model = nn.Sequential(nn.Linear(10, 10), nn.BatchNorm1d(10), nn.Dropout(0.5)).train()
    sample = torch.randn(4, 10)
    kept, before = sample.clone(), {name: value.clone() for name, value in model.state_dict().items()}
    states = (
        torch.get_rng_state(),
        np.random.get_state()[1].tolist(),
        random.getstate(),
        torch.get_num_threads(),
    )
    with caplog.at_level(logging.INFO, "torchpool"):
        probe(lambda leaves: model(*leaves), [[sample]], ["x"], module=model)
    assert [record.name for record in caplog.records] == ["torchpool"] and "runs alone" in caplog.text
    assert torch.equal(sample, kept) and all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    assert torch.equal(states[0], torch.get_rng_state()) and states[1] == np.random.get_state()[1].tolist()
    assert states[2:] == (random.getstate(), torch.get_num_threads())


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_scripted_module() -> None:
    layers = nn.Sequential(nn.Linear(10, 3), nn.BatchNorm1d(3)).eval()
    assert dims(find(torch.jit.script(layers), [torch.randn(1, 10)])) == ([0], [0])
    training = find(torch.jit.script(layers.train()), [torch.randn(4, 10)])
    assert training.refused and training.serial and not layers[1].running_mean.any()
