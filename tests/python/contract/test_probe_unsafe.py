"""Models that must not be batched: each planted leak, state or randomness is found and explained."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from torchpool.contract.contract import Contract
from torchpool.contract.probe import probe
from torchpool.contract.probe import run as probe_run
from torchpool.contract.probe.generators import alone

Forward = Callable[["Planted", torch.Tensor], Any]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


class Planted(nn.Module):
    """A linear layer with a fault of its own."""

    count: torch.Tensor
    history: list[int]
    cache: torch.Tensor | None

    def __init__(self, fault: Forward) -> None:
        super().__init__()
        self.fault, self.lin = fault, nn.Linear(10, 3)
        self.history, self.cache, self.scratch = [], None, torch.zeros(1, 3)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.fault(self, x)


def find(model: Callable[..., Any], *calls: Sequence[torch.Tensor], **options: Any) -> Contract:
    module = model if isinstance(model, nn.Module) else None
    names = [f"x{i}" for i in range(len(calls[0]))]
    contract = probe(lambda leaves: model(*leaves), calls, names, module=module, **options)
    assert Contract.from_dict(contract.to_dict()) == contract
    return contract


def expect_alone(contract: Contract, words: str, *, serial: bool = False, refused: bool = False) -> None:
    """Alone, with these words and a number in the reason, and the failed check on record."""
    assert contract.mode == "alone" and contract.reason is not None, contract
    assert re.search(words, contract.reason), contract.reason
    assert re.search(r"\d|inf", contract.reason), contract.reason
    assert (contract.serial, contract.refused) == (serial, refused), contract.reason
    failed = [check for check in contract.checks if not check.passed]
    assert len(failed) == 1 and failed[0].detail, contract.checks


def one_row() -> list[torch.Tensor]:
    return [torch.randn(1, 10)]


LEAKS: dict[str, Forward] = {
    "mean over everything": lambda m, x: m.lin(x - x.mean()),
    "mean over the batch": lambda m, x: m.lin(x - x.mean(0)),
    "softmax over the batch": lambda m, x: m.lin(x).softmax(0),
    "largest value": lambda m, x: m.lin(x / x.max()),
    "running sum": lambda m, x: m.lin(x).cumsum(0),
    "sorted rows": lambda m, x: x[m.lin(x)[:, 0].argsort()],
    "top row": lambda m, x: m.lin(x).topk(1, dim=0).values,
    "tiny sum": lambda m, x: m.lin(x) + 1e-7 * x.sum(),
    "branch on the sum": lambda m, x: m.lin(x) if x.sum() > 0 else -m.lin(x),
    "NaN times zero": lambda m, x: m.lin(x) + 0 * x.sum(),
    "mean as an extra output": lambda m, x: (m.lin(x), x.mean()),
}


@pytest.mark.parametrize("name", LEAKS)
def test_rows_that_influence_each_other(name: str) -> None:
    expect_alone(find(Planted(LEAKS[name]), one_row()), r"^rows influence each other \(output '\w+' ")


@pytest.mark.parametrize("name", ["mean over the batch", "softmax over the batch", "running sum"])
def test_leaks_within_a_sample_of_several_rows(name: str) -> None:
    expect_alone(find(Planted(LEAKS[name]), [torch.randn(4, 10)]), r"^rows influence each other")


def test_leak_in_calls_without_batch_dim() -> None:
    expect_alone(find(Planted(LEAKS["largest value"]), [torch.randn(10)]), r"^rows influence each other")


@pytest.mark.filterwarnings("ignore")  # torch announces that its quantization moves
def test_dynamic_int8_linear() -> None:
    model = torch.ao.quantization.quantize_dynamic(nn.Sequential(nn.Linear(10, 3)), {nn.Linear}, torch.qint8)
    expect_alone(find(model.eval(), one_row()), r"^rows influence each other")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda m, x: m.lin(x) * 2 if len(x) == 1 else m.lin(x), "depends on the batch size .* 2 rows"),
        (lambda m, x: m.lin(x) * 2 if len(x) > 3 else m.lin(x), "depends on the batch size .* 5 rows"),
        (lambda m, x: m.lin(x).argsort(0), "output 'output' depends on the batch size"),
        (lambda m, x: m.lin(x).squeeze(0), "rank of output 'output' depends on batch size .1 at 1, 2 at 2"),
        (lambda m, x: x @ x.T, "two axes scale with batch: dims 0 and 1 of output 'output'"),
        (lambda m, x: m.lin(torch.cat([x, x[:1]])), "not have one entry a row: shape .2, 3. for 1, .3, 3. for 2"),
    ],
)
def test_results_that_depend_on_the_batch_size(fault: Forward, words: str) -> None:
    expect_alone(find(Planted(fault), one_row()), words)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (lambda m, x: float(m.lin(x).sum()), "0 tensors .output 'output' is a float"),
        (lambda m, x: "positive", "output 'output' is a str"),
        (lambda m, x: ["cat", "dog"], "output '0' is a str"),
        (lambda m, x: m.lin(x).numpy(), "output 'output' is a ndarray, no tensor"),
        (lambda m, x: (m.lin(x), x.mean().item()), "output '1' is a float, no tensor, and differs"),
        (lambda m, x: (m.lin(x), len(x)), "output '1' is a int, no tensor, and changes .* 1 to 2"),
        (lambda m, x: [m.lin(row) for row in x], "structure of the output changes with a batch of 2"),
        (lambda m, x: None, "output 'output' is a NoneType"),
    ],
)
def test_outputs_that_cannot_be_split(fault: Forward, words: str) -> None:
    expect_alone(find(Planted(fault), one_row()), words)


def count_up(model: Planted, x: torch.Tensor) -> torch.Tensor:
    model.count += 1
    return model.lin(x)


def rebind_count(model: Planted, x: torch.Tensor) -> torch.Tensor:
    model.count = model.count + 1
    return model.lin(x)


def remember(model: Planted, x: torch.Tensor) -> torch.Tensor:
    model.history.append(1)
    return model.lin(x) * len(model.history)


def subtract_previous(model: Planted, x: torch.Tensor) -> torch.Tensor:
    previous, model.cache = model.cache, x
    return model.lin(x if previous is None else x - previous)


def scale_by_first(model: Planted, x: torch.Tensor) -> torch.Tensor:
    if model.cache is None:
        model.cache = x.mean()
    return model.lin(x) * model.cache


def reuse_result(model: Planted, x: torch.Tensor) -> torch.Tensor:
    if len(model.scratch) != len(x):
        model.scratch = torch.zeros(len(x), 3)
    return model.scratch.copy_(model.lin(x))


def change_weight(model: Planted, x: torch.Tensor) -> torch.Tensor:
    model.lin.weight.mul_(0.5)
    return model.lin(x)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (count_up, "model is stateful: buffer count changed by 1"),
        (rebind_count, "model is stateful: buffer count changed by 1"),
        (remember, "stateful .*attribute 'history' changed.*differs by"),
        (subtract_previous, "stateful .*attribute 'cache' changed"),
        (scale_by_first, "stateful .attribute 'cache' changed.*depends on earlier calls"),
        (reuse_result, "stateful: it writes over its earlier results"),
        (change_weight, "stateful: parameter lin.weight changed"),
    ],
)
def test_state_makes_calls_serial_and_is_put_back(fault: Forward, words: str) -> None:
    model = Planted(fault)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    expect_alone(find(model, one_row()), words, serial=True)
    assert model.history == [] and model.cache is None
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert not model.scratch.any() and model.scratch.shape == (1, 3)


def test_harmless_caches_do_not_prevent_merging() -> None:
    def sized(model: Planted, x: torch.Tensor) -> torch.Tensor:
        model.cache = torch.ones(x.shape[1]) if model.cache is None else model.cache
        return model.lin(x * model.cache)

    assert find(Planted(sized), one_row()).mode == "merge"


DRAWS: dict[str, Callable[[], Any]] = {
    "torch": lambda: torch.randn(3),
    "torch, of no consequence": lambda: 0 * torch.rand(3),
    "an own generator": lambda: torch.randn(3, generator=torch.Generator().manual_seed(3)),
    "dropout": lambda: F.dropout(torch.ones(3), 0.5),
    "attention": lambda: F.scaled_dot_product_attention(
        torch.ones(1, 2, 3), torch.ones(1, 2, 3), torch.ones(1, 2, 3), dropout_p=0.5
    )[0, 0],
    "Python": random.random,
    "numpy": lambda: float(numpy.random.rand()),
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS.keys())
def test_random_numbers_are_seen_and_not_used_up(draw: Callable[[], Any]) -> None:
    model, sample = Planted(lambda m, x: m.lin(x) + draw()), one_row()
    before = torch.get_rng_state(), random.getstate(), numpy.random.get_state()[1:3]
    expect_alone(find(model, sample), "draws random numbers .*run", serial=True)
    assert torch.equal(before[0], torch.get_rng_state())
    if alone():
        assert before[1] == random.getstate() and str(before[2]) == str(numpy.random.get_state()[1:3])


def test_what_could_draw_and_does_not_merges() -> None:
    def quiet(model: Planted, x: torch.Tensor) -> torch.Tensor:
        x = F.rrelu(F.dropout(x, 0.5, training=False), training=False)
        heads = x[:, None, :]
        return model.lin(F.scaled_dot_product_attention(heads, heads, heads)[:, 0])

    assert find(Planted(quiet), one_row()).mode == "merge"


@pytest.mark.parametrize(
    ("model", "rows", "words"),
    [
        (nn.Sequential(nn.Linear(10, 3), nn.Dropout(0.5)), 1, "draws random numbers"),
        (nn.Sequential(nn.Linear(10, 3), nn.BatchNorm1d(3)), 4, "buffer 1.num_batches_tracked counts each call"),
        (nn.BatchNorm1d(10, track_running_stats=False), 4, r"rows?\b"),
    ],
)
def test_train_mode_is_refused(model: nn.Module, rows: int, words: str) -> None:
    contract = find(model.train(), [torch.randn(rows, 10)])
    expect_alone(contract, f"^model is in train mode .*{words}", serial=contract.serial, refused=True)


def test_train_mode_without_consequence_merges() -> None:
    assert find(nn.Linear(10, 3).train(), one_row()).mode == "merge"


def test_inputs_changed_in_place() -> None:
    sample = one_row()
    kept = sample[0].clone()
    expect_alone(find(Planted(lambda m, x: m.lin(x.mul_(2))), sample), "input 'x0' is changed in place")
    assert torch.equal(sample[0], kept)


def one_row_only(model: Planted, x: torch.Tensor) -> torch.Tensor:
    if len(x) > 1:
        raise RuntimeError("one row only")
    return model.lin(x)


def test_model_that_raises_for_batches() -> None:
    expect_alone(find(Planted(one_row_only), one_row()), "raises for a batch of 2 .RuntimeError: one row only")


def test_error_on_the_sample_comes_out() -> None:
    with pytest.raises(RuntimeError, match="one row only"):
        find(Planted(one_row_only), [torch.randn(2, 10)])
    with pytest.raises(RuntimeError, match="shapes"):
        find(nn.Linear(10, 3), one_row(), [torch.randn(1, 9)])


def test_leak_at_another_length_only() -> None:
    def long_leak(x: torch.Tensor) -> torch.Tensor:
        return x - x.mean(0) if x.shape[1] > 8 else x * 2

    assert find(long_leak, [torch.randn(1, 5)], [torch.randn(1, 7)]).mode == "merge"
    expect_alone(find(long_leak, [torch.randn(1, 5)], [torch.randn(1, 12)]), "rows influence each other .*at s0=12")


def test_whole_samples_are_compared_with_their_rows() -> None:
    def many_leak(x: torch.Tensor) -> torch.Tensor:
        return x * 2 if len(x) <= 8 else x * 3

    assert find(many_leak, [torch.randn(3, 4)], [torch.randn(7, 4)]).inputs[0].sizes == ("batch", 4)
    lengths_only = find(many_leak, [torch.randn(3, 4)], [torch.randn(12, 4)])
    assert lengths_only.mode == "alone" or lengths_only.inputs[0].sizes == ("s0", "batch")


def test_rows_that_cannot_be_varied_prove_nothing() -> None:
    expect_alone(find(nn.Embedding(10, 4).eval(), [torch.tensor([[0]])]), "could not be varied")
    several = find(nn.Embedding(10, 4).eval(), [torch.tensor([[0]])], [torch.tensor([[3]])])
    assert several.mode == "merge"


def test_limits() -> None:
    expect_alone(find(nn.Linear(10, 3), one_row(), max_seconds=0.0), "probing did not end within 0 s")
    expect_alone(find(nn.Linear(10, 3), one_row(), max_bytes=10), "bytes of tensors, max_bytes is 10")


def test_time_is_taken_from_optional_checks_first(monkeypatch: pytest.MonkeyPatch) -> None:
    def at_pace(seconds: float) -> Contract:
        ticks = (tick * seconds for tick in itertools.count())
        monkeypatch.setattr(probe_run.time, "perf_counter", lambda: next(ticks))
        return find(nn.Conv1d(3, 4, 3).eval(), [torch.randn(1, 3, 20)], pad={"x0": 0.0})

    assert at_pace(0.001).padded == {"s0"}
    unpadded = at_pace(0.2)
    assert unpadded.mode == "merge" and not unpadded.padded and "did not end within 20 s" in (unpadded.reason or "")
    assert any(check.name == "other rows changed" and check.passed for check in unpadded.checks)
    expect_alone(at_pace(2.0), "probing did not end within 20 s")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"batch": {"x0": 1}}, "model raises for one row of the sample"),
        ({"batch": {"x0": 5}}, "the input has 2 dims"),
        ({"batch": {"y": 0}}, r"no input or output.*'y'.*inputs: \['x0'\], outputs: \['output'\]"),
        ({"batch": {"output": 1}}, "dim 1 of output 'output' was stated as batch"),
        ({"pad": {"y": 0}}, r"pad= names no input.*'y'.*\['x0'\]"),
    ],
)
def test_statements_that_are_wrong(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        find(nn.Linear(10, 3).eval(), [torch.randn(4, 10)], **options)


def test_stated_batch_does_not_overrule_the_proof() -> None:
    with pytest.raises(ValueError, match=r"'merged equals separate'.*rows influence each other .*changes by \d"):
        find(Planted(LEAKS["mean over the batch"]), one_row(), batch={"x0": 0})


def test_samples_must_match() -> None:
    with pytest.raises(ValueError, match=r"input 'x0' of call 1: torch\.float64"):
        find(nn.Linear(10, 3), one_row(), [torch.randn(1, 10).double()])
    with pytest.raises(ValueError, match="has 1 tensors, names has 2"):
        probe(lambda leaves: leaves[0], [one_row()], ["x", "y"])
    with pytest.raises(ValueError, match="at least one sample"):
        probe(lambda leaves: leaves[0], [], ["x"])
