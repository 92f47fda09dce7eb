"""What a rule may do with a list of rows, whose order all rows decide."""

from __future__ import annotations

import dataclasses

from torchpool.contract.rows.domain import Claim, Packed, mixes


def as_values(claim: Claim) -> Claim:
    """A list's entries, to be computed with: sorted keys become values, and places are no values."""
    if not isinstance(claim, Packed):
        return claim
    if claim.role not in ("value", "sorted"):
        mixes("computes with places in a list of all rows")
    return dataclasses.replace(claim, role="value")
