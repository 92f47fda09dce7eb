"""The first line of explain(), and the gain in it, which is measured or not named."""

from __future__ import annotations

from typing import Any

from torchpool.insight import Batched, Gain, measured_gain
from torchpool.insight.headline import headline


def _cost(
    rows: int, each: float | None, *, batches: int = 10, length: int = 1, one_core: bool = True
) -> dict[str, Any]:
    return {
        "rows": rows,
        "length": length,
        "one_core": one_core,
        "batches": batches,
        "seconds_per_cell": each or 0.0,
        "seconds_per_item": each,
    }


def test_the_gain_is_that_of_the_cheapest_class_of_batches() -> None:
    gain = measured_gain([_cost(1, 1e-4), _cost(8, 4e-5), _cost(16, 2e-5), _cost(32, 3e-5)])
    assert gain == Gain(1e-4, 2e-5, 16)
    assert str(gain) == (
        "expected gain 5 x, as measured: a row takes 100 us alone and 20 us in batches of up to 16 rows"
    )


def test_without_single_rows_or_without_batches_there_is_no_gain_to_name() -> None:
    assert measured_gain([]) is None
    assert measured_gain([_cost(1, 1e-4)]) is None
    assert measured_gain([_cost(8, 1e-4), _cost(16, 1e-4)]) is None
    assert measured_gain([_cost(1, 1e-4), _cost(8, None)]) is None
    assert measured_gain([_cost(1, 1e-4, length=16), _cost(8, 1e-5, length=32)]) is None
    assert measured_gain([_cost(1, 1e-4, one_core=False), _cost(8, 1e-5)]) is None, "more cores are no gain of batches"


def test_a_class_that_was_seen_once_or_twice_is_not_measured_yet() -> None:
    assert measured_gain([_cost(1, 1e-4, batches=2), _cost(8, 1e-5)]) is None
    assert measured_gain([_cost(1, 1e-4), _cost(8, 1e-5, batches=2)]) is None


def test_the_length_that_came_most_often_counts_and_one_core_before_several() -> None:
    gain = measured_gain(
        [
            _cost(1, 1e-4, length=16),
            _cost(8, 5e-5, length=16),
            _cost(1, 3e-4, length=32, batches=50),
            _cost(8, 1e-4, length=32, batches=50),
            _cost(1, 9e-4, length=32, batches=500, one_core=False),
            _cost(8, 1e-6, length=32, batches=500, one_core=False),
        ]
    )
    assert gain == Gain(3e-4, 1e-4, 8)


def test_batches_that_cost_more_are_told_as_they_are() -> None:
    assert "expected gain 0.5 x" in str(measured_gain([_cost(1, 1e-5), _cost(2, 2e-5)]))


def test_nothing_learned_is_not_yet() -> None:
    assert headline([], None, "no call came").startswith(
        "batched: not yet, because no call came; expected gain not mea"
    )


def test_one_kind_has_its_answer_and_its_reason() -> None:
    gain = Gain(4.0, 2.0, 8)
    assert (
        headline([Batched("x", "yes", "rows are proven")], gain, "") == f"batched: yes, because rows are proven; {gain}"
    )
    pending = headline([Batched("x", "not yet", "a proof is made")], gain, "")
    assert pending.startswith("batched: not yet, because a proof is made; expected gain not measured yet")
    assert headline([Batched("x", "no", "rows meet")], gain, "") == (
        "batched: no, because rows meet; expected gain none, since no calls share batches"
    )


def test_of_several_kinds_each_answer_is_told_once() -> None:
    kinds = [
        Batched("x", "no", "rows meet"),
        Batched("x, y", "yes", "rows are proven"),
        Batched("z", "no", "it is stateful"),
        Batched("w", "no", "it draws"),
    ]
    assert headline(kinds, None, "").startswith(
        "batched: yes for calls with (x, y), because rows are proven; "
        "no for calls with (x) and of 2 other kinds, because rows meet; expected gain not measured yet"
    )
