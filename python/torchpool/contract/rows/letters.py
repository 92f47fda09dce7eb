"""Operators told as einsum tells them: each dim of each operand has a letter, and dims of one letter go together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torchpool.contract.rows.domain import CONST, Claim, Packed, Rows, agree, mixes, show
from torchpool.contract.rows.op import Operand
from torchpool.contract.rows.sizes import equal

Letter = str | int
Letters = Sequence[Letter]


def lead(rank: int) -> list[Letter]:
    """Letters for leading dims that are broadcast: equal ones are equally far from the right."""
    return list(range(-rank, 0))


def at_right(letters: Letters, operand: Operand) -> Letters:
    """The letters of an operand that is broadcast to dims of these letters."""
    more = max(operand.rank - len(letters), 0)
    return ["ahead"] * more + list(letters[len(letters) - operand.rank + more :])


def by_letters(operands: Iterable[tuple[Operand, Letters]], result: Letters, what: str) -> Claim:
    """The claim of a result that at each place of its letters reads its operands at these places alone.

    A letter that is in no operand stands for places that nothing is known of. `what` is said where rows are along
    another letter than one of the result's: "a product sums over".
    """
    layout: Rows | Packed | None = None
    letter: Letter = 0
    operands = [(operand, list(letters)) for operand, letters in operands]
    result = list(result)
    for operand, letters in operands:
        if not isinstance(operand.claim, Rows | Packed):
            continue
        own, here = letters[operand.claim.dim], operand.claim.at(0)
        if isinstance(here, Packed) and here.role != "value":
            mixes("computes with places in a list of all rows")
        if own not in result:
            mixes(f"{what} the rows")
        if layout is None:
            letter, layout = own, here
        if own != letter:
            mixes("each row meets each other row")
        both = agree(layout, here)
        if not isinstance(both, Rows | Packed):
            mixes(f"{show(layout)} meet {show(here)}")
        layout = both
    if layout is None:
        return CONST
    for operand, letters in operands:
        if operand.is_const and operand.is_tensor and letter in letters:
            entries = operand.sizes[letters.index(letter)]
            if not equal(entries, 1):
                mixes(f"a constant has {entries} entries along the rows")
    return layout.at(result.index(letter))
