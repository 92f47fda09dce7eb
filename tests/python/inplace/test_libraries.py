"""Libraries around a model use it as ever: transformers' pipelines and generate, peft, sentence-transformers."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
from inplace_support import came, entrance_counts
from support import assert_close, run_threads
from torch import nn

import torchpool

transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "a", "cat", "dog", "sat", "on", "mat", "ran", "far"]
WORDS += ["from", "home", "and", "back"]
TEXTS = [" ".join(WORDS[5 + (i * 3 + j) % 13] for j in range(3 + i % 6)) for i in range(24)]


def tokenizer(folder: Any) -> Any:
    path = folder / "vocab.txt"
    path.write_text("\n".join(WORDS))
    return transformers.BertTokenizerFast(vocab=str(path), vocab_file=str(path))


def small(cls: Any, **more: Any) -> Any:
    config = transformers.BertConfig(
        vocab_size=len(WORDS), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        max_position_embeddings=64, **more,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls(config).eval()


def near(one: Any, other: Any) -> bool:
    if isinstance(one, float | np.floating):
        return bool(abs(one - other) <= 1e-4)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(near(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(near, one, other))
    return bool(one == other)


@pytest.mark.graphs
@pytest.mark.usefixtures("seeded")  # a pipeline of tokens draws
@pytest.mark.parametrize(
    ("task", "cls"),
    [
        ("text-classification", "BertForSequenceClassification"),
        ("token-classification", "BertForTokenClassification"),
        ("feature-extraction", "BertModel"),
    ],
)
def test_a_pipeline_gives_the_same_from_eight_threads(task: str, cls: str, tmp_path: Any) -> None:
    model = small(getattr(transformers, cls))
    make = transformers.pipeline
    expected = [make(task, model=model, tokenizer=tokenizer(tmp_path), device="cpu")(text) for text in TEXTS]
    pipeline = torchpool.accelerate(make(task, model=model, tokenizer=tokenizer(tmp_path), device="cpu"))
    tokenizers = [copy.deepcopy(pipeline.tokenizer) for _ in range(8)]

    def work(number: int) -> list[Any]:
        own = copy.copy(pipeline)
        own.tokenizer = tokenizers[number]
        return [own(text) for text in TEXTS[number::8]]

    for _ in range(2):
        found = run_threads(8, work)
        for number in range(8):
            assert all(map(near, found[number], expected[number::8]))
        assert torchpool.predictor_of(pipeline).ready(100)
    assert came(model) >= len(TEXTS), entrance_counts(model)
    torchpool.restore(pipeline)
    assert near(pipeline(TEXTS[0]), expected[0])


def gpt() -> Any:
    config = transformers.GPT2Config(
        n_layer=2, n_head=2, n_embd=32, vocab_size=100, bos_token_id=0, eos_token_id=None, pad_token_id=0
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return transformers.GPT2LMHeadModel(config).eval()


def test_generate_gives_the_same() -> None:
    plain, model = gpt(), torchpool.accelerate(gpt())
    ids = torch.tensor([[5, 17, 42, 8, 23]])
    for options in ({}, {"use_cache": False}, {"num_beams": 2}, {"do_sample": True, "top_k": 10}):
        results = []
        for one in (plain, model):
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(1)
                results.append(one.generate(ids, max_new_tokens=8, attention_mask=torch.ones_like(ids), **options))
        assert torch.equal(*results), options
    counts = entrance_counts(model)
    assert counts["arguments"] >= 16, "calls with a cache go to the model"
    assert counts["served"] >= 4, "calls without one are served"
    with torch.no_grad():
        assert_close(model(ids, use_cache=False).logits, plain(ids, use_cache=False).logits)
    run = run_threads(4, lambda number: model.generate(ids, max_new_tokens=5, do_sample=False))
    assert all(torch.equal(one, plain.generate(ids, max_new_tokens=5, do_sample=False)) for one in run)


def test_it_is_saved_and_loaded_as_its_class_is(tmp_path: Any) -> None:
    model = torchpool.accelerate(small(transformers.BertModel))
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        for _ in range(3):
            assert_close(again.eval()(ids).last_hidden_state, model(ids).last_hidden_state)
    assert came(model) == 2, "what the class loads is another model"


def test_adapters_of_peft_are_switched() -> None:
    peft = pytest.importorskip("peft")
    configs = {
        name: peft.LoraConfig(r=2, target_modules=["query"], init_lora_weights=False) for name in ("one", "other")
    }
    models = []
    for _ in range(2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = peft.get_peft_model(small(transformers.BertModel), configs["one"], adapter_name="one")
            model.add_adapter("other", configs["other"])
            models.append(model.eval())
    plain, model = models[0], torchpool.accelerate(models[1])
    ids = torch.tensor([[2, 5, 6, 3]])
    with torch.no_grad():
        for name in ("one", "other", "one", "one", "other"):
            for each in (plain, model):
                each.set_adapter(name)
                each.requires_grad_(False)
            assert_close(model(ids).last_hidden_state, plain(ids).last_hidden_state)
        with plain.disable_adapter(), model.disable_adapter():
            assert_close(model(ids).last_hidden_state, plain(ids).last_hidden_state)


def test_the_encoder_in_a_sentence_transformer(tmp_path: Any) -> None:
    library = pytest.importorskip("sentence_transformers")
    folder = tmp_path / "model"
    small(transformers.BertModel).save_pretrained(folder)
    tokenizer(tmp_path).save_pretrained(folder)
    parts = pytest.importorskip("sentence_transformers.models")
    encoder = library.SentenceTransformer(modules=[parts.Transformer(str(folder)), parts.Pooling(32)], device="cpu")
    expected = torch.stack([encoder.encode(text, convert_to_tensor=True) for text in TEXTS])
    torchpool.accelerate(encoder[0].auto_model)
    found = run_threads(8, lambda number: encoder.encode(TEXTS[number::8], batch_size=1, convert_to_tensor=True))
    for number in range(8):
        assert torch.allclose(found[number], expected[number::8], atol=1e-5)
    assert isinstance(encoder[0].auto_model, nn.Module)
