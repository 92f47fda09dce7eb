"""What is picked by indices, looked up, or taken out as a number."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten

from torchpool.contract.rows.domain import CONST, All, Iota, Order, Packed, Rows, Same

AMONG = "mixes: an index picks among the rows"
EACH = "mixes: each row meets each other row"
TABLE = "mixes: the table of an embedding comes from rows"


def _ids(sketch: Sketch, *rest: int, dim: int = 0) -> Any:
    return sketch.rows(*rest, dim=dim, dtype=torch.int64)


def _places(sketch: Sketch, *shape: int) -> Any:
    return sketch.const(*shape, dtype=torch.int64)


def test_embedding() -> None:
    sketch = Sketch()
    table = sketch.const(9, 4)
    assert sketch.claim(aten.embedding.default, table, _ids(sketch, 3)) == Rows(0)
    assert sketch.claim(aten.embedding.default, table, _ids(sketch, 3, dim=1), 0) == Rows(1)
    assert sketch.refusal(aten.embedding.default, sketch.rows(4), _places(sketch, 3)) == TABLE
    assert sketch.refusal(aten.embedding.default, sketch.rows(4), _ids(sketch, 3)) == TABLE
    numbers = sketch.claimed(Iota(0), sketch.batch, dtype=torch.int64)
    assert sketch.refusal(aten.embedding.default, table, numbers) == "mixes: computes with the number of the row"


def test_an_embedding_with_a_largest_norm_writes_to_its_weight() -> None:
    sketch = Sketch()
    table = sketch.const(9, 4)
    sketch.add(aten.embedding_renorm_.default, table, _ids(sketch), 1.0, 2.0)
    assert [write.kind for write in sketch.proof.writes] == ["state"]
    assert isinstance(sketch.claim(aten.embedding.default, table, _ids(sketch)), All)


def _bags(
    sketch: Sketch, claim: Any = None, offsets: Any = None, weights: Any = None, last: bool = False, table: Any = None
) -> Any:
    layout = claim or Rows(0, inner=3)
    indices = sketch.claimed(layout, sketch.batch * layout.outer * layout.inner, dtype=torch.int64)
    begins = sketch.claimed(offsets or Iota(0, step=3), sketch.batch, dtype=torch.int64)
    weighted = None if weights is None else sketch.claimed(weights, *indices.meta["val"].shape)
    table = table or sketch.const(9, 4)
    return sketch.claim(aten.embedding_bag.default, table, indices, begins, False, 0, False, weighted, last)


def test_bags_that_are_rows() -> None:
    found = _bags(Sketch())
    assert found[0] == Rows(0)
    assert [one.why for one in found[1:]] == [
        "the numbers of bags",
        "the sizes of bags",
        "the largest entries of bags",
    ]
    assert _bags(Sketch(), Rows(0), Iota(0))[0] == Rows(0)
    assert _bags(Sketch(), weights=Rows(0, inner=3))[0] == Rows(0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"claim": Same(0, 3)}, "bags that are no rows"),
        ({"offsets": Rows(0)}, "bags that are no rows"),
        ({"offsets": Iota(0, step=2)}, "bags that do not begin where rows do"),
        ({"claim": Rows(0, outer=2, inner=3)}, "bags that do not begin where rows do"),
        ({"claim": Rows(0), "offsets": Iota(0, inner=2)}, "bags that do not begin where rows do"),
        ({"last": True}, "bags of which the last row is the end"),
        ({"weights": Rows(0, outer=3)}, "the weights of bags are not aligned with the rows"),
    ],
)
def test_other_bags_are_refused(change: Any, why: str) -> None:
    sketch = Sketch()
    if change.get("offsets") == Iota(0, inner=2):
        indices, begins = _ids(sketch), sketch.claimed(Iota(0, inner=2), sketch.batch * 2, dtype=torch.int64)
        found = sketch.claim(aten.embedding_bag.default, sketch.const(9, 4), indices, begins)
    else:
        found = _bags(sketch, **change)
    assert (found.kind, found.why) == ("mixes", why)


def test_a_table_of_bags_from_rows_is_refused() -> None:
    sketch = Sketch()
    assert _bags(sketch, table=sketch.rows(4)).why == TABLE.removeprefix("mixes: ")


def test_index_select() -> None:
    sketch = Sketch()
    x = sketch.rows(5, 6)
    assert sketch.claim(aten.index_select.default, x, 1, _places(sketch, 3)) == Rows(0)
    assert sketch.claim(aten.index_select.default, sketch.const(9, 4), 0, _ids(sketch)) == Rows(0)
    assert sketch.claim(aten.index_select.default, sketch.const(9, 4), -1, _ids(sketch)) == Rows(1)
    assert sketch.refusal(aten.index_select.default, x, 0, _places(sketch, 3)) == AMONG
    assert sketch.refusal(aten.index_select.default, x, -3, _places(sketch, 3)) == AMONG
    assert sketch.refusal(aten.index_select.default, x, 1, _ids(sketch)) == EACH
    assert sketch.refusal(aten._unsafe_index.Tensor, x, [_places(sketch, 3)]) == AMONG
    numbers = sketch.claimed(Iota(0), sketch.batch, dtype=torch.int64)
    assert sketch.claim(aten.index_select.default, x, 0, numbers) == Rows(0)


def test_gather() -> None:
    sketch = Sketch()
    x, gather = sketch.rows(5, 6), aten.gather.default
    assert sketch.claim(gather, x, 2, _ids(sketch, 5, 2)) == Rows(0)
    assert sketch.claim(gather, x, -2, _ids(sketch, 1, 6)) == Rows(0)
    assert sketch.claim(gather, sketch.rows(5, dim=1), 0, _ids(sketch, 3, dim=1)) == Rows(1)
    assert sketch.claim(gather, sketch.const(9), 0, _ids(sketch)) == Rows(0)
    assert sketch.claim(gather, sketch.const(9, 4), 0, _ids(sketch, 4)) == Rows(0)
    assert sketch.refusal(gather, x, 0, _places(sketch, 2, 5, 6)) == AMONG
    assert sketch.refusal(gather, x, -3, _ids(sketch, 5, 6)) == AMONG
    assert sketch.refusal(gather, sketch.rows(9), 1, _ids(sketch, 3, dim=1)) == EACH
    assert sketch.claim(gather, sketch.const(), 0, _ids(sketch)) == Rows(0)
    assert sketch.refusal(gather, sketch.rows(), 0, _places(sketch)) == AMONG
    folded = sketch.claimed(Rows(0, inner=2), sketch.batch * 2, 5)
    index = sketch.claimed(Rows(0, outer=2), sketch.batch * 2, 3, dtype=torch.int64)
    found = sketch.refusal(gather, folded, 1, index)
    assert found == "mixes: rows in dim 0, 1 x rows x 2 meet rows in dim 0, 2 x rows x 1"


def test_a_gather_of_which_one_has_no_rows_is_refused() -> None:
    sketch = Sketch()
    few = sketch.refusal(aten.gather.default, sketch.rows(6), 1, _places(sketch, 2, 6))
    assert few == "mixes: a constant has 2 entries along the rows"
    many = sketch.refusal(aten.gather.default, sketch.const(9, 6), 1, _ids(sketch, 6))
    assert many == "mixes: a constant has 9 entries along the rows"


def test_take() -> None:
    sketch = Sketch()
    assert sketch.claim(aten.take.default, sketch.const(9, 4), _ids(sketch, 3, dim=1)) == Rows(1)
    assert sketch.refusal(aten.take.default, sketch.rows(4), _places(sketch, 3)) == AMONG


def test_values_are_looked_up_in_what_all_rows_share() -> None:
    sketch = Sketch()
    x, shared = sketch.rows(4), sketch.const(9)
    assert sketch.claim(aten.bucketize.Tensor, x, shared) == Rows(0)
    assert sketch.claim(aten.isin.Tensor_Tensor, x, shared) == Rows(0)
    assert sketch.claim(aten.isin.Tensor_Scalar, x, 3) == Rows(0)
    one = sketch.rows()
    assert sketch.refusal(aten.bucketize.Tensor, shared, one) == "mixes: bucketize looks up in values of rows"
    assert sketch.refusal(aten.bucketize.Scalar, 0.5, one) == "mixes: bucketize looks up in values of rows"
    assert sketch.refusal(aten.isin.Tensor_Tensor, x, one) == "mixes: isin looks up in values of rows"
    assert sketch.refusal(aten.isin.Scalar_Tensor, 3, one) == "mixes: isin looks up in values of rows"


def test_searchsorted() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    order = _ids(sketch, 9)
    assert sketch.claim(aten.searchsorted.Tensor, sketch.const(9), x) == Rows(0)
    assert sketch.claim(aten.searchsorted.Tensor, sketch.const(9), sketch.rows(4, dim=1)) == Rows(1)
    assert sketch.claim(aten.searchsorted.Tensor, sketch.rows(9), x) == Rows(0)
    assert sketch.claim(aten.searchsorted.Tensor, sketch.rows(9), x, sorter=order) == Rows(0)
    over = "mixes: searchsorted in the rows"
    assert sketch.refusal(aten.searchsorted.Tensor, sketch.rows(), x) == over
    assert sketch.refusal(aten.searchsorted.Tensor, sketch.rows(3, dim=1), sketch.const(3, 4)) == over
    number = "mixes: searchsorted looks up in values of rows"
    assert sketch.refusal(aten.searchsorted.Scalar, sketch.rows(), 0.5) == number


def _sorted(sketch: Sketch, role: Any) -> Any:
    keys = _ids(sketch)
    return sketch.claimed(Packed(0, Order(keys, keys, Rows(0)), Rows(0), role), sketch.batch, dtype=torch.int64)


def test_a_list_picks_by_its_values_and_not_by_its_places() -> None:
    sketch = Sketch()
    ranked = _sorted(sketch, "sorted")
    held = sketch.of(ranked)
    picked = Packed(0, held.order, held.rows)
    assert sketch.claim(aten.index.Tensor, sketch.const(9, 4), [ranked]) == picked
    assert sketch.claim(aten.index_select.default, sketch.const(4, 9), 1, ranked) == picked.at(1)
    values = sketch.claimed(picked, sketch.batch, 4)
    assert sketch.claim(aten.index.Tensor, values, [None, _places(sketch, 2)]) == picked
    for role in ("index", "index_part"):
        found = sketch.refusal(aten.index.Tensor, sketch.const(9, 4), [_sorted(sketch, role)])
        assert found == "mixes: a list picks from other rows than its own"
    places = _sorted(sketch, "index")
    found = sketch.refusal(aten.index.Tensor, sketch.const(9, 4), [places, _places(sketch, 1)])
    assert found == "mixes: computes with places in a list of all rows"
    assert sketch.refusal(aten.index.Tensor, values, [_places(sketch, 2)]) == AMONG


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("nonzero", []),
        ("argwhere", []),
        ("masked_select", [...]),
        ("_unique2", []),
        ("unique_consecutive", []),
        ("unique_dim", [1]),
        ("nonzero_static", []),
    ],
)
def test_how_many_entries_there_are_depends_on_all_rows(name: str, more: list[Any]) -> None:
    sketch = Sketch()
    x = sketch.rows(4, dtype=torch.int64)
    given = [sketch.rows(4, dtype=torch.bool) if item is ... else item for item in more]
    kwargs = {"size": 3} if name == "nonzero_static" else {}
    found = sketch.claim(getattr(aten, name).default, x, *given, **kwargs)
    for one in found if isinstance(found, list) else [found]:
        assert one.why == f"{name} over the rows: how many entries it gives depends on all of them"
        assert one.kind == "mixes"


def test_a_number_is_one_of_all_rows() -> None:
    sketch = Sketch()
    found = sketch.refusal(aten._local_scalar_dense.default, sketch.rows())
    assert found == "mixes: a number is taken from rows"
    assert sketch.claim(aten.gather.default, sketch.const(3, 4), 0, _places(sketch, 2, 4)) == CONST
