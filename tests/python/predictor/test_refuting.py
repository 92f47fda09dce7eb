"""Batches that are found to differ from the same calls alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import pytest
import torch
from served import Served, contract, opening
from support import MARK, draws, row


@pytest.fixture
def serve() -> Iterator[Callable[..., Served]]:
    with opening() as make:
        yield make


def mixing(x: torch.Tensor) -> torch.Tensor:
    return x + 0.1 * x.sum()


@torch.no_grad()
def test_a_difference_ends_merging_and_is_told_once(serve: Callable[..., Served]) -> None:
    served = serve(mixing, merging="verify")
    served.expect_answers_alone(draws(8, 1, 4))
    assert served.sizes[0] == 8
    served.expect_answers_alone(draws(8, 1, 4))
    assert served.sizes == [1] * 8
    assert served.core.stats()["refuted"] == 1
    (text,) = served.told.refutations
    assert text.startswith("row 1 of 8: output 'y' differs by ")


@torch.no_grad()
def test_a_difference_is_told_to_whoever_asks(serve: Callable[..., Served]) -> None:
    for ask in (lambda core: core.stats(), lambda core: core.tell_refuted()):
        served = serve(mixing, merging="verify")
        served.expect_answers_alone(draws(8, 1, 4))
        assert served.told.refutations == []
        ask(served.core)
        ask(served.core)
        assert len(served.told.refutations) == 1


@torch.no_grad()
def test_a_proven_kind_is_looked_at_in_a_share_of_the_time(serve: Callable[..., Served]) -> None:
    for share in (1.0, 0.0):
        served = serve(mixing, verify=share)
        assert served.serve()
        answers = served.answers(draws(8, 1, 4))
        right = all(torch.allclose(y, mixing(x)) for y, x in zip(answers, draws(8, 1, 4), strict=True))
        assert right == (share == 1.0)
        assert served.core.stats()["refuted"] == (1 if share else 0)


@torch.no_grad()
@pytest.mark.parametrize("merging", ["no", "verify"])
def test_what_was_refuted_never_merges_again(serve: Callable[..., Served], merging: str) -> None:
    served, calls = serve(mixing, merging=merging, verify=1.0), draws(8, 1, 4)
    assert served.serve()
    served.expect_answers_alone(calls)
    for _ in range(3):
        assert not served.serve()
    assert torch.equal(served.core.call((torch.ones(1, 5),), None), mixing(torch.ones(1, 5)))  # learns anew
    assert served.told.number == 2
    assert not served.serve(number=2)
    served.expect_answers_alone(calls)
    assert served.sizes == [1] * 8
    assert len(served.told.refutations) == 1


@torch.no_grad()
def test_what_the_batches_of_a_replaced_contract_show_counts(serve: Callable[..., Served]) -> None:
    served, calls = serve(mixing, verify=1.0), draws(8, 1, 4)
    served.core.call((calls[0],), None)
    assert served.serve()
    held = served.core.submit((row(MARK),), None)
    served.gate.wait_entered()
    pending = [served.core.submit((x,), None) for x in calls]
    assert served.serve(), "nothing is known yet"
    served.gate.open()
    held.get()
    for call, x in zip(pending, calls, strict=True):
        torch.testing.assert_close(call.get(), mixing(x))
    assert served.core.stats()["refuted"] == 1
    assert len(served.told.refutations) == 1
    served.expect_answers_alone(calls)
    assert served.sizes == [1] * 8


def rounded(x: torch.Tensor) -> torch.Tensor:
    """As a coarser dtype may give: a batch's rows and the same rows alone are a thousandth apart."""
    return x * (1.001 if len(x) > 1 else 1.0)


@torch.no_grad()
@pytest.mark.parametrize(("tolerance", "refuted"), [(None, 1), (1e-4, 1), (2e-3, 0)])
def test_rows_may_be_as_far_apart_as_the_contract_says(
    serve: Callable[..., Served], tolerance: float | None, refuted: int
) -> None:
    served = serve(rounded, known=dataclasses.replace(contract(), tolerance=tolerance), merging="verify")
    served.answers(draws(8, 1, 4))
    assert served.core.stats()["refuted"] == refuted
