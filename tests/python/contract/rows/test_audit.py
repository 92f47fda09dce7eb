"""Every claim of the proof over every graph of the zoo, held against numbers; and rules that are wrong on purpose."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rows_traps_odd  # noqa: F401  # enters its traps
import rows_traps_places  # noqa: F401  # enters its traps
import rows_traps_values  # noqa: F401  # enters its traps
import zoo_media
import zoo_python
import zoo_text
import zoo_torch
from rows_audit import KINDS, Audit
from rows_capture import NoGraph, export
from rows_traps import CLASSES, TRAPS
from zoo import Entry

from torchpool.contract.probe.perturb import Layout
from torchpool.contract.rows import proof as rows_proof
from torchpool.contract.rows import registry
from torchpool.contract.rows.domain import CONST, Iota, Packed, Rows, Same, Uniform
from torchpool.contract.rows.op import Op

MODELS = [*zoo_text.MODELS, *zoo_media.MODELS, *zoo_torch.MODELS, *zoo_python.MODELS]
NOT_FED = {"lstm, packed"}  # refuses lengths that the audit would draw
# What is not proven, by its name in the zoo: the kind of the verdict.
NOT_PROVEN = {
    "longformer": "no graph",  # a branch on values
    "switch transformers": "no graph",  # a branch on values
    "int8 weights": "no graph",
    "branch on data, harmless": "no graph",
    "branch on data": "no graph",
    "loop over rows": "no graph",
    "rows that influence each other": "mixes",
    "sizes from sizes": "mixes",  # safe: a length rounded up to even is not seen to be twice its rounded half
    "counter in a buffer": "state",
    "scratch buffer": "state",
}
SOME = [
    pytest.param(entry, id=entry.name, marks=[pytest.mark.exhaustive] if i % 10 else [])
    for i, entry in enumerate(MODELS)
]

pytestmark = pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")


@pytest.fixture(autouse=True)
def _no_words() -> Iterator[None]:
    """What export logs before it raises is about these models."""
    logging.disable(logging.ERROR)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.parametrize("entry", SOME)
def test_the_claims_of_the_zoo(entry: Entry) -> None:
    expected = NOT_PROVEN.get(entry.name, "proven")
    try:
        exported = export(entry.build(), entry.calls())
    except NoGraph as problem:
        assert expected == "no graph", problem
        return
    verdict, proof = exported.prove()
    assert verdict.kind == expected, verdict.text
    assert proof is not None
    if entry.name in NOT_FED:
        return
    audit = Audit(exported, proof)
    for kind in KINDS:
        audit.run(kind)
    assert audit.wrong == []
    assert "random" in audit.ran
    assert audit.checked or not verdict.proven


def test_what_is_not_proven_is_in_the_zoo() -> None:
    assert NOT_PROVEN.keys() <= {entry.name for entry in MODELS}
    unsafe = {entry.name for entry in MODELS if not entry.safe}
    assert unsafe <= NOT_PROVEN.keys()


# --- wrong rules ------------------------------------------------------------------------------------------------------


def keeps(op: Op) -> Any:
    """As if the result were laid out as the first operand that depends on rows."""
    tensors = [op.operand_of(node) for node in op.node.all_input_nodes]
    return op.each(next(operand.claim for operand in tensors if not operand.is_const))


def _plant(*names: str, claim: Callable[[Op], Any] = keeps) -> Callable[[pytest.MonkeyPatch], None]:
    """Gives these operators a rule."""
    entry = registry.Entry(claim, (Iota, Packed, Uniform), True)

    def plant(patch: pytest.MonkeyPatch) -> None:
        for name in names:
            patch.setitem(registry._RULES, name, entry)

    return plant


def _forget_writes(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rows_proof, "after_write", lambda memory, claims, target, found: claims[target])


def _constant_numbers(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(rows_proof.Proof, "_number", lambda own, node: CONST)


def _first(*dims: int) -> Callable[[Op], Any]:
    return lambda op: [Rows(dim) for dim in dims]


def _where_the_size_is(op: Op) -> Any:
    return Rows(op.rows_dims(op.result)[0])


# Per class of rules: what is wrong, and a trap that meets it.
WRONG = [
    ("pointwise", "tiled rows plus repeated rows", _plant("add")),
    ("pointwise", "rows across rows", _plant("sub")),
    ("creation", "the number of the row", _plant("arange", claim=lambda op: Same(0))),
    ("creation", "counted ones", _plant("cumsum")),
    ("creation", "which row is even", _plant("arange", claim=lambda op: CONST)),
    ("reductions", "softmax over the rows", _plant("softmax")),
    ("reductions", "reversed rows", _plant("flip")),
    ("reductions", "the largest row", _plant("max", claim=lambda op: [CONST, CONST])),
    ("reshaping", "heads read as rows", _plant("reshape", claim=lambda op: Rows(0, 1, 2))),
    ("reshaping", "columns read as rows", _plant("view", claim=_where_the_size_is)),
    ("reshaping", "copies read as pairs", _plant("repeat", claim=lambda op: Rows(0, 1, 2))),
    ("parts", "rolled", _plant("roll")),
    ("parts", "the first row for all", _plant("slice", claim=lambda op: CONST)),
    ("products", "a product over the rows", _plant("einsum", claim=lambda op: CONST)),
    ("products", "each row with each", _plant("matmul")),
    ("layers", "a norm over the batch", _plant("batch_norm")),
    ("layers", "a convolution over the rows", _plant("conv1d")),
    ("recurrent", "rows first, read as steps", _plant("gru", claim=_first(0, 1))),
    ("attention", "to the rows before", _plant("scaled_dot_product_attention")),
    ("lookups", "the same row for all", _plant("index")),
    ("lookups", "rows in another order", _plant("argsort", "index_select")),
    ("writes", "all added to the first", _plant("scatter_add")),
    ("writes", "taken in order of all places", _plant("masked_scatter")),
    ("experts", "a running sum in the order", _plant("cumsum")),
    ("experts", "an expert's load", _plant("bincount", claim=lambda op: CONST)),
    ("memory", "a column of all rows", _forget_writes),
    ("memory", "a turned view", _forget_writes),
    ("sizes", "a share of each", _constant_numbers),
    ("sizes", "more for many", _constant_numbers),
]  # fmt: skip


_FIRSTS = {kind: name for kind, name, _ in reversed(WRONG)}
_WRONG = [
    pytest.param(*one, id=f"{one[0]}: {one[1]}", marks=[] if _FIRSTS[one[0]] == one[1] else [pytest.mark.exhaustive])
    for one in WRONG
]


@pytest.mark.parametrize(("kind", "name", "plant"), _WRONG)
def test_a_wrong_rule_is_caught(
    kind: str, name: str, plant: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    trap = next(trap for trap in TRAPS if (trap.kind, trap.name) == (kind, name))
    exported = export(trap.build(), [trap.calls(0), trap.calls(1)], Layout((0,)))
    verdict, right = exported.prove()
    assert not verdict.proven
    assert right is not None
    plant(monkeypatch)
    _, wrong = exported.prove()
    assert wrong is not None
    assert _claims(wrong) != _claims(right), "the rule is not asked"
    second_lock = [claim for claim in _claims(wrong) if "rows are claimed along" in claim or "entries, not" in claim]
    audit = Audit(exported, wrong)
    for rows in KINDS:
        audit.run(rows)
    assert "random" in audit.ran
    assert audit.wrong or second_lock or "the number of rows is in the shape of a constant" in str(_claims(wrong))


def _claims(proof: rows_proof.Proof) -> list[str]:
    return [str(claim) for claim in proof.claims.values()]


def test_each_class_of_rules_has_a_wrong_one() -> None:
    assert {kind for kind, _, _ in WRONG} == set(CLASSES)
