"""Capturing a module as a graph: right at other sizes, with the module's own weights, or refused with the reason."""

from __future__ import annotations

import dataclasses
import threading
from typing import Any

import pytest
import torch
from programs import Captured, Program, assert_near, assert_proven
from support import LSTMClassifier, SimpleCNN, build, draw, eager
from torch import Tensor, nn
from zoo import pretrained, texts

from torchpool.call import tree
from torchpool.capture.lower import lower
from torchpool.capture.process import capture_elsewhere
from torchpool.capture.program import CaptureError
from torchpool.contract import shape_checks
from torchpool.contract.contract import Contract, InputSpec, OutputSpec
from torchpool.contract.shape_checks import ShapeCheck

BERT = pretrained(
    "BertModel", vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
)
COLLECTING_BERT = pretrained(
    "BertModel",
    vocab_size=50,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    output_hidden_states=True,
)
TEXT_PAD = {"input_ids": 0, "attention_mask": 0}


def sequences(*lengths: int, width: int = 4) -> list[Tensor]:
    return [draw(1, length, width, seed=length) for length in lengths]


def merging(*sizes: int | str) -> Contract:
    """The contract of a model with one input of these sizes, stated instead of proven."""
    spec = InputSpec("x0", torch.float32, "cpu", 0, False, sizes, None)
    output = OutputSpec("output", 0, (), False)
    return Contract("merge", None, False, (spec,), (output,), frozenset(), False, None, ())


def test_lstm_classifier_has_free_rows_and_lengths() -> None:
    captured = Captured(build(LSTMClassifier), *sequences(6, 9, width=10))
    assert assert_proven(captured) == ["1 rows", "5 rows", "lengths {'s0': 9}", "length 1", "length 1"]
    assert captured.graph.specialised == ()
    assert "lstm.input" in lower(captured.graph).text


def test_cnn_has_free_rows() -> None:
    captured = Captured(build(SimpleCNN), draw(1, 1, 28, 28))
    assert assert_proven(captured) == ["1 rows", "5 rows"]
    assert captured.graph.checks == []


def test_text_encoder_takes_lengths_up_to_its_table_of_positions() -> None:
    captured = Captured(build(BERT), *texts((6, 9)), pad=TEXT_PAD)
    assert len(assert_proven(captured)) == 5
    assert ShapeCheck(0, 1, 2, 512) in captured.graph.checks
    sizes = [torch.zeros(3, 6), torch.zeros(3, 7)]
    assert not shape_checks.allows(captured.graph.checks, sizes), "the mask must be as long as the text"


def test_weights_are_the_modules_own_objects() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 4, batch_first=True)
            self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4)
            self.other.weight = self.one.weight
            self.register_buffer("shift", torch.ones(4))
            self.plain = torch.ones(4)
            self.unused = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.other(self.one(self.lstm(x)[0])) + self.shift + self.plain + torch.tensor(2.0)

    model = build(Tied)
    weights = dict(Captured(model, *sequences(6, 9)).graph.weights)
    expected = {f"lstm.{name}" for name in ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0")}
    tied = "one.weight" if "one.weight" in weights else "other.weight"
    expected |= {tied, "one.bias", "other.bias", "shift", "plain"}
    assert {name for name in weights if not name.startswith("<constant ")} == expected
    for name in expected:
        owner, _, last = name.rpartition(".")
        assert weights[name] is getattr(model.get_submodule(owner), last), name


def test_capture_leaves_the_module_as_it_was_and_others_may_call_it() -> None:
    # With outputs that transformers collects in a variable which an export in this process would set for all threads.
    model = build(COLLECTING_BERT)
    captured = Captured(model, *texts((6, 9)), pad=TEXT_PAD)
    call = texts((6,))[0]
    expected = tree.flatten(eager(model, **call))[0]
    before = [(name, id(value)) for part in model.modules() for name, value in vars(part).items()]
    stop, wrong = threading.Event(), []  # type: threading.Event, list[list[Tensor]]

    def serve() -> None:
        while not stop.is_set():
            found = tree.flatten(eager(model, **call))[0]
            if len(found) != len(expected) or not all(map(torch.equal, found, expected)):
                wrong.append(found)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        for _ in range(3):
            capture_elsewhere(captured.source)
    finally:
        stop.set()
        thread.join()
    assert not wrong
    assert [(name, id(value)) for part in model.modules() for name, value in vars(part).items()] == before


def test_length_that_export_freezes_is_pinned_and_named() -> None:
    class Steps(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            total = x[:, 0]
            for step in range(1, x.shape[1]):
                total = total * 0.5 + x[:, step]
            return total

    graph = Captured(Steps().eval(), *sequences(6, 9)).graph
    assert graph.checks == [ShapeCheck(0, 1, 6, 6)]
    assert graph.specialised == ("length dim 1 of x0 was specialised to 6",)


def test_branch_on_a_length_becomes_a_range() -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) if x.shape[1] > 4 else x.sum(1) * 2

    graph = Captured(Branch().eval(), *sequences(6, 9)).graph
    assert graph.checks == [ShapeCheck(0, 1, 5, None)]
    assert not graph.starts_at_two


def test_conditions_of_convolutions_become_ranges() -> None:
    class Sound(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv1d(1, 8, 10, stride=5)
            self.norm = nn.GroupNorm(8, 8)
            self.linear = nn.Linear(8, 8)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(self.conv(x[:, None])).transpose(1, 2)
            return self.linear(y.reshape(-1, 8)).view(y.shape[0], y.shape[1], 8)

    captured = Captured(build(Sound), draw(1, 100), draw(1, 133))
    (found,) = captured.graph.checks
    assert isinstance(found, ShapeCheck) and found.low >= 10 and found.high is None
    assert "lengths {'s0': 133}" in assert_proven(captured)


def test_lengths_beyond_the_range_are_named() -> None:
    class Chunks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return sum(part.sum(1) * place for place, part in enumerate(x.split(4, 1)))  # type: ignore[return-value]

    graph = Captured(Chunks().eval(), *sequences(6, 9)).graph
    assert graph.specialised
    sizes = [draw(1, 9, 4)]
    assert not shape_checks.allows(graph.checks, sizes)


def test_condition_that_no_check_can_say_fixes_the_length() -> None:
    class Odd(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.sum(1) if x.shape[1] % 2 == 0 else x.sum(1) * 2

    captured = Captured(Odd().eval(), *sequences(6, 9))
    assert captured.graph.checks == [ShapeCheck(0, 1, 6, 6)]
    assert "lengths cannot be left free" in captured.graph.specialised[0]
    assert assert_proven(captured) == ["1 rows", "5 rows"]


def test_free_false_captures_the_first_samples_lengths() -> None:
    captured = Captured(build(LSTMClassifier), *sequences(6, 9, width=10), free=False)
    assert captured.graph.checks == [ShapeCheck(0, 1, 6, 6)]
    assert captured.graph.specialised == ()


def test_method_and_arguments_that_are_no_tensors() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)

        def embed(self, x: Tensor, scale: float, parts: dict[str, Any]) -> dict[str, Any]:
            return {"y": self.linear(x) * scale, "rest": (parts["a"] + 1, None)}

    model = build(Model)
    captured = Captured(model.embed, (draw(1, 4), 2.0, {"a": draw(1, 2), "b": "text"}))
    assert_proven(captured)
    assert [name for name, _ in captured.graph.weights] == ["linear.weight", "linear.bias"]


# --- memory that is written to ----------------------------------------------------------------------------------------


def test_scratch_buffer_is_written_to_in_copies() -> None:
    class Scratch(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("scratch", torch.zeros(8, 4), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            part = self.scratch[2:4]
            part.fill_(x.shape[1])
            return x * self.scratch.sum(0)

    contract = merging("batch", 4)
    model = Scratch().eval()
    captured = Captured(model, draw(3, 4), contract=contract)
    program = Program(lower(captured.graph))
    for seed in range(2):
        x = draw(2, 4, seed=seed)
        assert_near(program([x]), [x * 8])
    model.scratch.zero_()
    program([draw(2, 4)])
    assert not model.scratch.any()


def test_input_written_in_place_is_copied() -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.view(-1, 4).add_(1).mul(2)

    contract = merging("batch", 4)
    captured = Captured(Writes().eval(), draw(3, 4), contract=contract)
    x = draw(2, 4)
    kept = x.clone()
    assert_near(Program(lower(captured.graph))([x]), [(x + 1) * 2])
    assert torch.equal(x, kept)


def test_constant_that_a_batch_writes_to_is_made_anew() -> None:
    class Table(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            table = torch.zeros(4)
            fixed = torch.arange(4.0)
            fixed[1] = 7  # by constants only: computed once
            early = table + 1
            table[0] = x.shape[1]
            return x * table + early + fixed

    captured = Captured(Table().eval(), draw(1, 4))
    lowered = lower(captured.graph)
    program = Program(lowered)
    for _ in range(2):
        assert_near(program([draw(2, 4)]), captured.eager([draw(2, 4)]))
    assert any(one.op == "aten::arange" for one in lowered.prologue)


# --- another type -----------------------------------------------------------------------------------------------------


def test_bfloat16_keeps_the_types_of_the_call_and_the_live_weights() -> None:
    model = build(BERT)
    captured = Captured(model, *texts((6, 9)), pad=TEXT_PAD, dtype=torch.bfloat16)
    assert {tensor.dtype for _, tensor in captured.graph.weights} <= {torch.float32, torch.int64}
    assert dict(captured.graph.weights)["pooler.dense.weight"] is model.pooler.dense.weight
    assert_proven(captured, bound=5e-2)
    lowered = lower(captured.graph)
    assert not [one for one in lowered.body if torch.bfloat16 in one.args], "weights are converted once, ids never"


def test_bfloat16_leaves_tables_that_are_not_saved() -> None:
    class Rotary(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)
            self.register_buffer("frequencies", torch.tensor([1.0, 0.1, 0.01, 0.001]), persistent=False)

        def forward(self, x: Tensor) -> Tensor:
            angles = torch.arange(x.shape[1])[:, None] * self.frequencies
            return self.linear(x) * angles.cos().to(x.dtype)

    captured = Captured(build(Rotary), *sequences(300, 400), dtype=torch.bfloat16)
    assert_proven(captured, bound=2e-2)


# --- refused ----------------------------------------------------------------------------------------------------------


def _refused(model: Any, *examples: Any, **options: Any) -> str:
    with pytest.raises(CaptureError) as error:
        Captured(model, *examples, **options)
    return str(error.value)


def test_branch_on_values_is_refused(capfd: pytest.CaptureFixture[str]) -> None:
    class Branch(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.abs().sum() >= 0 else x

    assert "depends on values" in _refused(Branch().eval(), draw(1, 4))
    assert "def forward" not in capfd.readouterr().err


def test_operator_of_python_is_refused_by_name() -> None:
    @torch.library.custom_op("torchpool_tests::double", mutates_args=())
    def double(x: Tensor) -> Tensor:
        return x * 2

    double.register_fake(torch.empty_like)

    class Model(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return double(x)

    assert "torchpool_tests.double.default" in _refused(Model().eval(), draw(1, 4))


def test_number_that_depends_on_rows_is_refused() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"y": x * 2, "rows": x.shape[0]}

    contract = merging("batch", "s0", 4)
    assert "more than tensors" in _refused(Model().eval(), *sequences(6, 9), contract=contract)


def test_number_that_depends_on_lengths_is_captured_at_one_length() -> None:
    class Model(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return {"y": x * 2, "length": x.shape[1]}

    graph = Captured(Model().eval(), *sequences(6, 9), contract=merging("batch", "s0", 4)).graph
    assert ShapeCheck(0, 1, 6, 6) in graph.checks
    assert "lengths cannot be left free: the result holds more than tensors" in graph.specialised[0]


def test_what_is_no_module_in_eval_mode_is_refused() -> None:
    contract = merging("batch", 4)
    dropping = build(lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout())).train()
    assert "train mode" in _refused(dropping, draw(1, 4), contract=contract)
    serial = dataclasses.replace(contract, mode="alone", reason="model is stateful", serial=True)
    assert "model is stateful" in _refused(build(lambda: nn.Linear(4, 4)), draw(1, 4), contract=serial)


def test_module_that_cannot_be_copied_is_refused() -> None:
    model = build(lambda: nn.Linear(4, 4))
    model.lock = threading.Lock()  # type: ignore[assignment]
    assert "cannot be copied" in _refused(model, draw(1, 4))
