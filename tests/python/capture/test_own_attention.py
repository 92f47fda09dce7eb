"""Attention by torchpool's own kernel: which forms become it, for any mask, and what it is served with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from programs import Captured, Program, assert_near, optimised, run_graph
from support import HANG, assert_close, build, draw, eager, run_threads
from torch import Tensor, nn
from zoo import ids, pretrained

import torchpool
from torchpool import _core
from torchpool.capture import passes
from torchpool.capture.lower import lower

pytestmark = pytest.mark.skipif(_core.linear_isa() == "portable", reason="ATen is left attention where AVX2 is not")

WIDTH, HEADS = 64, 4
attention_keys = torch.ops.torchpool.attention_keys
varlen_attention = torch.ops.torchpool.varlen_attention
row_offsets, pack_rows = torch.ops.torchpool.row_offsets, torch.ops.torchpool.pack_rows
unpack_rows = torch.ops.torchpool.unpack_rows
LENGTHS = torch.tensor([20, 3, 9, 1, 15, 7])
PLACES = torch.arange(20)[None]
MASKS = {
    "right-padded": LENGTHS[:, None] > PLACES,
    "left-padded": 20 - LENGTHS[:, None] <= PLACES,
    "holes": (PLACES * 7 + LENGTHS[:, None]) % 3 > 0,
    "all": 20 + 0 * LENGTHS[:, None] > PLACES,
    "a row of nothing": (LENGTHS - 3)[:, None] > PLACES,
}


class Model(nn.Module):
    """Projections, and attention between them as `forward` has it: of query, key, value and what the call gives."""

    def __init__(self, forward: Callable[..., Tensor], width: int = WIDTH, heads: int = HEADS) -> None:
        super().__init__()
        self.function, self.heads = forward, heads
        self.parts = nn.ModuleList(nn.Linear(width, width) for _ in range(3))
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor, *mask: Tensor) -> Tensor:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.parts)
        result: Tensor = self.out(self.function(q, k, v, *mask).transpose(1, 2).flatten(2))
        return result


def sdpa(q: Tensor, k: Tensor, v: Tensor, *mask: Tensor, **options: Any) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, mask[0][:, None, None].bool() if mask else None, **options)


def added(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    low = torch.finfo(q.dtype).min
    return F.scaled_dot_product_attention(q, k, v, (1.0 - mask[:, None, None].to(q.dtype)) * low)


def written_out(q: Tensor, k: Tensor, v: Tensor, *mask: Tensor) -> Tensor:
    scores = torch.matmul(q, k.transpose(2, 3)) * 0.25
    if mask:
        scores = scores + (1.0 - mask[0][:, None, None].to(q.dtype)) * torch.finfo(q.dtype).min
    return torch.matmul(scores.softmax(-1), v)


def divided(q: Tensor, k: Tensor, v: Tensor, *mask: Tensor) -> Tensor:
    scores = q @ k.permute(0, 1, 3, 2) / 4
    return scores.softmax(dim=-1, dtype=torch.float32).to(q.dtype) @ v


def apply(model: Callable[[], nn.Module], *calls: Any) -> tuple[Program, Captured, dict[str, int]]:
    """The graph after the passes, which is compared with the one before."""
    found = Captured(build(model), *calls)
    program, _, counts = optimised(found)
    return program, found, counts


def masked_calls() -> list[Any]:
    return [(draw(1, length, WIDTH), torch.ones(1, length, dtype=torch.long)) for length in (9, 5)]


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("form", [sdpa, added, written_out])
def test_every_form_is_right_for_every_mask(form: Callable[..., Tensor], mask: str) -> None:
    program, found, counts = apply(lambda: Model(form), *masked_calls())
    assert counts["own_attention"] == 1
    leaves = [draw(6, 20, WIDTH), MASKS[mask].long()]
    assert_near(program(leaves), found.eager(leaves))


@pytest.mark.parametrize("form", [sdpa, written_out, divided, lambda *qkv: sdpa(*qkv, is_causal=True, scale=0.3)])
def test_attention_without_a_mask(form: Callable[..., Tensor]) -> None:
    program, found, counts = apply(lambda: Model(form), draw(1, 9, WIDTH), draw(1, 5, WIDTH))
    assert counts["own_attention"] == 1
    leaves = [draw(3, 31, WIDTH)]
    assert_near(program(leaves), found.eager(leaves))


def test_layers_share_what_they_read_of_a_mask() -> None:
    def model() -> nn.Module:
        layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 128, batch_first=True)
        return nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)

    class Padded(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model()

        def forward(self, x: Tensor, mask: Tensor) -> Any:
            return self.encoder(x, src_key_padding_mask=mask)

    calls = [(draw(1, length, WIDTH), torch.zeros(1, length, dtype=torch.bool)) for length in (9, 5)]
    program, found, counts = apply(Padded, *calls)
    assert counts["own_attention"] == 3
    assert program.lowered.listing.count("torchpool::attention_keys") == 1
    for mask in MASKS.values():
        leaves = [draw(6, 20, WIDTH), ~mask]
        assert_near(program(leaves), run_graph(found.graph, leaves))


@pytest.mark.parametrize(
    ("form", "width", "why"),
    [
        (sdpa, 48, "heads are of size 12"),
        (lambda q, k, v: sdpa(q.double(), k.double(), v.double()).float(), WIDTH, "not of float32"),
        (lambda q, k, v: sdpa(q[:, 0], k[:, 0], v[:, 0])[:, None].expand(-1, 4, -1, -1), WIDTH, "3 dims"),
        (lambda q, k, v: sdpa(q, k, v, scale=-1.0), WIDTH, "scale is -1.0"),
    ],
)
def test_others_are_left_to_aten_and_named(form: Callable[..., Tensor], width: int, why: str) -> None:
    found = Captured(build(lambda: Model(form, width)), draw(1, 9, width))
    graph, counts = passes.optimise(found.graph)
    assert counts["own_attention"] == 0
    assert [text for text in passes.own_attention.describe(graph.module) if why in text]


def test_weights_that_someone_else_sees_stay() -> None:
    class Watched(Model):
        def forward(self, x: Tensor) -> Any:  # type: ignore[override]
            q, k, v = (part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.parts)
            weights = (q @ k.transpose(2, 3)).softmax(-1)
            return weights @ v, weights

    assert apply(lambda: Watched(sdpa), draw(1, 9, WIDTH))[2]["own_attention"] == 0


# --- the operators ----------------------------------------------------------------------------------------------------


def heads(rows: int, places: int, size: int = 16) -> tuple[Tensor, Tensor, Tensor]:
    parts = draw(rows, places, 3 * HEADS * size).chunk(3, -1)
    q, k, v = (part.unflatten(-1, (HEADS, size)).transpose(1, 2) for part in parts)
    return q, k, v


@pytest.mark.parametrize("dtype", [torch.bool, torch.float32])
def test_keys_are_those_that_the_mask_leaves(dtype: torch.dtype) -> None:
    kept = torch.tensor([[True, False, True, True], [False, True, False, False]])
    mask = kept if dtype == torch.bool else torch.where(kept, 0.0, -torch.inf)
    for form in (mask[:, None, None], mask[:, None, None].expand(2, 3, 5, 4), mask[:, None, None].repeat(1, 3, 5, 1)):
        keys = attention_keys(form)
        assert keys[:, 0].tolist() == [3, 1]
        assert keys[0, 1:4].tolist() == [0, 2, 3]
        assert keys[1, 1:2].tolist() == [1]
    assert attention_keys(mask[0]).tolist()[0][:4] == [3, 0, 2, 3]


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(5, 5, dtype=torch.bool).tril(),  # another for each query
        torch.full((1, 1, 1, 5), -1.0),  # it only weighs less
        torch.tensor([0.0, torch.nan]),
        torch.cat([torch.zeros(1, 2, 1, 5), -torch.inf * torch.ones(1, 1, 1, 5)], 1),  # another for a head
        torch.zeros(3, dtype=torch.float64),
    ],
)
def test_other_masks_have_no_keys(mask: Tensor) -> None:
    assert attention_keys(mask).numel() == 0


def test_a_mask_for_each_query_is_what_sdpa_makes_of_it() -> None:
    q, k, v = heads(2, 6)
    for mask in (torch.ones(6, 6, dtype=torch.bool).tril(), draw(1, 1, 6, 6), draw(2, HEADS, 6, 1)):
        expected = F.scaled_dot_product_attention(q, k, v, mask)
        assert_close(varlen_attention(q, k, v, mask, attention_keys(mask)), expected)


def test_keys_of_grouped_heads_and_of_other_places() -> None:
    q, k, v = heads(3, 20)
    mask = MASKS["right-padded"][:3, None, None]
    grouped = F.scaled_dot_product_attention(q, k[:, ::2], v[:, ::2], mask, enable_gqa=True)
    assert_close(varlen_attention(q, k[:, ::2], v[:, ::2], mask, attention_keys(mask)), grouped)
    few = q[:, :, :4]
    assert_close(
        varlen_attention(few, k, v, mask, attention_keys(mask)), F.scaled_dot_product_attention(few, k, v, mask)
    )


@pytest.mark.parametrize("eager", [False, True])
@pytest.mark.parametrize("odd", [torch.nan, torch.inf])
def test_what_is_not_finite_stays_in_its_row_and_counts_there_as_in_eager(odd: float, eager: bool) -> None:
    q, k, v = heads(6, 20)
    mask = torch.where(MASKS["right-padded"], 0.0, -torch.inf)[:, None, None]

    def reference() -> Tensor:
        if not eager:
            return F.scaled_dot_product_attention(q, k, v, mask)
        return torch.softmax(q @ k.mT / 4 + mask, -1) @ v

    plain = varlen_attention(q, k, v, mask, attention_keys(mask), eager=eager)
    k[1, 2, 12, 3] = odd  # masked: it counts all the same, as a product with it does
    v[2, 1, 15, 0] = odd
    v[4, 0, 2, 5] = odd  # seen
    found = varlen_attention(q, k, v, mask, attention_keys(mask), eager=eager)
    torch.testing.assert_close(found, reference(), equal_nan=True, rtol=1e-4, atol=1e-5)
    for row in (0, 3, 5):
        assert torch.equal(found[row], plain[row])


def test_rows_have_the_same_bits_in_any_batch() -> None:
    q, k, v = heads(6, 20)
    mask = MASKS["right-padded"][:, None, None]
    together = varlen_attention(q, k, v, mask, attention_keys(mask))
    for row in range(6):
        own = slice(row, row + 1)
        keys = attention_keys(mask[own])
        alone = varlen_attention(q[own], k[own], v[own], mask[own], keys)
        assert torch.equal(alone[0], together[row])
        length = int(LENGTHS[row])
        cut = varlen_attention(q[own, :, :length], k[own, :, :length], v[own, :, :length])
        assert torch.equal(cut[0], together[row, :, :length])


def test_no_rows_no_places_and_threads() -> None:
    for rows, places in ((0, 5), (2, 0)):
        q, k, v = heads(rows, places)
        assert varlen_attention(q, k, v).shape == (rows, HEADS, places, 16)
    q, k, v = heads(8, 70, 32)
    before = torch.get_num_threads()
    alone = varlen_attention(q, k, v)
    try:
        torch.set_num_threads(3)
        assert torch.equal(varlen_attention(q, k, v), alone)
    finally:
        torch.set_num_threads(before)


# --- served -----------------------------------------------------------------------------------------------------------


@pytest.mark.graphs
@pytest.mark.timeout(HANG)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_a_text_model_called_with_texts_of_many_lengths_at_once(attention: str) -> None:
    config = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    model = build(pretrained("BertModel", **config, intermediate_size=128, attn_implementation=attention))
    texts = [ids(1, 1 + 7 * seed % 50, seed=seed, below=100) for seed in range(64)]
    calls = [{"input_ids": text, "attention_mask": torch.ones_like(text)} for text in texts]
    for call in calls[::5]:  # texts that come padded
        call["attention_mask"][:, call["input_ids"].shape[1] // 2 + 1 :] = 0
    expected = [eager(model, **call).last_hidden_state for call in calls]
    with torchpool.wrap(model, example=calls[:3], backend="graph", pad={"input_ids": 0, "attention_mask": 0}) as served:
        results = run_threads(8, lambda worker: [served(**call).last_hidden_state for call in calls[worker::8]])
        told = str(served.explain())
    for worker, found in enumerate(results):
        for one, other in zip(found, expected[worker::8], strict=True):
            assert_close(one, other)
    assert "attention: 2 by torchpool" in told
    assert "padding: not computed in 2 attentions" in told


# --- packed places ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mask", MASKS)
@pytest.mark.parametrize("eager", [False, True])
def test_packed_rows_attend_to_their_own_keys_only(eager: bool, mask: str) -> None:
    q, k, v = heads(6, 20)
    lengths = torch.tensor([20, 5, 9, 0, 17, 8])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int32), lengths.cumsum(0).int()])
    masked = torch.where(MASKS[mask], 0.0, -1e30)[:, None, None]
    options = {"eager": eager, "offsets": offsets}
    packed = [pack_rows(part.transpose(1, 2), offsets).transpose(1, 2) for part in (q, k, v)]
    assert packed[0].shape == (1, HEADS, 59, 16)
    found = varlen_attention(*packed, masked, attention_keys(masked), **options)
    plain, causal = varlen_attention(*packed, **options), varlen_attention(*packed, is_causal=True, **options)
    bias = draw(1, 1, 20, 20)
    biased = varlen_attention(*packed, bias, attention_keys(bias), **options)
    for row, length in enumerate(lengths.tolist()):
        own = slice(int(offsets[row]), int(offsets[row + 1]))
        one, two, three = (part[row : row + 1, :, :length] for part in (q, k, v))
        cut = masked[row : row + 1, :, :, :length]
        for result, expected in (
            (found, varlen_attention(one, two, three, cut, attention_keys(cut), eager=eager)),
            (plain, varlen_attention(one, two, three)),
            (causal, varlen_attention(one, two, three, is_causal=True)),
            (biased, F.scaled_dot_product_attention(one, two, three, bias[:, :, :length, :length])),
        ):
            assert_near([result[:, :, own]], [expected])


def test_packing_leaves_out_padded_places_and_unpacking_puts_zeros_there() -> None:
    x = draw(3, 4, 5)
    offsets = torch.tensor([0, 2, 2, 6], dtype=torch.int32)
    packed = pack_rows(x, offsets)
    assert torch.equal(packed, torch.cat([x[0, :2], x[2]])[None])
    assert torch.equal(unpack_rows(packed, offsets, x), x * torch.tensor([[1, 1, 0, 0], [0] * 4, [1] * 4])[..., None])
    whole = row_offsets(x, 0)  # nothing is known of the rows
    assert whole.tolist() == [0, 4, 8, 12]
    assert pack_rows(x, whole).data_ptr() == x.data_ptr()
    assert torch.equal(unpack_rows(pack_rows(x, whole), whole, x), x)
    with pytest.raises(RuntimeError, match="expected 3 rows"):
        pack_rows(x[:2], offsets)
    with pytest.raises(RuntimeError, match="expected packed rows of 6 places"):
        varlen_attention(*heads(1, 5), offsets=offsets)


def encoder(**options: Any) -> Callable[[], nn.Module]:
    config = {"vocab_size": 100, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    return pretrained("BertModel", **config, intermediate_size=128, **options)


def text(length: int) -> dict[str, Tensor]:
    call = {"input_ids": ids(1, length, seed=length, below=100)}
    return {**call, "attention_mask": torch.ones_like(call["input_ids"])}


def test_an_encoder_is_packed_from_its_first_layer_to_its_last() -> None:
    found = Captured(build(encoder()), text(9), text(5), pad={"input_ids": 0, "attention_mask": 0})
    graph, counts = passes.optimise(found.graph)
    assert counts["pack_places"] == 2
    body = [one.op.removeprefix("torchpool::") for one in lower(graph).body]
    assert (body.count("row_offsets"), body.count("pack_rows"), body.count("unpack_rows")) == (1, 1, 1)
    first, last = body.index("pack_rows"), body.index("unpack_rows")
    assert {"linear", "varlen_attention"} <= set(body[first:last])
    assert "varlen_attention" not in body[:first] + body[last:]


def test_what_is_not_padded_or_not_proven_is_not_packed() -> None:
    bare = [{"input_ids": text(length)["input_ids"]} for length in (9, 5)]
    found = Captured(build(encoder()), *bare)
    assert passes.optimise(found.graph)[1]["pack_places"] == 0

    def unmasked(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return sdpa(q, k, v)

    found = Captured(build(lambda: Model(unmasked)), draw(1, 9, WIDTH), draw(1, 5, WIDTH))
    assert passes.optimise(found.graph)[1]["pack_places"] == 0
