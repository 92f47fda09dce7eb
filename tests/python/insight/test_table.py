"""stats() as a table: a dict for programs, two columns for people."""

from __future__ import annotations

import copy
import json
import pickle
import re

import pytest

from torchpool.insight import Stats, html_table, seconds

_STATS = Stats(
    {
        "name": "a<b",
        "accepted": 12,
        "padding": 0.25,
        "cost": [
            {
                "rows": 1,
                "length": 1,
                "one_core": True,
                "batches": 3,
                "seconds_per_cell": 1e-4,
                "seconds_per_item": 1e-4,
            },
            {"rows": 8, "length": 16, "one_core": False, "batches": 2, "seconds_per_cell": 0, "seconds_per_item": None},
        ],
        "queue_seconds": {"count": 2, "mean": 0.5, "p50": 2e-3, "p99": 2.0, "max": 3e-6},
        "run_seconds": {"count": 0, "mean": 0.0, "p50": 0.0, "p99": 0.0, "max": 0.0},
        "batch_rows": {"count": 4, "mean": 2.5, "p50": 2.0, "p99": 8.0, "max": 8.0},
    }
)


def test_printed_it_is_a_table_with_a_row_each() -> None:
    lines = str(_STATS).splitlines()
    assert [tuple(re.split("  +", line)) for line in lines] == [
        ("name", "a<b"),
        ("accepted", "12"),
        ("padding", "25.0%"),
        ("cost of 1 row, one core", "3 batches, 100 us an item"),
        ("cost of 8 rows x 16", "2 batches"),
        ("queue_seconds", "2 times: mean 500 ms, p50 2 ms, p99 2 s, max 3 us"),
        ("run_seconds", "none"),
        ("batch_rows", "4 times: mean 2.5, p50 2, p99 8, max 8"),
    ]
    column = len("cost of 1 row, one core") + 2
    assert all(line[column - 1] == " " != line[column] for line in lines), "the second column is aligned"


def test_it_stays_a_dict() -> None:
    assert _STATS["accepted"] == 12
    assert repr(_STATS) == repr(dict(_STATS))
    assert json.loads(json.dumps(_STATS)) == _STATS == dict(_STATS)
    assert {**_STATS} == _STATS == copy.deepcopy(_STATS) == pickle.loads(pickle.dumps(_STATS))


def test_in_a_notebook_it_is_a_table_too_with_nothing_taken_for_html() -> None:
    text = _STATS._repr_html_()
    assert text.startswith("<table>")
    assert text.count("<tr>") == len(str(_STATS).splitlines())
    assert "a&lt;b" in text and "a<b" not in text
    assert "<caption>x &amp; y</caption>" in html_table([("a", "b")], "x & y")


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0 us"), (4.5e-7, "0.45 us"), (1e-3, "1 ms"), (0.25, "250 ms"), (61.0, "61 s")]
)
def test_times_have_the_unit_that_suits_them(value: float, text: str) -> None:
    assert seconds(value) == text
