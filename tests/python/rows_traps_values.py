"""Traps for rules about values: pointwise, reductions, products, layers, recurrent layers, attention, experts."""

from __future__ import annotations

import torch
import transformers.integrations.moe  # noqa: F401  # registers its operator for experts
from rows_traps import Model, floats, ids, leak, safe
from torch import Tensor, nn
from torch.nn import functional as F

# --- pointwise --------------------------------------------------------------------------------------------------------

leak("pointwise", "rows across rows", lambda own, x: (x[:, :1] - x[:, 0]).abs().sum(1))
leak("pointwise", "a choice for all rows", lambda own, x: torch.where((x > 2).any(), x, -x))
leak("pointwise", "nothing times the sum of all", lambda own, x: x + 0 * x.sum())
leak("pointwise", "the mean of all as a limit", lambda own, x: x.clamp(max=x.mean()))
leak("pointwise", "tiled rows plus repeated rows", lambda own, x: x.repeat(2, 1) + x.repeat_interleave(2, 0))
leak("pointwise", "a weight of all rows between two ends", lambda own, x: torch.lerp(x, -x, x.amax(0)))
leak("pointwise", "rows in two dims", lambda own, x: (x.unsqueeze(0) * x.unsqueeze(1)).sum((0, 2)))
safe("pointwise", "a choice for each row", lambda own, x: torch.where((x > 2).any(1, keepdim=True), x, -x))
safe("pointwise", "a row's entries with each other", lambda own, x: (x[:, None] * x[:, :, None]).flatten(1))
safe("pointwise", "one row of a table for all", lambda own, x: torch.addcmul(own.table[0], x, own.table[:1]))

# --- reductions -------------------------------------------------------------------------------------------------------

leak("reductions", "centred over the rows", lambda own, x: x - x.mean(0))
leak("reductions", "one deviation", lambda own, x: x / x.std())
leak("reductions", "softmax over the rows", lambda own, x: x.softmax(0))
leak("reductions", "softmax over all", lambda own, x: x.view(-1).softmax(0).view(x.shape))
leak("reductions", "running sum over all", lambda own, x: x.view(-1).cumsum(0).view(x.shape))
leak("reductions", "largest so far", lambda own, x: x.cummax(0).values)
leak("reductions", "the median of all", lambda own, x: x - x.median())
leak("reductions", "the largest row", lambda own, x: x + x.max(0)[0])
leak("reductions", "the first of all sorted rows", lambda own, x: x.topk(1, 0).values.expand(x.shape[0], 8))
leak("reductions", "sorted among the rows", lambda own, x: x.sort(0).values)
leak("reductions", "scaled to length one over the rows", lambda own, x: F.normalize(x, dim=0))
leak("reductions", "reversed rows", lambda own, x: x.flip(0))
leak("reductions", "rolled as one list", lambda own, x: x.roll(1))
leak("reductions", "a mean over rows and time", lambda own, x: x.view(-1, 2, 4) - x.view(-1, 2, 4).mean((0, 1)))
leak("reductions", "a negative dim that is the rows'", lambda own, x: x - x.logsumexp(-2))
leak("reductions", "a running sum of folded rows", lambda own, x: x.view(-1, 4).cumsum(0).view(-1, 8))
leak("reductions", "the place among all", lambda own, x: x + x.argmax())
safe("reductions", "softmax of each", lambda own, x: x.softmax(1))
safe("reductions", "softmax of single entries", lambda own, x: x.view(-1, 1).softmax(-1).view(x.shape))
safe("reductions", "sorted within each", lambda own, x: x.sort(1).values)
safe("reductions", "halves swapped", lambda own, x: x.view(-1, 2, 4).flip(1).flatten(1))
safe("reductions", "a spectrum of each", lambda own, x: torch.fft.rfft(x, dim=-1).abs())

# --- products ---------------------------------------------------------------------------------------------------------

leak("products", "each row with each", lambda own, x: x @ x.T @ x)
leak("products", "a product over the rows", lambda own, x: x @ torch.einsum("bi,bj->ij", x, x))
leak("products", "rows as weights", lambda own, x: F.linear(x, x))
leak("products", "a dot of all with all", lambda own, x: x * torch.tensordot(x, x, dims=([0, 1], [0, 1])))
leak("products", "a triangle of rows", lambda own, x: torch.tril(torch.ones(x.shape[0], x.shape[0])) @ x)
leak("products", "rows and rows by letters", lambda own, x: torch.einsum("bi,ci->bc", x, x).amax(1))
leak("products", "rows added through a product", lambda own, x: torch.addmm(x, x @ x.T, x))
leak("products", "rows as one matrix of a batch", lambda own, x: torch.bmm(x[None], x.T[None])[0].sum(1))
safe("products", "weights that a row makes", lambda own, x: torch.bmm(x.view(-1, 2, 4), x.view(-1, 4, 2)).flatten(1))
safe("products", "a row with itself", lambda own, x: torch.einsum("bi,bj->bij", x, x).flatten(1))
safe("products", "a table's product", lambda own, x: x @ own.table.T)
safe("products", "a dot of each", lambda own, x: x.unsqueeze(1) @ x.unsqueeze(2))

# --- layers -----------------------------------------------------------------------------------------------------------

leak("layers", "a norm over the batch", lambda own, x: F.batch_norm(x, None, None, training=True))
leak("layers", "a convolution over the rows", lambda own, x: own.layer(x.T.unsqueeze(0))[0].T,
     layer=lambda: nn.Conv1d(8, 8, 3, padding=1))  # fmt: skip
leak("layers", "a norm over all rows as channels", lambda own, x: F.group_norm(x.unsqueeze(0), 1)[0])
leak("layers", "neighbouring rows pooled", lambda own, x: F.avg_pool1d(x.T, 3, 1, 1).T)
leak("layers", "rows between rows", lambda own, x: F.interpolate(x.T[None], scale_factor=2, mode="linear")[0].T)
leak("layers", "rows as the channels of a local norm", lambda own, x: F.local_response_norm(x.unsqueeze(0), 3)[0])
leak("layers", "windows of rows", lambda own, x: F.pad(x, (0, 0, 1, 1)).unfold(0, 3, 1).mean(-1))
leak("layers", "dropped at random", lambda own, x: F.dropout(x, 0.5, training=True))
leak("layers", "mirrored rows as a border", lambda own, x: F.pad(x.T[None], (1, 1), mode="reflect")[0].T[1:-1] * 2
     + F.pad(x.T[None], (1, 1), mode="replicate")[0].T[2:])  # fmt: skip
safe("layers", "a convolution of each", lambda own, x: own.layer(x.view(-1, 2, 4)), layer=lambda: nn.Conv1d(2, 3, 2))
safe("layers", "groups of each", lambda own, x: F.group_norm(x.view(-1, 4, 2), 2).flatten(1))
safe("layers", "rows as the channels of a pool", lambda own, x: F.avg_pool1d(x.unsqueeze(0), 2)[0])
safe("layers", "a norm that has seen a batch", lambda own, x: own.layer(x), layer=lambda: nn.BatchNorm1d(8))
safe("layers", "a norm of each", lambda own, x: F.layer_norm(x, (8,), own.table[0]))

# --- recurrent --------------------------------------------------------------------------------------------------------

leak("recurrent", "rows as steps", lambda own, x: own.layer(x)[0], layer=lambda: nn.LSTM(8, 8))
leak("recurrent", "rows as steps of one sequence", lambda own, x: own.layer(x.unsqueeze(0))[0][0],
     layer=lambda: nn.GRU(8, 8, batch_first=True))  # fmt: skip
leak("recurrent", "rows first, read as steps", lambda own, x: own.layer(x.view(-1, 2, 4))[0],
     layer=lambda: nn.GRU(4, 4))  # fmt: skip
leak("recurrent", "steps and rows folded", lambda own, x: own.layer(x.view(1, -1, 4))[0].view(-1, 8),
     layer=lambda: nn.RNN(4, 4, batch_first=True))  # fmt: skip
leak("recurrent", "a state of all rows", lambda own, x: own.layer(x.view(-1, 2, 4), x[:, :4].sum(0).expand(
     1, x.shape[0], 4).contiguous())[0], layer=lambda: nn.GRU(4, 4, batch_first=True))  # fmt: skip
leak("recurrent", "the states of other rows", lambda own, x: own.layer(x.view(-1, 2, 4), x[None, :, :4].flip(1))[0],
     layer=lambda: nn.RNN(4, 4, batch_first=True))  # fmt: skip
safe("recurrent", "rows as a batch", lambda own, x: own.layer(x.view(-1, 2, 4))[0].flatten(1),
     layer=lambda: nn.LSTM(4, 4, 2, batch_first=True, bidirectional=True))  # fmt: skip
safe("recurrent", "steps first", lambda own, x: own.layer(x.view(-1, 2, 4).transpose(0, 1))[0].transpose(0, 1),
     layer=lambda: nn.GRU(4, 4))  # fmt: skip
safe("recurrent", "states of its own", lambda own, x: own.layer(x.view(-1, 2, 4), x[None, :, :4])[1][0],
     layer=lambda: nn.RNN(4, 4, batch_first=True))  # fmt: skip

# --- attention --------------------------------------------------------------------------------------------------------


def _over_rows(own: Model, x: Tensor) -> Tensor:
    q = x.unsqueeze(0)
    return F.scaled_dot_product_attention(q, q, q)[0]


def _keys_of_all(own: Model, x: Tensor) -> Tensor:
    keys = x.unsqueeze(0).expand(x.shape[0], -1, -1)
    return F.scaled_dot_product_attention(x.unsqueeze(1), keys, keys)[:, 0]


def _masked_by_all(own: Model, x: Tensor) -> Tensor:
    q = x.view(-1, 4, 2)
    return F.scaled_dot_product_attention(q, q, q, attn_mask=(q > 1).any(0).any(1).expand(4, 4))


def _before(own: Model, x: Tensor) -> Tensor:
    q = x.view(-1, 2, 4).transpose(0, 1)
    return F.scaled_dot_product_attention(q, q, q, is_causal=True).transpose(0, 1)


def _each(own: Model, x: Tensor) -> Tensor:
    q = x.view(-1, 4, 2)
    return F.scaled_dot_product_attention(q, q, q, is_causal=True).flatten(1)


def _by_hand(own: Model, x: Tensor) -> Tensor:
    q = x.view(-1, 4, 2)
    return (q @ q.transpose(1, 2)).softmax(-1) @ q


leak("attention", "over the rows", _over_rows)
leak("attention", "the keys of all", _keys_of_all)
leak("attention", "a mask of all rows", _masked_by_all)
leak("attention", "to the rows before", _before)
leak("attention", "softmax over the wrong end", lambda own, x: (x @ own.table.T).softmax(0) @ own.table)
leak("attention", "rows as the length", lambda own, x: own.layer(*[x.view(-1, 2, 4)] * 3)[0],
     layer=lambda: nn.MultiheadAttention(4, 2))  # fmt: skip
safe("attention", "within each", _each)
safe("attention", "within each, by hand", _by_hand)
safe("attention", "heads of a layer", lambda own, x: own.layer(*[x.view(-1, 2, 4)] * 3)[0],
     layer=lambda: nn.MultiheadAttention(4, 2, batch_first=True))  # fmt: skip

# --- experts ----------------------------------------------------------------------------------------------------------


def _sorted(x: Tensor) -> tuple[Tensor, Tensor]:
    places = x[:, 0].argsort()
    return places, places.argsort()


def _summed_in_order(own: Model, x: Tensor) -> Tensor:
    places, back = _sorted(x)
    return x[places].cumsum(0)[back]


def _numbered_in_order(own: Model, x: Tensor) -> Tensor:
    places, back = _sorted(x)
    return (x[places] + torch.arange(x.shape[0])[:, None])[back]


def _sorted_again(own: Model, x: Tensor) -> Tensor:
    places, _ = _sorted(x)
    return (x[places] * 2)[places]


def _two_orders(own: Model, x: Tensor) -> Tensor:
    return x[x[:, 0].argsort()] + x[x[:, 1].argsort()]


def _back_by_another(own: Model, x: Tensor) -> Tensor:
    return x[x[:, 0].argsort()][x[:, 1].argsort().argsort()]


def _never_back(own: Model, x: Tensor) -> Tensor:
    return x[x[:, 0].argsort()]


def _capacity(own: Model, x: Tensor) -> Tensor:
    chosen = F.one_hot(x[:, :4].argmax(1), 4)
    place = (chosen.cumsum(0) - 1) * chosen
    kept = chosen * (place < 1)
    return x + kept.sum(1, keepdim=True) * own.table[0]


def _mean_of_an_expert(own: Model, x: Tensor) -> Tensor:
    chosen = F.one_hot((x[:, 0] > 0).long(), 2).float()
    return (chosen.T @ x)[(x[:, 0] > 0).long()]


def _load(own: Model, x: Tensor) -> Tensor:
    expert = x[:, :4].argmax(1)
    return x / torch.bincount(expert, minlength=4)[expert][:, None]


def _by_expert(x: Tensor, weight: Tensor, *, flipped: bool) -> Tensor:
    expert = x[:, :4].argmax(1)
    places = expert.argsort()
    load = torch.histc(expert.float(), 4, 0, 3)
    ends = (load.flip(0) if flipped else load).cumsum(0).to(torch.int32)
    out = torch.ops.transformers.grouped_mm_fallback(x[places], weight, ends)
    return out[places.argsort()]


def _wrong_groups(own: Model, x: Tensor) -> Tensor:
    return _by_expert(x, own.table[:32].view(4, 8, 8), flipped=True)


def _grouped(own: Model, x: Tensor) -> Tensor:
    return _by_expert(x, own.table[:32].view(4, 8, 8), flipped=False)


def _there_and_back(own: Model, x: Tensor) -> Tensor:
    places, back = _sorted(x)
    return (x[places] * 2)[back]


def _added_back(own: Model, x: Tensor) -> Tensor:
    places, _ = _sorted(x)
    return torch.zeros_like(x).index_add(0, places, x[places] * 2)


leak("experts", "a running sum in the order", _summed_in_order)
leak("experts", "numbers added in the order", _numbered_in_order)
leak("experts", "sorted again instead of back", _sorted_again)
leak("experts", "two orders meet", _two_orders)
leak("experts", "back by another order", _back_by_another)
leak("experts", "never put back", _never_back)
leak("experts", "a capacity", _capacity)
leak("experts", "the sum of an expert's rows", _mean_of_an_expert)
leak("experts", "an expert's load", _load)
leak("experts", "the groups of other experts", _wrong_groups)
safe("experts", "a product for each group", _grouped)
safe("experts", "there and back", _there_and_back)
safe("experts", "put back by adding", _added_back)
safe("experts", "each expert on all rows", lambda own, x: torch.stack(
     [x * own.table[0], x * own.table[1]], 1)[torch.arange(x.shape[0]), (x[:, 0] > 0).long()])  # fmt: skip

# --- models that users have -------------------------------------------------------------------------------------------


class _Quantised(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(20, 8), nn.Linear(8, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.embedding(tokens).mean(1)
        step = hidden.abs().max() / 127
        return self.head((hidden / step).round() * step)


def _longest(own: Model, tokens: Tensor) -> Tensor:
    return own.layer(tokens[:, : int((tokens > 4).sum(1).max())])


def _rare_token(own: Model, tokens: Tensor) -> Tensor:
    hidden = own.layer(tokens)
    return -hidden if (tokens == 7).any() else hidden


def _scaled_by_the_mean(own: Model, x: Tensor) -> Tensor:
    seen = (x.abs() > 0).float().sum(1, keepdim=True)
    scale = x.abs().sum(1, keepdim=True) / seen.clamp(min=1)
    return x / torch.where(seen > 0, scale, scale.sum() / seen.sum()) + scale.sum() * (seen == 0)


leak("reductions", "one step of eight bits", lambda own, x: own.layer(x), layer=_Quantised, calls=ids())
leak("parts", "cut to the longest", _longest, layer=lambda: nn.Embedding(20, 8), calls=ids())
leak("lookups", "a branch on a token", _rare_token, layer=lambda: nn.Embedding(20, 8), calls=ids(), graph=False)
leak("lookups", "rows that are left out", lambda own, x: x[x[:, 0] > -0.5])
leak("reductions", "the scale of an empty row", _scaled_by_the_mean)
leak("reductions", "a number for the whole call", lambda own, x: (x - x.mean()).pow(2).sum(), calls=floats(8))
leak("reductions", "likeness to the mean of the rows", lambda own, x: F.cosine_similarity(x, x.mean(0, True), dim=1))
