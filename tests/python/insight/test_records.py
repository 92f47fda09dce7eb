"""explain() and a graph's listing, made of plain records."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import torch

from torchpool.contract import Contract, InputSpec, Reason
from torchpool.insight import IN_ORDER, Explanation, KindRecord, Timing, explain, program_listing

X = InputSpec("x", torch.float32, "cpu", 0, False, ("batch", 4), None)
CONTRACT = Contract("merge", None, False, (X,), (), frozenset(), False, 0.001, ())
MERGES = KindRecord(inputs=("x",), contract=CONTRACT, reason=None, not_widened=None)
ALONE = KindRecord(inputs=("x", "mask"), contract=None, reason="merging is off", not_widened=None)
PROGRAM = "once:\n  %1 = pack(%0)\nfor each batch:\n  %2 = linear(%x, %1)\n  %3 = relu(%2)\ncheck: x.shape[0] >= 1"


def explained(*kinds: KindRecord, **options: Any) -> Explanation:
    return explain("net", "python", 32, kinds, **options)


def test_nothing_was_learned() -> None:
    explanation = explained()
    assert explanation.notes == ("nothing learned yet: the contract is learned from the first call",)
    assert explanation.backend == "python" and explanation.contracts == explanation.served_by == ()


def test_a_kind_that_a_graph_serves_names_it_beside_one_that_it_does_not() -> None:
    by_graph = dataclasses.replace(MERGES, by_graph=True, graph_notes=("frozen to length 7",))
    by_module = dataclasses.replace(MERGES, inputs=("y",), no_graph="a loop over data")
    explanation = explained(by_graph, by_module)
    assert explanation.backend == "graph" and explanation.served_by == ("graph", "python")
    assert explanation.notes == (
        "graph of calls with (x): frozen to length 7",
        "calls with (y) are served by the module itself, not by a graph: a loop over data",
    )


def test_a_kind_without_a_contract_has_no_backend_but_a_reason() -> None:
    explanation = explained(ALONE, MERGES)
    assert explanation.contracts == (CONTRACT,) and explanation.served_by == ("python",)
    assert explanation.notes == ("calls with (x, mask) run alone, side by side: merging is off",)


def test_a_kind_without_a_contract_says_whether_its_calls_have_an_order() -> None:
    (note,) = explained(dataclasses.replace(ALONE, order=f"{IN_ORDER} (model draws random numbers)")).notes
    assert note == (
        "calls with (x, mask) run alone, one at a time, in order (model draws random numbers): merging is off"
    )


@pytest.mark.parametrize(
    ("serial", "code", "how"),
    [
        (False, Reason.ROWS, "side by side"),
        (True, Reason.CHECK, "one at a time, in order"),
        (False, Reason.THREAD, "each on the thread that makes it"),
    ],
)
def test_a_contract_that_merges_nothing_says_whether_its_calls_have_an_order(
    serial: bool, code: Reason, how: str
) -> None:
    alone = dataclasses.replace(CONTRACT, mode="alone", reason="rows meet", serial=serial, code=code)
    text = str(explained(dataclasses.replace(MERGES, contract=alone)))
    assert f"calls with (x) run alone, {how}: rows meet" in text


def test_a_kind_that_was_not_widened_says_so() -> None:
    (note,) = explained(dataclasses.replace(MERGES, not_widened="rows meet")).notes
    assert note == "calls with (x) of other sizes run alone: rows meet"


def test_arguments_that_cannot_be_taken_apart_and_too_many_kinds_are_noted() -> None:
    *_, limit, opaque = explained(*[MERGES] * 64, opaque=["argument 'x' is of type set"]).notes
    assert limit.startswith("64 kinds of calls were learned, which is the limit")
    assert opaque == "calls where argument 'x' is of type set run alone, side by side: it cannot be merged"


def test_what_is_saved_of_an_explanation_comes_back() -> None:
    contract = dataclasses.replace(CONTRACT, reason="padding is not used: no mask", code=Reason.LENGTHS)
    explanation = explained(dataclasses.replace(MERGES, contract=contract))
    again = Explanation.from_dict(explanation.to_dict())
    assert again.contracts == (contract,) and again.max_batch == 32 and again.name == "net"
    assert "not padded: padding is not used: no mask" in str(again)


def test_programs_follow_the_rest() -> None:
    assert str(explained(MERGES, programs=["graph 1", "graph 2"])).endswith("\n\ngraph 1\n\ngraph 2")


def test_a_program_that_was_not_timed_is_listed_as_it_is() -> None:
    assert program_listing(["x", "y"], PROGRAM) == f"graph of calls with (x, y):\n{PROGRAM}"


def test_the_time_of_an_instruction_stands_before_it_and_shares_are_sorted() -> None:
    timing = Timing(((8, 4), (8,)), [("aten::linear", 1e-6), ("aten::relu", 3e-6)])
    title, *lines = program_listing(["x"], PROGRAM, timing).splitlines()
    assert title == "graph of calls with (x) of sizes (8, 4), (8,), 4.0 us:"
    assert lines == [
        "once:",
        "  %1 = pack(%0)",
        "for each batch:",
        "       1.0 us  %2 = linear(%x, %1)",
        "       3.0 us  %3 = relu(%2)",
        "check: x.shape[0] >= 1",
        "by operator:",
        "     75.0%     relu",
        "     25.0%     linear",
    ]


def test_an_operators_instructions_are_added_up() -> None:
    timing = Timing(((1, 4),), [("aten::relu", 1e-6), ("aten::relu", 1e-6)])
    assert program_listing(["x"], PROGRAM, timing).endswith("by operator:\n    100.0%     relu")
