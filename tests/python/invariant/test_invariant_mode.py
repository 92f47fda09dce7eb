"""wrap(invariant=True): a call's bits do not depend on who shares its batch, nor on when it comes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from invariant_support import bits, differing
from support import HANG, LSTMClassifier, SimpleCNN, build, draw, eager
from torch import Tensor, nn

import torchpool
from torchpool.capture import invariant

pytestmark = pytest.mark.graphs


class Vision(nn.Module):
    """A small ViT: patches by a convolution, attention without a mask."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, 32, 4, 4)
        layer = nn.TransformerEncoderLayer(32, 4, 64, activation="gelu", batch_first=True)
        self.layers = nn.ModuleList([layer, nn.TransformerEncoderLayer(32, 4, 64, norm_first=True, batch_first=True)])
        self.head = nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        found: Tensor = self.head(x.mean(1))
        return found


class Text(nn.Module):
    """An encoder of token numbers with a mask, pooled by its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 32)
        self.qkv, self.out, self.norm = nn.Linear(32, 96), nn.Linear(32, 32), nn.LayerNorm(32)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(ids)
        q, k, v = (part.unflatten(-1, (4, 8)).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
        kept = mask[:, None, None, :].bool()
        x = self.norm(x + self.out(F.scaled_dot_product_attention(q, k, v, kept).transpose(1, 2).flatten(2)))
        weights = mask.unsqueeze(-1).float()
        return F.normalize((x * weights).sum(1) / weights.sum(1), dim=-1)


class Odd(nn.Module):
    """Operators whose rows depend on the batch where they see all of it."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Conv1d(3, 6, 3), nn.GroupNorm(2, 6), nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.silu(self.norm(self.first(x)))
        x = torch.sigmoid(x @ x.transpose(1, 2)).cumsum(-1)
        found: Tensor = self.last(F.softplus(x)).abs().pow(1.7).std(-1)
        return found


def texts(count: int) -> list[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(3)
    found = []
    for number in range(count):
        length = (5, 9, 12)[number % 3]
        mask = torch.ones(1, length, dtype=torch.long)
        if number % 4 == 3:
            mask[:, -2:] = 0
        found.append((torch.randint(0, 50, (1, length), generator=generator), mask))
    return found


def tensors(count: int, *shape: int) -> list[tuple[Tensor, ...]]:
    return [(draw(1, *shape, seed=seed),) for seed in range(count)]


MODELS: dict[str, tuple[type[nn.Module], Callable[[int], list[tuple[Tensor, ...]]]]] = {
    "lstm": (LSTMClassifier, lambda count: tensors(count, 20, 10)),
    "cnn": (SimpleCNN, lambda count: tensors(count, 1, 28, 28)),
    "vision": (Vision, lambda count: tensors(count, 3, 16, 20)),
    "text": (Text, texts),
    "odd": (Odd, lambda count: tensors(count, 3, 11)),
}


def mixed(predict: Any, items: Sequence[tuple[Tensor, ...]], order: Sequence[int], way: int) -> list[Tensor]:
    chosen = [items[number] for number in order]
    if way == 0:
        return list(predict.map(*zip(*chosen, strict=True)))
    if way == 1:
        futures = [predict.submit(*item) for item in chosen]
        return [future.result(HANG) for future in futures]
    with ThreadPoolExecutor(4) as threads:
        return list(threads.map(lambda item: predict(*item), chosen))


@pytest.mark.parametrize("name", sorted(MODELS))
def test_no_bit_differs_between_a_lone_call_and_any_mix(name: str) -> None:
    make, draws = MODELS[name]
    model, items = build(make), draws(24)
    generator = torch.Generator().manual_seed(7)
    alone: list[Tensor] = []
    for workers in (1, 3):
        with closing(torchpool.Runtime(workers)) as runtime:
            predict = torchpool.wrap(model, invariant=True, runtime=runtime)
            alone = alone or [predict(*item).clone() for item in items]
            assert differing([predict(*item) for item in items], alone) == 0
            for number in range(40):
                order = torch.randint(0, len(items), (2 + number % 23,), generator=generator).tolist()
                found = mixed(predict, items, order, number % 3)
                assert differing(found, [alone[index] for index in order]) == 0
            assert predict.explain().served_by == ("graph",), predict.explain()
            assert predict.stats()["batch_rows"]["max"] > 1
    for item, found in zip(items, alone, strict=True):
        torch.testing.assert_close(found, eager(model, *item), rtol=1e-4, atol=1e-5)


def test_rows_of_one_call_have_the_bits_that_they_have_alone() -> None:
    predict = torchpool.wrap(build(Odd), invariant=True)
    x = draw(70, 3, 11)
    assert differing(predict(x).split(1), [predict(row) for row in x.split(1)]) == 0
    assert differing([predict(x.transpose(1, 2).contiguous().transpose(1, 2))], [predict(x)]) == 0


def test_the_first_call_is_served_as_all_others_are() -> None:
    """Also where others come while it is learned from."""
    predict, x = torchpool.wrap(build(SimpleCNN), invariant=True), draw(1, 1, 28, 28)
    found: list[Tensor] = []
    threads = [threading.Thread(target=lambda: found.append(predict(x))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANG)
    found += predict.map([x] * 9)
    assert len(found) == 13
    assert len({tuple(bits(one)) for one in found}) == 1


def test_calls_of_a_new_length_wait_for_their_graph() -> None:
    model = build(LSTMClassifier)
    predict = torchpool.wrap(model, invariant=True)
    short, long = draw(1, 20, 10), draw(1, 33, 10)
    first = [predict(short), predict(long)]
    again = [predict(short), predict(long)]
    merged = list(predict.map([short, long] * 5))
    assert differing(first, again) == 0
    assert differing(merged, first * 5) == 0
    assert predict.explain().served_by == ("graph",)


def test_a_deadline_ends_the_wait_for_a_graph() -> None:
    predict = torchpool.wrap(build(LSTMClassifier), invariant=True)
    x = draw(1, 20, 10)
    with pytest.raises(TimeoutError, match="deadline"):
        predict.options(deadline=1e-3)(x)
    whole = predict(x)
    assert differing([predict.options(deadline=HANG)(x)], [whole]) == 0


def test_changed_weights_are_computed_with_by_the_same_kernels() -> None:
    model = build(lambda: nn.Sequential(nn.Linear(70, 33), nn.GELU(), nn.Linear(33, 9)))
    predict, xs = torchpool.wrap(model, invariant=True), [draw(1, 70, seed=seed) for seed in range(8)]
    predict(xs[0])
    for step in range(6):
        with torch.no_grad():
            for weight in model.parameters():
                weight.mul_(1.1)
        now = [predict(x) for x in xs]
        assert differing(predict.map(xs), now) == 0, step
        fresh = torchpool.wrap(model, invariant=True)
        assert differing([fresh(x) for x in xs], now) == 0, step


def test_weights_that_lie_elsewhere_are_captured_before_the_next_call() -> None:
    model = build(lambda: nn.Sequential(nn.Linear(70, 33), nn.GELU()))
    predict, x = torchpool.wrap(model, invariant=True), draw(1, 70)
    before = predict(x)
    for weight in model.parameters():
        weight.data = weight.data.clone()
    assert differing([predict(x)], [before]) == 0
    assert differing(predict.map([x] * 7), [before] * 7) == 0


class Unlisted(nn.Module):
    """Rows are folded into another dim where an operator rounds as the batch lets it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(6, 8)

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(x).flatten(0, 1)).view(x.shape[0], -1, 8)


def test_what_cannot_keep_its_bits_is_named_and_runs_alone() -> None:
    predict = torchpool.wrap(build(Unlisted), invariant=True)
    xs = [draw(1, 5, 6, seed=seed) for seed in range(6)]
    alone = [predict(x) for x in xs]
    text = str(predict.explain())
    assert "of sigmoid a row's bits may depend on its batch" in text
    assert "folded" in text
    assert "run alone" in text
    assert differing(predict.map(xs), alone) == 0


def test_an_operator_that_is_not_on_the_list_runs_row_by_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def make() -> nn.Module:
        return build(lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh()))

    x = draw(1, 6)
    listed = torchpool.wrap(make(), invariant=True)
    listed(x)
    assert "row by row: nothing" in str(listed.explain())
    monkeypatch.setattr(invariant, "SAME_LANES", invariant.SAME_LANES - {"tanh"})
    predict = torchpool.wrap(make(), invariant=True)
    predict(x)
    assert "row by row: 1 tanh" in str(predict.explain())


def test_one_that_is_listed_and_does_not_keep_bits_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mixes of these tests would tell."""
    monkeypatch.setattr(invariant, "SAME_LANES", invariant.SAME_LANES | {"sigmoid"})
    predict = torchpool.wrap(build(lambda: nn.Sequential(nn.Linear(6, 7), nn.Sigmoid())), invariant=True)
    x = draw(70, 6)
    assert differing(predict(x).split(1), [predict(row) for row in x.split(1)]) > 0


def test_explain_says_which_mode_it_is() -> None:
    model = build(SimpleCNN)
    assert "bits: the same" in str(torchpool.wrap(model, invariant=True).explain())
    assert "invariant=True rules that out" in str(torchpool.wrap(model).explain())


@pytest.mark.parametrize("options", [{"prove": "verify"}, {"prove": "trust"}, {"batch": {"x": 0}}])
def test_it_contradicts_merging_without_a_proof(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="invariant=True contradicts"):
        torchpool.wrap(build(SimpleCNN), invariant=True, **options)
    with pytest.raises(TypeError, match="invariant must be True or False"):
        torchpool.wrap(build(SimpleCNN), invariant="yes")  # type: ignore[arg-type]


def test_without_a_graph_the_module_runs_each_call_on_one_thread() -> None:
    seen: list[int] = []

    class Threads(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(torch.get_num_threads())
            return x + 1

    predict = torchpool.wrap(Threads(), invariant=True, backend="python")
    x = draw(1, 4)
    assert torch.equal(predict(x), x + 1)
    assert torch.equal(predict.submit(x).result(HANG), x + 1)
    assert set(seen) == {1}
    assert "only a graph keeps bits" in str(predict.explain())


def test_accelerate_takes_it() -> None:
    model = build(SimpleCNN).requires_grad_(False)
    torchpool.accelerate(model, invariant=True)
    x = draw(9, 1, 28, 28)
    assert differing(model(x).split(1), [model(row) for row in x.split(1)]) == 0
    torchpool.restore(model)


def test_what_is_saved_keeps_its_bits(tmp_path: Any) -> None:
    model, xs = build(Odd), [draw(1, 3, 11, seed=seed) for seed in range(9)]
    predict = torchpool.wrap(model, invariant=True)
    wanted = [predict(x) for x in xs]
    predict.save(tmp_path / "odd")
    loaded = torchpool.load(tmp_path / "odd", model)
    assert differing(loaded.map(xs), wanted) == 0
    assert "bits: the same" in str(loaded.explain())
