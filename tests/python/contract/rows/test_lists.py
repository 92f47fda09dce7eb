"""What a rule may do with a list of rows."""

from __future__ import annotations

from typing import Any

import pytest
from rows_sketch import Sketch
from rows_values import order

from torchpool.contract.rows.domain import CONST, Mixes, Packed, Rows
from torchpool.contract.rows.lists import as_values


@pytest.mark.parametrize("role", ["value", "sorted"])
def test_entries_of_a_list_are_values(role: Any) -> None:
    by = order(Sketch())
    assert as_values(Packed(0, by, by.rows, role)) == Packed(0, by, by.rows)


@pytest.mark.parametrize("role", ["index", "index_part", "inverse"])
def test_places_are_no_values(role: Any) -> None:
    by = order(Sketch())
    with pytest.raises(Mixes, match="computes with places in a list of all rows"):
        as_values(Packed(0, by, by.rows, role))


def test_other_values_stay() -> None:
    assert as_values(CONST) == CONST
    assert as_values(Rows(1)) == Rows(1)
