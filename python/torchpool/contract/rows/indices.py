"""Several index tensors at once: which dims they pick from, and where their own dims are in what is picked."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from torchpool.contract.rows.domain import Iota, Packed, Rows, mixes, unknown
from torchpool.contract.rows.letters import Letter, Letters, at_right
from torchpool.contract.rows.op import Operand
from torchpool.contract.rows.sizes import equal


@dataclass(frozen=True)
class Picked:
    """What is picked, by letters: a dim of the indexed tensor has its number, picked ones and index dims have texts."""

    target: tuple[Operand, list[Letter]]
    """Where rows are picked by their numbers, their dim has the letter of the numbers, and is folded as these are."""
    indices: list[tuple[Operand, Letters]]
    result: list[Letter]


def picked(target: Operand, given: Sequence[Operand | None]) -> Picked:
    """Of x[given]; None for a dim that is taken whole."""
    rank = max(1 if is_mask(operand) else operand.rank for operand in given if operand is not None)
    own: list[Letter] = [f"index {place}" for place in range(rank)]
    dims: list[int] = []
    indices: list[tuple[Operand, Letters]] = []
    dim = 0
    for operand in given:
        if operand is None:
            dim += 1
            continue
        dims += range(dim, dim + width(operand))
        dim += width(operand)
        # A mask stands for the places of its entries, one list of them for each of its dims.
        letters = own[-1:] if is_mask(operand) else at_right(own, operand)
        indices += [(_as_index(operand), letters)] * width(operand)
    of_target: list[Letter] = [f"picked {place}" if place in dims else place for place in range(target.rank)]
    rest = [place for place in range(target.rank) if place not in dims]
    # Dims of the index stand where the first picked one stood, if no dim that is taken whole is between these.
    ahead = dims[0] if dims[-1] - dims[0] == len(dims) - 1 else 0
    return Picked(*_by_numbers(target, of_target, dims, indices), [*rest[:ahead], *own, *rest[ahead:]])


def is_mask(operand: Operand) -> bool:
    return operand.value.dtype in (torch.bool, torch.uint8)


def width(operand: Operand) -> int:
    """How many dims an index picks from."""
    if not is_mask(operand):
        return 1
    if operand.rank == 0:
        unknown("a mask of no dims")
    return operand.rank


def _as_index(operand: Operand) -> Operand:
    if is_mask(operand) and not operand.is_const:
        mixes("picks by a mask: how many entries a row has, and so where the next row begins, depends on values")
    if isinstance(operand.claim, Packed) and operand.claim.role == "sorted":
        return dataclasses.replace(operand, claim=dataclasses.replace(operand.claim, role="value"))
    return operand


def _by_numbers(
    target: Operand, letters: list[Letter], dims: list[int], indices: list[tuple[Operand, Letters]]
) -> tuple[tuple[Operand, list[Letter]], list[tuple[Operand, Letters]]]:
    """Numbers of rows pick each row's own entries, if they pick from the dim of the rows."""
    if isinstance(target.claim, Iota):
        mixes("picks from the numbers of rows")
    found = []
    for dim, (operand, own) in zip(dims, indices, strict=True):
        numbers = operand.claim
        if isinstance(numbers, Iota):
            if not isinstance(target.claim, Rows) or target.claim.dim != dim:
                mixes("picks by the number of the row")
            # Number n is of row n // target.inner: so it must be of the numbers themselves.
            if not equal(target.claim.inner, numbers.step if numbers.inner == 1 else numbers.inner):
                mixes("picks by numbers of rows that are folded otherwise")
            letters[dim] = own[numbers.dim]
            plain = Rows(numbers.dim, numbers.outer, numbers.inner)
            target = dataclasses.replace(target, claim=dataclasses.replace(plain, dim=dim))
            operand = dataclasses.replace(operand, claim=plain)
        found.append((operand, own))
    return (target, letters), found
