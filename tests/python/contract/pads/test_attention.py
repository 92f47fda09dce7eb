"""What the rules of softmax and attention refuse, and what they know of -inf and NaN."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pads_sketch import PadSketch, along
from rows_sketch import aten

from torchpool.contract.pads.domain import Fill, Kept, Pad

INFINITE = -math.inf
HERE = frozenset([1])
attention = aten.scaled_dot_product_attention.default


# --- softmax ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fill", "facts", "words"),
    [
        (Fill(INFINITE, unless_nan=True), {"odd": "both", "holes": HERE}, "have the score -inf"),
        (Fill(-1e9), {"odd": "low", "holes": HERE}, "-inf at some places and -1e+09 at padded ones"),
    ],
)
def test_scores_that_are_not_known_get_weight(fill: Fill, facts: Any, words: str) -> None:
    sketch = PadSketch()
    assert words in sketch.lost(aten.softmax.int, sketch.places(2, "L", fill=fill, **facts), 1)


def test_softmax_over_folded_places() -> None:
    sketch = PadSketch()
    folded = sketch.claimed(Kept((Pad(1, outer=2, fill=Fill(INFINITE)),), odd="low", holes=HERE), 2, 2 * sketch.batch)
    assert "folded with others" in sketch.lost(aten.softmax.int, folded, 1)


def test_a_safe_softmax_is_never_nan_where_all_is_masked() -> None:
    sketch = PadSketch()
    masked = sketch.places(2, "L", fill=INFINITE, odd="low", holes=HERE)
    assert sketch.claim(aten._safe_softmax.default, masked, 1) == along(1, fill=0.0, least=0)
    wild = sketch.places(2, "L", fill=INFINITE, odd="any", holes=HERE)
    assert sketch.claim(aten._safe_softmax.default, wild, 1).odd == "any"


@pytest.mark.parametrize(
    ("target", "odd", "found", "holes"),
    [
        (aten.softmax.int, "finite", "finite", set()),
        (aten.softmax.int, "low", "nan", HERE),
        (aten.softmax.int, "any", "any", HERE),
        (aten._safe_softmax.default, "low", "finite", set()),
        (aten._safe_softmax.default, "any", "any", HERE),
        (aten.log_softmax.int, "low", "any", HERE),
        (aten.log_softmax.int, "nan", "nan", HERE),
    ],
)
def test_what_a_softmax_of_each_place_makes_of_what_is_not_finite(
    target: Any, odd: Any, found: str, holes: set[int]
) -> None:
    sketch = PadSketch()
    claim = sketch.claim(target, sketch.places(2, "L", odd=odd, holes=HERE if odd != "any" else frozenset()), 0)
    assert (claim.odd, claim.holes) == (found, holes if odd != "finite" else set())


# --- attention --------------------------------------------------------------------------------------------------------


def seen(sketch: PadSketch, **facts: Any) -> Any:
    """A mask that hides padded places."""
    return sketch.places(2, 1, 1, "L", **{"fill": False, "dtype": torch.bool, **facts})


def laid(sketch: PadSketch, **layout: Any) -> Any:
    """Queries, keys or values whose places lie in this way."""
    pad = Pad(2, **layout)
    return sketch.claimed(Kept((pad,)), 2, 3, pad.outer * (sketch.batch + pad.extra) * pad.inner, 8)


def test_attention_that_draws_or_mixes_features() -> None:
    sketch = PadSketch()
    query, features = sketch.places(2, 3, "L", 8), sketch.places(2, 3, 5, "L")
    assert "dropout" in sketch.lost(attention, query, query, query, seen(sketch), 0.5)
    assert "features that are padded" in sketch.lost(attention, features, features, features)


def test_keys_whose_places_are_not_those_of_the_call() -> None:
    sketch = PadSketch()
    query = sketch.places(2, 3, 5, 8)
    outer, inner, part = laid(sketch, outer=2), laid(sketch, inner=2), laid(sketch, extra=-1)
    assert "of different lengths" in sketch.lost(attention, query, outer, inner)
    assert "folded with others" in sketch.lost(attention, query, outer, outer)
    assert "attention to a part of the length" in sketch.lost(attention, query, part, part)


def test_a_causal_mask_hides_padded_places_from_those_before_only() -> None:
    sketch = PadSketch()
    key = sketch.places(2, 3, "L", 8)
    for query in (sketch.places(2, 3, 5, 8), laid(sketch, outer=2), laid(sketch, extra=1)):
        assert "no mask makes" in sketch.lost(attention, query, key, key, None, 0.0, True)
    assert sketch.claim(attention, laid(sketch, extra=-1), key, key, None, 0.0, True).pads == (Pad(2, extra=-1),)


def test_a_mask_of_which_padded_places_are_not_known() -> None:
    sketch = PadSketch()
    query = sketch.places(2, 3, "L", 8)
    for mask in (
        sketch.places(2, 1, 1, 1, dtype=torch.bool),
        seen(sketch, fill=None),
        seen(sketch, fill=Fill(INFINITE, unless_nan=True), dtype=torch.float32),
    ):
        assert "no mask makes" in sketch.lost(attention, query, query, query, mask)


def test_a_mask_of_numbers() -> None:
    sketch = PadSketch()
    query = sketch.places(2, 3, "L", 8)
    below = seen(sketch, fill=-1e9, dtype=torch.float32)
    assert sketch.claim(attention, query, query, query, below) == along(2)
    assert "masked all over" in sketch.proof.conditions[0][0]
    mixed = seen(sketch, fill=-1e9, dtype=torch.float32, odd="low", holes=frozenset([3]))
    assert "-inf at some places and -1e+09 at padded ones" in sketch.lost(attention, query, query, query, mixed)


def test_what_is_not_finite_in_a_mask_is_not_in_the_result() -> None:
    sketch = PadSketch()
    query = sketch.places(2, 3, "L", 8)
    masked = seen(sketch, fill=INFINITE, dtype=torch.float32, odd="low", holes=frozenset([3]))
    assert sketch.claim(attention, query, query, query, masked) == along(2)
    wild = seen(sketch, fill=INFINITE, dtype=torch.float32, odd="both", holes=frozenset([3]))
    assert sketch.claim(attention, query, query, query, wild).odd == "any"
