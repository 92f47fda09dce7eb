"""Contracts travel through JSON unchanged, and nonsense is refused with the entry named."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
import pickle
from typing import Any

import pytest
import torch

from torchpool.contract.contract import Check, Contract, InputSpec, OutputSpec, Reason, Trim

IDS = InputSpec("input_ids", torch.int64, "cpu", 0, False, ("batch", "s0"), 0)
MASK = InputSpec("attention_mask", torch.bool, "cpu", 0, False, ("batch", "s0"), False)
TABLE = InputSpec("table", torch.float32, "cpu", None, False, (7, "s1"), None)
LOGITS = OutputSpec("logits", 0, (Trim(1, "s0", 1, -2),), False)
CONTRACT = Contract(
    mode="merge",
    reason=None,
    serial=False,
    inputs=(IDS, MASK, TABLE),
    outputs=(LOGITS, OutputSpec("scale", None, (), False)),
    padded=frozenset({"s0"}),
    aliases=False,
    row_seconds=1.5e-3,
    checks=(Check("merged equals separate", True, "2e-07"),),
)


def through_json(contract: Contract) -> Contract:
    return Contract.from_dict(json.loads(json.dumps(contract.to_dict(), allow_nan=False)))


def test_round_trip() -> None:
    assert through_json(CONTRACT) == CONTRACT
    again = through_json(CONTRACT)
    assert again.inputs[0].dtype is torch.int64 and again.inputs[1].pad is False
    assert again.outputs[0].trims[0].size(9) == 7


@pytest.mark.parametrize("value", [math.inf, -math.inf, -100, 0.5, True])
def test_pad_values_survive(value: float) -> None:
    spec = dataclasses.replace(IDS, pad=value)
    again = through_json(dataclasses.replace(CONTRACT, inputs=(spec, MASK, TABLE))).inputs[0].pad
    assert again == value and type(again) is type(value)


def test_alone_contract_says_whether_it_is_refused() -> None:
    alone = dataclasses.replace(
        CONTRACT,
        mode="alone",
        reason="rows influence each other (0.5)",
        serial=True,
        padded=frozenset(),
        outputs=(),
    )
    assert through_json(alone) == alone and not alone.refused
    assert not dataclasses.replace(alone, code=Reason.CHECK).refused
    assert dataclasses.replace(alone, code=Reason.TRAIN_MODE).refused
    assert not dataclasses.replace(CONTRACT, reason="padding is not used", code=Reason.LENGTHS).refused


@pytest.mark.parametrize("code", [*Reason])
def test_the_reasons_code_survives(code: Reason) -> None:
    contract = dataclasses.replace(CONTRACT, mode="alone", reason="why", padded=frozenset(), outputs=(), code=code)
    assert through_json(contract).code is code


def test_a_contract_that_was_saved_without_a_code_is_read() -> None:
    data = CONTRACT.to_dict()
    del data["code"]
    assert Contract.from_dict(data) == CONTRACT
    data["reason"] = "padding is not used: no pad value was given"
    assert Contract.from_dict(data).code is None


def test_a_pickle_that_was_made_without_a_code_is_read() -> None:
    old = copy.copy(CONTRACT)
    del old.__dict__["code"]
    assert pickle.loads(pickle.dumps(old)) == CONTRACT


def edited(path: str, value: Any) -> dict[str, Any]:
    data: Any = json.loads(json.dumps(CONTRACT.to_dict()))
    spot = data
    *way, last = [int(step) if step.isdigit() else step for step in path.split(".")]
    for step in way:
        spot = spot[step]
    spot[last] = value
    return data  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("version", 99, "version 99"),
        ("mode", "sometimes", "mode"),
        ("surplus", 1, "unknown .'surplus'"),
        ("inputs", "x", "inputs"),
        ("inputs.0.dtype", "float33", "float33"),
        ("inputs.0.dtype", "nn", "no torch dtype"),
        ("inputs.0.pad", "lots", "lots"),
        ("inputs.0.batch_dim", -1, "input_ids"),
        ("inputs.0.batch_dim", 1, "'batch' in sizes"),
        ("inputs.0.sizes", ["batch", -4], "-4"),
        ("inputs.0.sizes", 5, "sizes"),
        ("inputs.0.stacked", True, "input_ids"),
        ("inputs.1.name", "input_ids", "repeat"),
        ("inputs.0", {"name": "x"}, "missing"),
        ("outputs.0.batch_dim", "first", "logits"),
        ("outputs.0.trims.0.symbol", "s9", "s9"),
        ("outputs.0.trims.0.scale", 0, "makes no sense"),
        ("outputs.0.trims.0.dim", 0, "makes no sense"),
        ("padded", ["s7"], "s7"),
        ("serial", 1, "serial"),
        ("serial", True, "serial"),
        ("row_seconds", -1.0, "row_seconds"),
        ("row_seconds", "fast", "row_seconds"),
        ("reason", 5, "reason"),
        ("code", "bad weather", "'code'"),
        ("code", 5, "'code'"),
        ("code", "check", "a code needs a reason"),
        ("checks", [{"name": "x"}], "checks"),
    ],
)
def test_nonsense_is_named(path: str, value: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Contract.from_dict(edited(path, value))


def test_missing_entries_and_other_types() -> None:
    data = CONTRACT.to_dict()
    del data["aliases"]
    with pytest.raises(ValueError, match="aliases"):
        Contract.from_dict(data)
    with pytest.raises(ValueError, match="must be a mapping"):
        Contract.from_dict([1])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="needs an input with a batch dim"):
        dataclasses.replace(CONTRACT, inputs=(TABLE,), outputs=(), padded=frozenset())
    with pytest.raises(ValueError, match="needs a reason"):
        dataclasses.replace(CONTRACT, mode="alone")
    with pytest.raises(ValueError, match="TRAIN_MODE is for mode 'alone'"):
        dataclasses.replace(CONTRACT, reason="why", code=Reason.TRAIN_MODE)
