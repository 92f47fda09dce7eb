"""`wrap(invariant=True)`: what a learner does otherwise, so that a call has the same bits whenever it comes.

Each kind of calls is served in one way from its first call on: by a graph whose rows keep their bits in any batch, for
which the first call waits, or by the module, one call at a time. Nothing is padded: sums over padded lengths are cut
into other parts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import overload

import torch

from torchpool.capture import CaptureError
from torchpool.contract import Contract, Reason, with_rows
from torchpool.predictor.building import Built, CapturedKind
from torchpool.predictor.captured import Captured
from torchpool.predictor.kinds import Kind, Learned, unpadded

NO_GRAPH = (
    "invariant=True: the module runs each call on its own thread's core, since only a graph keeps bits in a batch"
)
_EQUAL_LENGTHS = (
    "invariant=True: sums over padded lengths may round otherwise, so calls merge with calls of equal lengths"
)


@overload
def without_padding(contract: Contract) -> Contract: ...
@overload
def without_padding(contract: None) -> None: ...
def without_padding(contract: Contract | None) -> Contract | None:
    """The contract as such a learner has it."""
    padded = contract is not None and contract.mode == "merge" and contract.padded
    return unpadded(contract, _EQUAL_LENGTHS) if contract is not None and padded else contract


def settled(kind: Kind, learned: Learned, prove: Callable[[], tuple[str | None, bool]]) -> Learned:
    """How calls of a kind are served that may merge: by the graph that `prove` has made, or else alone. `prove` gives
    why there is no graph, and whether weights that never rested are why."""
    why, kind.restless = prove()
    if why is None:
        return learned
    text = (
        why if why.startswith("invariant=True") else f"invariant=True merges by a graph only, and there is none: {why}"
    )
    if kind.contract is not None:
        kind.contract = replace(kind.contract, mode="alone", reason=text, code=Reason.ROWS)
    kind.route, kind.reason, kind.candidate = "parallel", text, None
    _, _, _, copied, number, _ = learned
    return "parallel", None, None, copied, number, "no"


def stays(kind: Kind, before: Kind) -> None:
    """Calls of other sizes run alone, and go on to do so."""
    why = kind.not_widened if kind.route == "merge" else kind.reason
    vars(kind).update(vars(before))
    kind.not_widened = why


def refuse_other_bits(built: Built, kind: CapturedKind, before: Captured | None) -> None:
    """Raises CaptureError for a graph of more sizes that gives other bits than the one that serves some by now."""
    old, new = None if before is None else before.backend, built.backend
    if old is None or new is None or kind.before is None:
        return
    for sample in kind.before.samples:
        leaves = with_rows(sample, built.contract, 1)
        for ours, theirs in zip(new.run(leaves), old.run(leaves), strict=True):
            if not same_bits(ours, theirs):
                raise CaptureError("a graph for more sizes computes the sizes of before with other bits")


def same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether all elements are the same, signs of zeros and payloads of NaN included."""
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    return torch.equal(*(tensor.contiguous().view(-1).view(torch.uint8) for tensor in (one, other)))
