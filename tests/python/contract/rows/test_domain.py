"""Claims that agree, and claims in words."""

from __future__ import annotations

from torchpool.contract.rows.domain import CONST, All, Iota, Mixes, Rows, Same, Uniform, agree, show


def test_claims_agree_where_one_is_of_any_layout() -> None:
    assert agree(CONST, CONST) == CONST
    assert agree(Rows(0, 2), Rows(0, 2)) == Rows(0, 2)
    assert agree(Same(0, 2), Rows(0, 1, 2)) == agree(Rows(0, 1, 2), Same(0, 2)) == Rows(0, 1, 2)
    assert agree(Same(0, 2), Same(0, 1, 2)) == Same(0, 1, 2)


def test_claims_of_other_layouts_do_not_agree() -> None:
    assert agree(Rows(0, 2), Rows(0, 1, 2)) is None
    assert agree(Rows(0), Iota(0)) is None
    for other in (Rows(1, 2), Rows(0, 3), CONST, Uniform()):
        assert agree(Same(0, 2), other) is None
        assert agree(other, Same(0, 2)) is None


def test_claims_in_words() -> None:
    assert show(Rows(1)) == "rows in dim 1"
    assert show(Rows(0, 2)) == "rows in dim 0, 2 x rows x 1"
    assert show(Rows(0, 1, 2)) == "rows in dim 0, 1 x rows x 2"
    assert show(All("for a test")) == "for a test"
    assert show(Uniform()) == "uniform"
    assert str(Mixes("for a test", "unknown")) == "for a test"
