"""torchpool.rows.rule: rules of operators that a user's library registers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from rows_sketch import Sketch

import torchpool
from torchpool.contract.rows import registry
from torchpool.contract.rows.domain import All, Rows


@pytest.fixture(autouse=True)
def _forgets_rules() -> Iterator[None]:
    before = dict(registry._RULES)
    yield
    registry._RULES.clear()
    registry._RULES.update(before)


@torch.library.custom_op("torchpool_tests::scaled", mutates_args=())
def scaled(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return x * scale


@scaled.register_fake
def _(x: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return torch.empty_like(x)


def keeps_rows(op: Any) -> Any:
    if not op.operand("scale").is_const:
        torchpool.rows.mixes("the scale comes from rows")
    return op.operand("x").claim


def test_without_a_rule_nothing_is_proven() -> None:
    sketch = Sketch()
    found = sketch.claim(torch.ops.torchpool_tests.scaled.default, sketch.rows(4), sketch.const(1))
    assert isinstance(found, All)
    assert (found.kind, found.why) == ("unknown", "no rule for torchpool_tests.scaled.default")


@pytest.mark.parametrize(
    "op",
    [
        "torchpool_tests::scaled",
        torch.ops.torchpool_tests.scaled,
        torch.ops.torchpool_tests.scaled.default,
        scaled,
    ],
)
def test_a_rule_speaks_for_its_operator(op: Any) -> None:
    assert torchpool.rows.rule(op)(keeps_rows) is keeps_rows
    sketch = Sketch()
    scaled_op = torch.ops.torchpool_tests.scaled.default
    assert sketch.claim(scaled_op, sketch.rows(4), sketch.const(1)) == Rows(0)
    found = sketch.claim(scaled_op, sketch.rows(4), sketch.rows(1))
    assert isinstance(found, All)
    assert (found.kind, found.why) == ("mixes", "the scale comes from rows")


def test_a_rule_that_is_wrong_about_shapes_is_caught() -> None:
    torchpool.rows.rule(scaled)(lambda op: torchpool.rows.Rows(1))
    sketch = Sketch()
    found = sketch.claim(torch.ops.torchpool_tests.scaled.default, sketch.rows(4), sketch.const(1))
    assert isinstance(found, All)
    assert found.kind == "unknown"


def test_a_rule_that_raises_proves_nothing() -> None:
    torchpool.rows.rule(scaled)(lambda op: op.operand("x").no_such_thing)
    sketch = Sketch()
    found = sketch.claim(torch.ops.torchpool_tests.scaled.default, sketch.rows(4), sketch.const(1))
    assert isinstance(found, All)
    assert found.kind == "unknown"
    assert "AttributeError" in found.why


@pytest.mark.parametrize("op", ["relu", "aten::relu", "::relu", torch.ops.aten.relu])
def test_names_that_are_no_own_operator(op: Any) -> None:
    with pytest.raises(ValueError, match=r"library::operator|its rule"):
        torchpool.rows.rule(op)


def test_what_is_no_operator() -> None:
    with pytest.raises(TypeError, match="got function"):
        torchpool.rows.rule(keeps_rows)
