"""Scaled dot-product attention."""

from __future__ import annotations

from typing import Any

import pytest
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import CONST, Rows

SDPA = aten.scaled_dot_product_attention.default
MATH = aten._scaled_dot_product_attention_math.default
FLASH = aten._scaled_dot_product_flash_attention_for_cpu.default
OVER = "mixes: attention over the rows"
EACH = "mixes: each row meets each other row"


def _heads(sketch: Sketch, length: int = 5, dim: int = 0) -> Any:
    return sketch.rows(2, length, 8, dim=dim)


def test_rows_are_the_batch_or_the_heads() -> None:
    sketch = Sketch()
    for dim in (0, 1):
        query, key = _heads(sketch, 5, dim), _heads(sketch, 6, dim)
        assert sketch.claim(SDPA, query, key, key) == Rows(dim)
        assert sketch.claim(SDPA, query, key, key, None, 0.0, True) == Rows(dim)
        assert sketch.claim(MATH, query, key, key) == [Rows(dim), Rows(dim)]
    query = _heads(sketch)
    assert sketch.claim(FLASH, query, query, query) == [Rows(0), Rows(0)]
    whole = sketch.const(2, 5, 8)
    assert sketch.claim(SDPA, query, sketch.const(1, 2, 5, 8), whole) == Rows(0)
    assert sketch.claim(SDPA, whole, whole, whole) == CONST


@pytest.mark.parametrize(("shape", "dim"), [((1, 5, 6), 0), ((2, 5, 6), 0), ((1, 1, 6), 0), ((5, 6), 0)])
def test_masks_of_rows_are_broadcast(shape: Any, dim: int) -> None:
    sketch = Sketch()
    query, key = _heads(sketch), _heads(sketch, 6)
    if len(shape) == 3:
        assert sketch.claim(SDPA, query, key, key, sketch.rows(*shape)) == Rows(0)
    assert sketch.claim(SDPA, query, key, key, sketch.const(*shape)) == Rows(dim)


def test_attention_over_the_rows_is_refused() -> None:
    sketch = Sketch()
    late = sketch.rows(3, 2, 8, dim=2)
    plain = sketch.const(3, 2, 5, 8)
    assert sketch.refusal(SDPA, late, late, late) == OVER
    assert sketch.refusal(SDPA, late, plain, plain) == OVER
    assert sketch.refusal(SDPA, late, plain, plain, None, 0.0, True) == OVER
    assert sketch.refusal(SDPA, plain, late, late) == OVER
    widths = sketch.rows(3, 2, 5, dim=3)
    assert sketch.refusal_like(SDPA, widths, widths, widths) == OVER
    mask = sketch.rows(5, dim=1)
    query = _heads(sketch)
    assert sketch.refusal_like(SDPA, query, query, query, mask) == OVER
    assert sketch.refusal_like(SDPA, query, query, _heads(sketch, 5, 1)) == EACH
    dropped = sketch.rows(5, dim=0)
    assert sketch.refusal_like(MATH, query, query, query, None, 0.0, False, dropped) == OVER


def test_heads_that_share_keys_are_no_rows() -> None:
    sketch = Sketch()
    query, key = sketch.rows(4, 5, 8), sketch.rows(2, 5, 8)
    gqa = {"enable_gqa": True}
    assert sketch.claim(SDPA, query, key, key, **gqa) == Rows(0)
    heads = _heads(sketch, 5, 1)
    assert sketch.refusal(SDPA, heads, heads, heads, **gqa) == OVER
    assert sketch.refusal(SDPA, heads, sketch.const(2, 1, 5, 8), sketch.const(2, 1, 5, 8), **gqa) == OVER


def test_folded_heads_are_aligned() -> None:
    sketch = Sketch()
    query = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 5, 8)
    mask = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, 5, 5)
    assert sketch.claim(SDPA, query, query, query) == Rows(0, inner=2)
    found = sketch.refusal(SDPA, query, query, query, mask)
    assert found == "mixes: rows in dim 0, 1 x rows x 2 meet rows in dim 0, 2 x rows x 1"


@pytest.mark.parametrize("target", [SDPA, MATH, FLASH])
def test_dropout_is_drawn(target: Any) -> None:
    sketch = Sketch()
    query, plain = _heads(sketch), sketch.const(3, 2, 5, 8)
    more = [0.5] if target is FLASH else [None, 0.5]
    assert sketch.refusal_like(target, query, query, query, *more) == "random: attention with dropout"
    assert sketch.refusal_like(target, plain, plain, plain, *more) == "random: attention with dropout"


def test_the_fused_encoder_layer_is_not_known() -> None:
    sketch = Sketch()
    x = sketch.rows(5, 8)
    weights = [sketch.const(24, 8), sketch.const(24), sketch.const(8, 8), sketch.const(8)]
    norms = [sketch.const(8) for _ in range(4)]
    layers = [sketch.const(16, 8), sketch.const(16), sketch.const(8, 16), sketch.const(8)]
    target = aten._transformer_encoder_layer_fwd.default
    found = sketch.refusal_like(target, x, 8, 2, *weights, True, False, 1e-5, *norms, *layers)
    assert found.startswith("unknown: no rule for aten._transformer_encoder_layer_fwd")
