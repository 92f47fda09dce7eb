"""Lifting: models whose rows meet give each call of a batch what it gets alone, or are refused with the operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import rows_traps
import rows_traps_odd  # noqa: F401  # enters its models
import rows_traps_places  # noqa: F401
import rows_traps_values  # noqa: F401
import torch
from benchmarks.lifting import Experts
from support import build, draw
from torch import Tensor, nn

from torchpool import _core
from torchpool.call import tree
from torchpool.capture.comparison import Tolerance, compare_calls
from torchpool.capture.program import CaptureError, Programs
from torchpool.capture.programs import programs_of
from torchpool.capture.source import Source
from torchpool.contract import Leaves, joined, part_of
from torchpool.contract.contract import Contract, InputSpec, OutputSpec
from torchpool.predictor.building import proven_contract

Forward = Callable[[Any, Tensor], Any]


class Model(nn.Module):
    """Some parts, and a forward of the test's own."""

    def __init__(self, forward: Forward) -> None:
        super().__init__()
        self.one, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.norm = nn.LayerNorm(8)
        self.lstm = nn.LSTM(8, 8)
        self.register_buffer("shift", torch.linspace(-1, 1, 8))
        self.table = torch.linspace(1, 2, 8)
        self._forward = forward

    def forward(self, x: Tensor) -> Any:
        return self._forward(self, x)


def candidate(
    call: Sequence[Tensor], outputs: int, rows: int | None, *, stacked: bool = False, free: tuple[int, ...] = ()
) -> Contract:
    """The contract of calls like this one, whose rows are in dim 0 and whose dims `free` vary."""
    inputs = []
    for number, leaf in enumerate(call):
        sizes = tuple(
            "batch" if dim == 0 and not stacked else f"s{dim}" if dim in free else size
            for dim, size in enumerate(leaf.shape)
        )
        inputs.append(InputSpec(f"x{number}", leaf.dtype, "cpu", 0, stacked, sizes, None))
    names = tuple(OutputSpec(f"output{number}", None, (), False) for number in range(outputs))
    return Contract("merge", None, False, tuple(inputs), names, frozenset(), False, None, (), call_rows=rows)


class Lifted:
    """A model's lifted programs, and calls of it."""

    def __init__(
        self,
        model: nn.Module,
        *call: Tensor,
        rows: int | None = None,
        more: Sequence[Leaves] = (),
        stacked: bool = False,
        free: tuple[int, ...] = (),
        dtype: torch.dtype | None = None,
    ) -> None:
        self.model, self.call = model.eval(), list(call)
        stated = candidate(call, len(self.alone(self.call)), rows, stacked=stacked, free=free)
        samples = [self.call, *more]
        own = 1 if stacked else call[0].shape[0]
        source = Source.of(model, model, (call, {}), samples, stated, dtype, proof_needed=True, rows=own)
        self.programs: Programs = programs_of(source)
        self.contract = proven_contract(stated, self.programs.rows, "rows influence each other")
        bound = self.programs.bound(model)
        self.backend = _core.GraphBackend(bound.packed, bound.plain)

    @property
    def text(self) -> str:
        return self.programs.rows.verdict.text

    def alone(self, call: Leaves) -> Leaves:
        with torch.no_grad():
            return tree.flatten(self.model(*(leaf.clone() for leaf in call)))[0]

    def together(self, calls: Sequence[Leaves], *, plain: bool = True) -> list[Leaves]:
        """What each call gets of a batch of them."""
        found = self.backend.run(joined(calls, self.contract), plain=plain)
        pairs = list(zip(found, self.contract.outputs, strict=True))
        return [[part_of(one, spec, number, len(calls)) for one, spec in pairs] for number in range(len(calls))]

    def compared(self, dtype: torch.dtype | None) -> str | None:
        """What is wrong with calls of a batch, as it is found out before a graph serves."""
        checks = self.programs.plain.checks
        return compare_calls(self.backend, self.alone, [self.call], self.contract, checks, Tolerance.of(dtype, None))[1]

    def assert_as_alone(self, most: int = 7) -> None:
        """Batches of 1 to 7 calls of ordinary and of odd values give each call what it gets alone."""
        calls = [self._odd(number) for number in range(most)]
        expected = [self.alone(call) for call in calls]
        for count in range(1, most + 1):
            for plain in (True, False):
                for number, got in enumerate(self.together(calls[:count], plain=plain)):
                    for one, other in zip(got, expected[number], strict=True):
                        assert_same(one, other, f"call {number} of {count}")

    def _odd(self, number: int) -> Leaves:
        """Calls of very different sizes, one of zeros, one with a row of zeros."""
        generator = torch.Generator().manual_seed(number)
        call = []
        for leaf in self.call:
            if leaf.is_floating_point():
                leaf = torch.randn(leaf.shape, generator=generator) * (1.0, 1e3, 1e-3, 0.0, 1e2, 30.0, 1e-1)[number % 7]
                if number == 5:
                    leaf[0] = 0
            else:
                leaf = torch.randint(int(leaf.max()) + 1, leaf.shape, generator=generator)
            call.append(leaf)
        return call


def assert_same(got: Tensor, expected: Tensor, label: str) -> None:
    assert (got.shape, got.dtype) == (expected.shape, expected.dtype), label
    if not got.is_floating_point():
        assert torch.equal(got, expected), label
        return
    finite = expected[expected.isfinite()].abs()
    bound = 1e-5 * (float(finite.max()) if finite.numel() else 1.0)
    torch.testing.assert_close(got, expected, rtol=0, atol=bound, equal_nan=True, msg=lambda text: f"{label}: {text}")


class Quantised(nn.Module):
    """Activations rounded to int8 steps of the whole tensor's range."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(100, 16), nn.Linear(16, 8)

    def forward(self, ids: Tensor) -> Tensor:
        h = self.embedding(ids).mean(1)
        step = h.abs().max() / 127
        return self.head((h / step).round() * step)


class Scaled(nn.Linear):
    """A linear layer on an input that is brought to the range of the whole tensor."""

    def forward(self, x: Tensor) -> Tensor:
        scale = x.abs().amax() + 1e-6
        return super().forward(x / scale) * scale


class Block(nn.Module):
    """One layer of a text encoder, with a scale in front of each of its linear layers."""

    def __init__(self, width: int = 16, heads: int = 2) -> None:
        super().__init__()
        self.query, self.key, self.value, self.out = (Scaled(width, width) for _ in range(4))
        self.up, self.down = Scaled(width, 2 * width), Scaled(2 * width, width)
        self.first, self.last = nn.LayerNorm(width), nn.LayerNorm(width)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape

        def split(y: Tensor) -> Tensor:
            return y.view(rows, length, self.heads, -1).transpose(1, 2)

        attended = nn.functional.scaled_dot_product_attention(
            split(self.query(x)), split(self.key(x)), split(self.value(x))
        )
        x = self.first(x + self.out(attended.transpose(1, 2).reshape(rows, length, width)))
        return self.last(x + self.down(nn.functional.gelu(self.up(x))))


MIXING: dict[str, Forward] = {
    "softmax over the rows": lambda own, x: own.one(x).softmax(0),
    "max over all": lambda own, x: own.one(x / x.abs().max().clamp_min(1e-6)),
    "less the mean": lambda own, x: own.one(x - x.mean(0)),
    "each with each": lambda own, x: x @ x.T,
    "a part with each": lambda own, x: (own.one(x) @ x.T).softmax(-1) @ own.other(x),
    "total": lambda own, x: x.sum(),
    "the number of rows": lambda own, x: own.one(x) / x.shape[0],
    "the number of rows as a value": lambda own, x: x + torch.full((8,), x.shape[0]),
    "numbers of rows": lambda own, x: x * torch.arange(x.shape[0])[:, None] + x.amax(),
    "numbers of rows, turned": lambda own, x: x + torch.arange(x.shape[0]).flip(0)[:, None].expand_as(x),
    "a unit matrix": lambda own, x: torch.eye(x.shape[0]) @ own.one(x),
    "two places": lambda own, x: (own.other((own.one(x - x.amax(0)) * 2).relu()) / (x.std() + 1)).softmax(0) + x,
    "sorted": lambda own, x: own.one(x.sort(0)[0]),
    "largest rows": lambda own, x: x.topk(1, 0)[0] + own.shift * own.table,
    "running total": lambda own, x: x.cumsum(0),
    "several results": lambda own, x: (x - x.mean(), x.max(0)[0], x.argmax(), own.one(x)),
    "written in place": lambda own, x: (own.one(x) * x.max()).mul_(x.amin()).relu_(),
    "of integers, in place": lambda own, x: (x.argmax(0) + 1).add_(x.argmin(0).sum()),
    "transposed": lambda own, x: (own.one(x).T / (x.amax() + 100)).reshape(8, -1),
    "its own norm": lambda own, x: own.norm(x - x.mean(0)),
}


CALLS = [
    pytest.param(name, rows, marks=[] if rows == 4 or place % 5 == 0 else [pytest.mark.exhaustive])
    for place, name in enumerate(MIXING)
    for rows in (1, 4)
]


@pytest.mark.parametrize(("name", "rows"), CALLS)
def test_each_call_of_a_batch_gets_what_it_gets_alone(name: str, rows: int) -> None:
    lifted = Lifted(build(lambda: Model(MIXING[name])), draw(rows, 8), rows=rows)
    verdict = lifted.programs.rows.verdict
    assert verdict.kind == "lifted" and verdict.lifted >= 1
    assert f"; lifted: {verdict.lifted} of {verdict.ops} ops run per call" in lifted.text
    assert lifted.contract.call_rows == rows
    lifted.assert_as_alone()


def test_one_scale_for_all_activations() -> None:
    ids = (draw(1, 6).abs() * 30).long()
    lifted = Lifted(build(Quantised), ids, rows=1)
    assert "rows meet: max over the rows" in lifted.text
    assert "`step = h.abs().max() / 127`; lifted: 4 of" in lifted.text
    lifted.assert_as_alone()


def test_experts_with_a_capacity() -> None:
    lifted = Lifted(build(Experts), draw(1, 12, 16), rows=1)
    assert "cumsum" in lifted.text
    lifted.assert_as_alone()


def test_a_text_encoders_layer_with_scales() -> None:
    lifted = Lifted(build(Block), draw(1, 6, 16), rows=1, free=(1,), more=[[draw(1, 9, 16)]])
    assert lifted.programs.specialised == ()
    lifted.assert_as_alone()
    longer = [[draw(1, 11, 16, seed=seed)] for seed in range(3)]
    for call, got in zip(longer, lifted.together(longer), strict=True):
        assert_same(got[0], lifted.alone(call)[0], "a longer call")


def test_only_what_mixes_is_written_anew() -> None:
    lifted = Lifted(build(lambda: Model(MIXING["max over all"])), draw(1, 8), rows=1)
    assert "linear" in lifted.programs.plain.listing
    assert set(lifted.programs.plain.weight_names) == {"one.weight", "one.bias"}
    assert all(weight is None for weight in lifted.programs.plain.weights), "the module's own tensors"


def test_weights_that_change_count() -> None:
    model = build(lambda: Model(MIXING["less the mean"]))
    lifted = Lifted(model, draw(4, 8), rows=4)
    with torch.no_grad():
        model.one.weight.mul_(2)
    calls = [[draw(4, 8, seed=seed)] for seed in range(3)]
    for call, got in zip(calls, lifted.together(calls), strict=True):
        assert_same(got[0], lifted.alone(call)[0], "after a change")


def test_the_unit_is_the_samples_call_where_none_is_stated() -> None:
    lifted = Lifted(build(lambda: Model(MIXING["less the mean"])), draw(4, 8))
    assert lifted.programs.rows.call_rows == 4
    lifted.assert_as_alone()


def test_calls_without_a_dim_for_rows() -> None:
    lifted = Lifted(build(lambda: Model(lambda own, x: x.sum())), draw(8), rows=1, stacked=True)
    (output,) = lifted.contract.outputs
    assert output.stacked and output.batch_dim == 0
    lifted.assert_as_alone()


def test_two_inputs_of_several_rows() -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return (x * y).sum(0) + (x - y.mean())

    lifted = Lifted(build(Two), draw(3, 8), draw(3, 1, seed=1), rows=3)
    lifted.assert_as_alone()


def test_another_type_to_compute_in() -> None:
    model = build(lambda: Model(MIXING["less the mean"]))
    lifted = Lifted(model, draw(4, 8), rows=4, dtype=torch.bfloat16)
    wrong = lifted.compared(torch.bfloat16)
    assert wrong is None


def test_folded_outputs_are_split_by_calls() -> None:
    def time_major(own: Any, x: Tensor) -> Tensor:
        return own.one(x / (x.abs().max() + 1)).transpose(0, 1).reshape(-1, 8)

    lifted = Lifted(build(lambda: Model(time_major)), draw(1, 5, 8), rows=1)
    (output,) = lifted.contract.outputs
    assert (output.outer, output.inner, output.batch_dim) == (5, 1, 0)
    lifted.assert_as_alone()


def _shared(own: Any, x: Tensor) -> Tensor:
    y = own.one(x) / x.max()
    part = y[:, :4]
    y += 1
    return part * 2


def _column(own: Any, x: Tensor) -> Tensor:
    y = own.one(x)
    y[:, 0] = x.max()
    return y


REFUSED: dict[str, tuple[Forward, str]] = {
    "lstm over the rows": (lambda own, x: own.lstm(x)[0], "aten.lstm.input has no rule for vmap"),
    "unique": (
        lambda own, x: x / torch.unique(x.round()).sum(),
        "entries aten._unique2.default gives depends on values",
    ),
    "mask": (lambda own, x: x + x[x > 0].sum(), "how many entries aten.index.Tensor gives depends on values"),
    "nonzero": (lambda own, x: x + x.nonzero().sum(), "entries aten.nonzero.default gives depends on values"),
    "number from a value": (lambda own, x: x * x.max().item(), "aten.mul.Tensor is given a number that is read from"),
    "memory that others share": (_shared, "writes in place to memory that aten.div.Tensor shares"),
    "a column": (_column, "writes in place to memory"),
    "fixed by vmap": (
        lambda own, x: nn.functional.conv1d(x[:, None], x[:, None, :3].mean(0, keepdim=True)),
        "vmap over aten.conv1d.default fixes the number of calls",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_lifted_is_named(name: str) -> None:
    forward, why = REFUSED[name]
    with pytest.raises(CaptureError, match=r"rows (may )?meet: ") as refused:
        Lifted(build(lambda: Model(forward)), draw(4, 8), rows=4)
    assert "; not lifted: " in str(refused.value) and why in str(refused.value)
    assert refused.value.rows is not None and not refused.value.rows.allows
    assert refused.value.rows.text == str(refused.value)


@pytest.mark.usefixtures("seeded")
def test_random_numbers_are_not_lifted() -> None:
    model = Model(lambda own, x: x * torch.rand_like(x) / x.max())
    with pytest.raises(CaptureError, match="draws random numbers: rand_like"):
        Lifted(model, draw(4, 8), rows=4)


def test_a_model_that_tells_one_row_from_several_is_found_out_by_numbers() -> None:
    def other_for_one(own: Any, x: Tensor) -> Tensor:
        return own.one(x) if x.shape[0] == 1 else own.other(x) - x.mean(0)

    lifted = Lifted(build(lambda: Model(other_for_one)), draw(1, 8), rows=1)
    assert str(lifted.compared(None)).startswith("call 0 of 1")


def test_vmaps_own_settings_are_as_before() -> None:
    enabled: Any = torch._C._functorch._is_vmap_fallback_enabled
    before = enabled()
    Lifted(build(lambda: Model(MIXING["total"])), draw(1, 8), rows=1)
    assert enabled() == before


@pytest.mark.exhaustive
@pytest.mark.parametrize("trap", [trap for trap in rows_traps.TRAPS if trap.leak], ids=lambda trap: trap.name)
@pytest.mark.usefixtures("seeded")
def test_what_was_written_to_fool_the_proof_is_lifted_rightly_or_not_at_all(trap: rows_traps.Trap) -> None:
    model = trap.build()
    try:
        model(*trap.calls(0))
        lifted = Lifted(model, *trap.calls(0), rows=1)
    except (RuntimeError, IndexError, ValueError, CaptureError):
        return  # it takes no calls of one row, or cannot be lifted
    for batch in trap.batches():
        calls = [list(call) for call in batch]
        for call, got in zip(calls, lifted.together(calls), strict=True):
            for one, other in zip(got, lifted.alone(call), strict=True):
                assert_same(one, other, trap.name)
