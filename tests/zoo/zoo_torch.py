"""Models of plain torch: recurrent, attention, convolutions and dense layers."""

from __future__ import annotations

import warnings

import torch
from support import LSTMClassifier, SimpleCNN, draw
from torch import Tensor, nn
from zoo import LENGTHS, Calls, Entry, ids, inputs, sequences

# --- recurrent --------------------------------------------------------------------------------------------------------


def _with_state(layers: int, *, cell: bool) -> Calls:
    """Sequences with the hidden state, and the cell state, that they start from: the rows are in dim 1 of these."""

    def state(seed: int) -> Tensor | tuple[Tensor, Tensor]:
        hidden = draw(layers, 1, 6, seed=seed)
        return (hidden, draw(layers, 1, 6, seed=seed + 50)) if cell else hidden

    return [(draw(1, length, 4, seed=seed), state(seed + 20)) for seed, length in enumerate(LENGTHS)]


class Tagger(nn.Module):
    """Embedded ids [B, T] through a bidirectional LSTM to a score per position."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 8)
        self.lstm = nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True, dropout=0.1)
        self.out = nn.Linear(12, 5)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden, _ = self.lstm(self.embed(tokens))
        return self.out(hidden)


class Stepped(nn.Module):
    """A GRU cell in a Python loop over the positions of [B, T, 4]."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(4, 6)

    def forward(self, x: Tensor) -> Tensor:
        hidden = x.new_zeros(x.shape[0], 6)
        for position in range(x.shape[1]):
            hidden = self.cell(x[:, position], hidden)
        return hidden


class Packed(nn.Module):
    """Sequences [B, T, 4] with a length each, packed for an LSTM that stops where each ends."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(4, 6, batch_first=True)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
        _, (hidden, _) = self.lstm(packed)
        return hidden[-1]


RECURRENT = [
    Entry("lstm for classes", LSTMClassifier, sequences(10)),
    Entry("lstm", lambda: nn.LSTM(4, 6, batch_first=True), sequences(4)),
    Entry("lstm, length first", lambda: nn.LSTM(4, 6, num_layers=2), sequences(4, dim=0)),
    Entry("lstm, both ways", Tagger, lambda: [ids(1, length, seed=length) for length in LENGTHS]),
    Entry("lstm from a state", lambda: nn.LSTM(4, 6, batch_first=True), lambda: _with_state(1, cell=True)),
    Entry("lstm, projected", lambda: nn.LSTM(4, 6, proj_size=3, batch_first=True), sequences(4)),
    Entry(
        "lstm, packed",
        Packed,
        lambda: [(draw(1, n, 4, seed=n), torch.tensor([max(1, n - 2)])) for n in LENGTHS],
    ),
    Entry("gru, both ways", lambda: nn.GRU(4, 6, bidirectional=True, batch_first=True), sequences(4)),
    Entry("gru, length first", lambda: nn.GRU(4, 6), sequences(4, dim=0)),
    Entry("gru from a state", lambda: nn.GRU(4, 6, 2, batch_first=True), lambda: _with_state(2, cell=False)),
    Entry("gru in steps", Stepped, sequences(4)),
    Entry("rnn", lambda: nn.RNN(4, 6, batch_first=True), sequences(4)),
    Entry("rnn with relu, length first", lambda: nn.RNN(4, 6, nonlinearity="relu"), sequences(4, dim=0)),
]

# --- attention --------------------------------------------------------------------------------------------------------


class Encoder(nn.Module):
    """nn.TransformerEncoder over [B, T, 8], with the mask [B, T] of what is padding (True)."""

    def __init__(self, *, norm_first: bool = False) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=norm_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        return self.encoder(x, src_key_padding_mask=padding)


class Causal(nn.Module):
    """nn.TransformerDecoder over [B, T, 8] under a causal mask, with a memory [B, S, 8]."""

    def __init__(self) -> None:
        super().__init__()
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(8, 2, 16, batch_first=True), 2)

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.decoder(x, memory, tgt_mask=mask, tgt_is_causal=True)


class Pooled(nn.Module):
    """Attention of one learned query over [B, T, 8], with its weights."""

    def __init__(self) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.randn(1, 1, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        pooled, weights = self.attention(self.query.expand(x.shape[0], -1, -1), x, x)
        return pooled[:, 0], weights


def _masked() -> Calls:
    calls = [(draw(1, n, 8, seed=n), torch.zeros(1, n, dtype=torch.bool)) for n in LENGTHS]
    for _, padding in calls:
        padding[:, padding.shape[1] - padding.shape[1] // 4 :] = True
    return calls


ATTENTION = [
    Entry("transformer encoder", Encoder, sequences(8)),
    Entry("transformer encoder, masked", Encoder, _masked, pad={"x": 0.0, "padding": 1}),
    Entry("transformer encoder, norm first", lambda: Encoder(norm_first=True), sequences(8)),
    Entry(
        "transformer decoder",
        Causal,
        lambda: [(draw(1, n, 8, seed=n), draw(1, 3 + n % 4, 8, seed=n + 30)) for n in LENGTHS],
    ),
    Entry("attention pool", Pooled, sequences(8)),
]

# --- convolutions -----------------------------------------------------------------------------------------------------


class Separable(nn.Module):
    """Depthwise and pointwise convolutions over [B, 6, T], gated, with a residual and a weight norm."""

    def __init__(self) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(6, 6, 5, padding=2, groups=6)
        self.pointwise = nn.utils.parametrizations.weight_norm(nn.Conv1d(6, 12, 1))

    def forward(self, x: Tensor) -> Tensor:
        return x + nn.functional.glu(self.pointwise(self.depthwise(x)), dim=1)


class UNet(nn.Module):
    """Images [B, 2, H, W] halved, doubled again and cropped to where they started."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU())
        self.inner = nn.Sequential(nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.InstanceNorm2d(8), nn.LeakyReLU())
        self.up = nn.ConvTranspose2d(8, 4, 2, stride=2)
        self.out = nn.Conv2d(8, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        outer = self.down(x)
        inner = self.up(self.inner(outer))[:, :, : x.shape[2], : x.shape[3]]
        scaled = nn.functional.interpolate(inner, size=x.shape[2:], mode="bilinear")
        return self.out(torch.cat([outer, scaled], 1))


def _batch_normed() -> nn.Module:
    model = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.Hardswish(), nn.Dropout2d(0.1)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)),
    )
    for part in model:
        if isinstance(part, nn.BatchNorm2d):  # statistics that change the result when they are left out
            part.running_mean, part.running_var = torch.randn(8), torch.rand(8) + 0.5
    return model


CONVOLUTIONS = [
    Entry("cnn", SimpleCNN, inputs((1, 1, 28, 28), (1, 1, 28, 28), (1, 1, 28, 28))),
    Entry("cnn with batch norm", _batch_normed, inputs((1, 3, 16, 16), (1, 3, 24, 20), (1, 3, 9, 16))),
    Entry("separable convolutions", Separable, inputs((1, 6, 9), (1, 6, 14), (1, 6, 5), (1, 6, 1))),
    Entry("u-net", UNet, inputs((1, 2, 16, 16), (1, 2, 12, 20), (1, 2, 7, 9))),
    Entry("3d convolutions", lambda: nn.Conv3d(2, 3, 3, padding=1), inputs((1, 2, 4, 6, 6), (1, 2, 5, 8, 6))),
]

# --- dense ------------------------------------------------------------------------------------------------------------


class Residual(nn.Module):
    """Two residual blocks over [B, 12]."""

    def __init__(self) -> None:
        super().__init__()
        blocks = [nn.Sequential(nn.LayerNorm(12), nn.Linear(12, 24), nn.SiLU(), nn.Linear(24, 12)) for _ in range(2)]
        self.blocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = x + block(x)
        return x


class Recommender(nn.Module):
    """Ids of a user's items [B, N] and features [B, 4]: a bag of embeddings beside a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        self.bag = nn.EmbeddingBag(50, 8, mode="mean")
        self.dense = nn.Linear(4, 8)
        self.out = nn.Linear(16, 1)

    def forward(self, items: Tensor, features: Tensor) -> Tensor:
        return torch.sigmoid(self.out(torch.cat([self.bag(items), torch.relu(self.dense(features))], 1)))


def _mlp() -> nn.Module:
    return nn.Sequential(
        nn.Linear(8, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(0.2), nn.Linear(32, 4), nn.Softmax(-1)
    )


def _int8() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces that its quantization moves
        return torch.ao.quantization.quantize_dynamic(model)


DENSE = [
    Entry("mlp", _mlp, inputs((1, 8), (1, 8), (1, 8))),
    Entry("mlp on sequences", _mlp, sequences(8), pad={"input": 0.0}),
    Entry("mlp on bare rows", _mlp, inputs((8,), (8,), (8,))),
    Entry("residual mlp", Residual, inputs((1, 12), (1, 12), (1, 12))),
    Entry("bag of embeddings", Recommender, lambda: [(ids(1, n, seed=n), draw(1, 4, seed=n)) for n in LENGTHS]),
    Entry("int8 weights", _int8, inputs((1, 8), (1, 8), (1, 8)), expect="alone"),  # one scale for the whole batch
]

MODELS = [*RECURRENT, *ATTENTION, *CONVOLUTIONS, *DENSE]
