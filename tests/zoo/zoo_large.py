"""Models of the sizes that people run, with random weights: for what the proof of rows costs."""

from __future__ import annotations

from support import draw
from torch import nn
from zoo import Calls, Entry, ids, pretrained

LENGTHS = (17, 23)


def _texts() -> Calls:
    return [{"input_ids": (tokens := ids(1, n, seed=n)), "attention_mask": tokens.new_ones(1, n)} for n in LENGTHS]


def _pictures() -> Calls:
    return [{"pixel_values": draw(1, 3, 224, 224, seed=seed)} for seed in range(2)]


def _sequences(width: int) -> Calls:
    return [draw(1, n, width, seed=n) for n in LENGTHS]


_WIDE = {"vocab_size": 1000, "hidden_size": 192, "num_hidden_layers": 12, "num_attention_heads": 12}
_DECODER = {**_WIDE, "num_key_value_heads": 4, "intermediate_size": 384, "use_cache": False}
_GPT2 = {"vocab_size": 1000, "n_embd": 192, "n_layer": 12, "n_head": 12, "use_cache": False}


def _encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return nn.TransformerEncoder(layer, 6, enable_nested_tensor=False)


MODELS = [
    Entry("bert, 12 layers", pretrained("BertModel", **_WIDE, intermediate_size=384), _texts),
    Entry("gpt2, 12 layers", pretrained("GPT2Model", **_GPT2), _texts),
    Entry("llama, 12 layers", pretrained("LlamaModel", **_DECODER), _texts),
    Entry("vit, 12 layers", pretrained("ViTModel", hidden_size=192, num_attention_heads=12, intermediate_size=384),
          _pictures),
    Entry("t5 encoder, 12 layers", pretrained(
        "T5EncoderModel", vocab_size=1000, d_model=192, d_ff=384, d_kv=16, num_layers=12, num_heads=12), _texts),
    Entry("mixtral, 4 layers", pretrained(
        "MixtralModel", **{**_DECODER, "num_hidden_layers": 4}, num_local_experts=4, num_experts_per_tok=2), _texts),
    Entry("resnet-18", pretrained(
        "ResNetModel", embedding_size=64, hidden_sizes=[64, 128, 256, 512], depths=[2, 2, 2, 2], layer_type="basic"),
        _pictures),
    Entry("transformer encoder, 6 layers", _encoder, lambda: _sequences(64)),
    Entry("lstm, 2 layers", lambda: nn.LSTM(64, 128, 2, batch_first=True), lambda: _sequences(64)),
    Entry("lstm, both ways, 2 layers", lambda: nn.LSTM(64, 128, 2, batch_first=True, bidirectional=True),
          lambda: _sequences(64)),
    Entry("gru, 2 layers", lambda: nn.GRU(64, 128, 2, batch_first=True), lambda: _sequences(64)),
    Entry("bert without a mask, 12 layers", pretrained("BertModel", **_WIDE, intermediate_size=384),
          lambda: [{"input_ids": ids(1, n, seed=n)} for n in LENGTHS]),
    Entry("gpt2 for classes, 12 layers", pretrained("GPT2ForSequenceClassification", **_GPT2, pad_token_id=0), _texts),
]  # fmt: skip
