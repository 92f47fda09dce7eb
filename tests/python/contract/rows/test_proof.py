"""The way through a graph: which rule is asked, what it may be given, and the lock behind each of them."""

from __future__ import annotations

import operator
from typing import Any

import pytest
import torch
from rows_sketch import Sketch, aten
from rows_values import shaped_constant

from torchpool.contract.rows import registry
from torchpool.contract.rows.domain import CONST, All, Count, Ends, Iota, Packed, Rows, mixes
from torchpool.contract.rows.proof import rule_name


@pytest.fixture
def give(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Makes a rule give some claim."""

    def plant(name: str, claim: Any, **options: Any) -> None:
        entry = registry.Entry(lambda op: claim, options.get("accepts", ()), options.get("sizes", False))
        monkeypatch.setitem(registry._RULES, name, entry)

    return plant


def test_an_operator_in_place_has_the_rule_of_its_name() -> None:
    assert rule_name(aten.add_.Tensor) == rule_name(aten.add.Tensor) == "add"
    assert rule_name(aten.add.out) == "add"
    assert rule_name(torch.ops.inductor.accumulate_grad_.default) == "inductor::accumulate_grad_", "says no such thing"
    assert rule_name(aten.__and__.Tensor) == "__and__"
    assert rule_name(aten.__iand__.Tensor) == "__iand__"
    assert rule_name(torch.ops.quantized.add.default) == "quantized::add"


# --- the second lock --------------------------------------------------------------------------------------------------


def test_a_claim_must_be_where_the_number_of_rows_is(give: Any) -> None:
    sketch = Sketch()
    give("tanh", Rows(1))
    found = sketch.claim(aten.tanh.default, sketch.rows(4))
    assert (found.kind, found.why) == ("unknown", "rows are claimed along dim 1, and the number of rows is in dims [0]")
    give("mean", Rows(0))
    assert sketch.claim(aten.mean.dim, sketch.rows(4), [0]).kind == "mixes"


def test_a_claim_must_be_as_long_as_its_dim(give: Any) -> None:
    sketch = Sketch()
    give("tanh", Rows(0, 2, 1))
    found = sketch.claim(aten.tanh.default, sketch.rows(4))
    assert isinstance(found, All)
    assert "entries, not 2 x rows x 1" in found.why


def test_a_constant_does_not_hold_the_number_of_rows(give: Any) -> None:
    sketch = Sketch()
    give("tanh", CONST)
    assert sketch.claim(aten.tanh.default, sketch.rows(4)).why == "the number of rows is in the shape of a constant"
    give("mean", CONST)
    assert sketch.claim(aten.mean.dim, sketch.rows(4), [0]) == CONST, "the rule is believed"


def test_a_list_lies_in_one_dim() -> None:
    sketch = Sketch()
    order = sketch.claim(aten.argsort.default, sketch.rows())
    assert isinstance(order, Packed)
    assert sketch.proof._checked_one(sketch.rows(4).meta["val"], order) == order
    found = sketch.proof._checked_one(sketch.rows(4, dim=1).meta["val"], order)
    assert isinstance(found, All)


@pytest.mark.parametrize("claim", [Rows(0), [Rows(0)], [Rows(0), Rows(0), Rows(0)]])
def test_each_of_several_results_has_a_claim(give: Any, claim: Any) -> None:
    sketch = Sketch()
    give("topk", claim)
    found = sketch.claim(aten.topk.default, sketch.rows(4), 2)
    assert [one.why for one in found] == ["the rule of aten.topk.default gives no claim for each of its 2 results"] * 2


def test_one_result_has_one_claim(give: Any) -> None:
    sketch = Sketch()
    give("tanh", [Rows(0)])
    found = sketch.claim(aten.tanh.default, sketch.rows(4))
    assert (found.kind, found.why) == ("unknown", "a rule gives several claims for one result")


def test_what_mixes_is_known_by_its_node() -> None:
    sketch = Sketch()
    mean = sketch.add(aten.mean.dim, sketch.rows(4), [0])
    assert sketch.of(mean).node is mean
    assert sketch.of(sketch.add(aten.add.Tensor, mean, sketch.rows(4))).node is mean
    several = sketch.add(aten.topk.default, sketch.rows(4), 1, 0)
    assert sketch.of(several).node is several
    assert sketch.of(sketch.add(operator.getitem, several, 1)).node is several
    later = sketch.add(aten.topk.default, sketch.add(aten.neg.default, mean), 1)
    assert [one.node for one in sketch.of(later)] == [mean] * 2
    again = sketch.add(aten.sort.default, sketch.add(aten.argsort.default, sketch.rows()))
    assert sketch.of(again)[0].node is again


# --- which rule -------------------------------------------------------------------------------------------------------


def test_an_operator_without_a_rule_is_harmless_for_constants_only() -> None:
    sketch = Sketch()
    x, shared = sketch.rows(4), sketch.const(4)
    assert sketch.claim(aten.diag_embed.default, shared) == CONST
    found = sketch.claim(aten.diag_embed.default, x)
    assert (found.kind, found.why) == ("unknown", "no rule for aten.diag_embed.default")
    mean = sketch.add(aten.mean.dim, x, [0])
    assert sketch.claim(aten.diag_embed.default, mean) == sketch.of(mean)


def test_checks_give_nothing() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    assert sketch.claim(aten._assert_tensor_metadata.default, x, None, None, torch.float32) == CONST


@pytest.mark.parametrize("target", [aten.rand_like.default, aten.bernoulli.default, aten.normal_functional.default])
def test_random_numbers(target: Any) -> None:
    sketch = Sketch()
    for x in (sketch.rows(4), sketch.const(4)):
        assert sketch.claim(target, x).kind == "random"


def test_dropout_is_random_in_training_only() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    assert sketch.claim(aten.dropout.default, x, 0.5, False) == Rows(0)
    assert sketch.claim(aten.dropout.default, x, 0.5, True).kind == "random"
    assert sketch.claim(aten.dropout.default, sketch.const(4), 0.5, True).kind == "random"


def test_a_rule_is_given_what_it_takes_only(give: Any) -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    size = sketch.add(aten.sym_size.int, x, 0)
    assert sketch.of(size) == Count()
    numbers = sketch.add(aten.arange.default, size)
    assert isinstance(sketch.of(numbers), Iota)
    give("mul", Rows(0))
    assert sketch.claim(aten.mul.Tensor, x, size).why == "computes with the number of rows"
    assert sketch.claim(aten.mul.Tensor, numbers, 2).why == "computes with the number of the row"
    give("mul", Rows(0), sizes=True, accepts=(Iota,))
    assert sketch.claim(aten.mul.Tensor, x, size) == Rows(0)
    assert sketch.claim(aten.mul.Tensor, numbers, 2) == Rows(0)


def test_a_rule_that_raises_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    sketch = Sketch()
    monkeypatch.setitem(registry._RULES, "tanh", registry.Entry(lambda op: mixes("for a test"), (), False))
    assert sketch.claim(aten.tanh.default, sketch.rows(4)).why == "for a test"
    assert sketch.claim(aten.tanh.default, sketch.const(4)) == CONST, "it is not asked about constants"


# --- numbers ----------------------------------------------------------------------------------------------------------


def test_arithmetic_on_sizes() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    rows, columns = sketch.add(aten.sym_size.int, x, 0), sketch.add(aten.sym_size.int, x, 1)
    assert sketch.claim(operator.mul, rows, 2) == Count()
    assert sketch.claim(operator.mul, columns, 2) == CONST
    mean = sketch.add(aten.mean.dim, x, [0])
    assert sketch.claim(aten.sym_size.int, mean, 0) == CONST, "its size does not depend on values"


def test_a_size_that_values_decide_is_no_constant() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    found = sketch.add(aten.nonzero.default, x)
    assert isinstance(sketch.of(found), All)
    assert sketch.claim(aten.sym_size.int, found, 0) == sketch.of(found)


def test_python_on_tensors_has_no_rule() -> None:
    sketch = Sketch()
    assert sketch.claim(operator.neg, sketch.rows(4)).why == f"no rule for {operator.neg}"


def test_a_number_that_python_makes_of_what_mixes_mixes() -> None:
    sketch = Sketch()
    mean = sketch.add(aten.mean.dim, sketch.rows(4), [0])
    node = sketch.graph.call_function(len, (mean,))
    node.meta["val"] = 4
    assert sketch.proof.claim_of(node) == sketch.of(mean)


def test_a_number_of_a_constant_is_constant() -> None:
    sketch = Sketch()
    assert sketch.claim(aten._local_scalar_dense.default, sketch.const()) == CONST


def test_a_size_that_is_computed_is_given_to_an_operator() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    rows = sketch.add(aten.sym_size.int, x, 0)
    assert sketch.claim(aten._unsafe_view.default, x, [sketch.add(operator.mul, rows, 2), 2]) == Rows(0, 1, 2)


def _branch(sketch: Sketch, x: Any) -> Any:
    """The claim of an operator that runs graphs of its own, with one result."""
    node = sketch.graph.call_function(torch.ops.higher_order.cond, (x,))
    node.meta["val"] = (x.meta["val"],)
    return sketch.proof.claim_of(node)


def test_operators_that_run_graphs_are_harmless_for_constants_only() -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    assert _branch(sketch, sketch.const(4)) == [CONST]
    for operand in (x, shaped_constant(sketch, sketch.batch, 4)):
        found = _branch(sketch, operand)
        assert (found.kind, found.why) == ("unknown", "no rule for cond")
    mean = sketch.add(aten.mean.dim, x, [0])
    assert _branch(sketch, mean) == [sketch.of(mean)]


# --- writes -----------------------------------------------------------------------------------------------------------


def test_writes_to_inputs_and_weights_are_noted() -> None:
    sketch = Sketch()
    x, shared = sketch.rows(4), sketch.const(4)
    sketch.add(aten.mul_.Tensor, x, 2.0)
    sketch.add(aten.mul_.Tensor, shared, 2.0)
    assert [(one.kind, one.why) for one in sketch.proof.writes] == [
        ("state", f"writes to an input ({x.name})"),
        ("state", f"writes to a buffer or weight ({shared.name})"),
    ]


def test_one_of_several_results_shares_their_memory() -> None:
    sketch = Sketch()
    y = sketch.add(aten.clone.default, sketch.rows(4))
    first = sketch.add(operator.getitem, sketch.add(aten.split.Tensor, y, 2, 1), 0)
    assert sketch.of(first) == Rows(0)
    sketch.add(aten.add_.Tensor, first, sketch.add(aten.mean.dim, first, [0]))
    assert isinstance(sketch.of(y), All)


def test_a_write_that_mixes_spoils_even_where_its_rule_raises() -> None:
    sketch = Sketch()
    y = sketch.add(aten.clone.default, sketch.rows(4))
    sketch.add(aten.fill_diagonal_.default, y, 0.0)
    assert sketch.of(y).why == "no rule for aten.fill_diagonal_.default"


def test_a_write_spoils_even_where_its_rule_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    sketch = Sketch()
    monkeypatch.setitem(registry._RULES, "tanh", registry.Entry(lambda op: op.claims[None], (), False))
    x = sketch.add(aten.clone.default, sketch.rows(4))
    assert sketch.claim(aten.tanh_.default, x).why == "the rule of aten.tanh_.default fails: KeyError: None"
    assert sketch.of(x) == All("the rule of aten.tanh_.default fails", "unknown", sketch.of(x).node)


def test_a_write_to_several_tensors_spoils_each() -> None:
    sketch = Sketch()
    x, y = (sketch.add(aten.clone.default, sketch.rows(4)) for _ in range(2))
    sketch.add(aten._foreach_add_.Scalar, [x, y], 1.0)
    assert isinstance(sketch.of(x), All)
    assert isinstance(sketch.of(y), All)


def test_a_write_with_several_results_spoils_what_it_writes_to(give: Any) -> None:
    with torch.library._scoped_library("rows_test", "DEF") as library:
        library.define("halves_(Tensor(a!) x) -> (Tensor, Tensor)")
        give("rows_test::halves", [Rows(0), Rows(0)])
        sketch = Sketch()
        x = sketch.add(aten.clone.default, sketch.rows(4))
        node = sketch.graph.call_function(torch.ops.rows_test.halves_.default, (x,))
        node.meta["val"] = [x.meta["val"]] * 2
        sketch.proof.claim_of(node)
        assert sketch.of(x).why == "rows_test.halves_.default writes to several tensors"


# --- sizes that values decide -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", [aten.zeros_like.default, aten.ones_like.default, aten.empty_like.default])
def test_constants_as_many_as_a_mask_of_rows_picks_depend_on_all_rows(target: Any) -> None:
    sketch = Sketch()
    x = sketch.rows(4)
    picked = sketch.add(aten.index.Tensor, x, [sketch.rows(dtype=torch.bool)])
    ones = sketch.add(target, picked)
    assert isinstance(sketch.of(ones), All)
    length = sketch.add(aten.sym_size.int, ones, 0)
    assert isinstance(sketch.of(length), All)
    assert isinstance(sketch.claim(aten.mul.Tensor, x, sketch.add(aten.sum.default, ones)), All)


def test_how_many_groups_rows_have_depends_on_all_rows() -> None:
    sketch = Sketch()
    ids = sketch.add(aten.reshape.default, sketch.add(aten.argmax.default, sketch.rows(5, 4), -1), [-1])
    sketch.add(aten.sort.default, ids)
    counts = sketch.add(aten.bincount.default, ids)
    assert isinstance(sketch.of(counts), Ends)
    assert isinstance(sketch.claim(aten.sym_size.int, counts, 0), All)
    assert isinstance(sketch.claim(aten.ones_like.default, counts), All)


def test_constants_as_many_as_a_constant_mask_picks_stay_constant() -> None:
    sketch = Sketch()
    picked = sketch.add(aten.index.Tensor, sketch.const(4), [sketch.const(4, dtype=torch.bool)])
    assert sketch.claim(aten.zeros_like.default, picked) == CONST
    assert sketch.claim(aten.sym_size.int, picked, 0) == CONST
    columns = sketch.add(aten.index.Tensor, sketch.rows(4), [None, sketch.const(4, dtype=torch.bool)])
    assert sketch.of(columns) == Rows(0)
    assert sketch.claim(aten.zeros_like.default, columns) == Rows(0)
