"""Sums of products, told as einsum tells them: each dim of each operand has a letter, and dims of one letter go
together."""

from __future__ import annotations

from collections.abc import Sequence

from torchpool.contract.pads.domain import Claims, Fill, Kept, Odd, Pad, loses
from torchpool.contract.pads.op import Op, Operand, one_entry
from torchpool.contract.pads.registry import rule

Letter = str | int
Lettered = tuple[Operand, Sequence[Letter]]


def lead(rank: int) -> list[Letter]:
    """Letters for leading dims that are broadcast: equal ones are equally far from the right."""
    return list(range(-rank, 0))


def at_right(letters: Sequence[Letter], operand: Operand) -> list[Letter]:
    """The letters of an operand that is broadcast to dims of these letters."""
    return list(letters[len(letters) - operand.rank :]) if operand.rank else []


def is_zero(pad: Pad, of: Kept) -> bool:
    """Whether what is padded along a dim adds nothing to a sum."""
    fill = pad.fill
    return fill is not None and not fill.about and fill.value == 0 and not (fill.unless_nan and pad.dim in of.holes)


def letters_of(
    factors: Sequence[Lettered], result: Sequence[Letter], what: str, added: Sequence[Lettered] = ()
) -> Kept:
    """The claim of a sum of products over all letters that are not in the result; what is `added` is so at the end."""
    layouts: dict[Letter, Pad] = {}
    for operand, letters in [*factors, *added]:
        for pad in operand.kept.pads:
            letter = letters[pad.dim]
            if layouts.setdefault(letter, Pad(0, *pad.layout)) != Pad(0, *pad.layout):
                loses(f"{what} puts places of one dim beside others of another")
    for operand, letters in [*factors, *added]:
        for dim, letter in enumerate(letters):
            if letter in layouts and operand.kept.pad(dim) is None and not one_entry(operand, dim):
                loses(f"{what} puts places beside a dim that is not padded")
    summed = [letter for letter in layouts if letter not in result]
    if len(summed) > 1:
        loses(f"{what} sums over the length twice")
    for letter in summed:
        _refuse_counting(factors, letter, what)
    odd, holes = _oddness([*factors, *added], result, layouts)
    pads = []
    for dim, letter in enumerate(result):
        if letter in layouts:
            zero = not summed and not added and odd == "finite" and _has_zero(factors, letter)
            pads.append(Pad(dim, *layouts[letter].layout, Fill(0) if zero else None))
    return Kept(tuple(pads), odd=odd, holes=holes)


def _has_zero(factors: Sequence[Lettered], letter: Letter) -> bool:
    return any(
        letters[pad.dim] == letter and is_zero(pad, operand.kept)
        for operand, letters in factors
        for pad in operand.kept.pads
    )


def _refuse_counting(factors: Sequence[Lettered], letter: Letter, what: str) -> None:
    """What is summed must be 0 at padded places: one factor is, and the others are no NaN there."""
    if not _has_zero(factors, letter):
        loses(f"{what} sums over the length, and no factor is 0 at padded places")
    for operand, letters in factors:
        here = [pad for pad in operand.kept.pads if letters[pad.dim] == letter]
        if any(pad.dim in operand.kept.holes and not _surely_zero(pad) for pad in here):
            loses(f"{what} sums over the length, and 0 at padded places meets what may be infinite or NaN there")


def _surely_zero(pad: Pad) -> bool:
    return pad.fill is not None and not pad.fill.about and not pad.fill.unless_nan and pad.fill.value == 0


def _oddness(
    operands: Sequence[Lettered], result: Sequence[Letter], layouts: dict[Letter, Pad]
) -> tuple[Odd, frozenset[int]]:
    odds = {operand.kept.odd for operand, _ in operands} - {"finite"}
    if not odds:
        return "finite", frozenset()
    everywhere = frozenset(dim for dim, letter in enumerate(result) if letter in layouts)
    if odds != {"nan"}:
        return "any", everywhere
    letters = {letters[dim] for operand, letters in operands for dim in operand.kept.holes}
    if any(letter not in result for letter in letters):
        return "any", everywhere
    return "nan", frozenset(dim for dim, letter in enumerate(result) if letter in letters)


def _matrices(first: Operand, second: Operand) -> tuple[list[Lettered], list[Letter]]:
    """The letters of two factors of a matrix product, and of the product."""
    left = [*lead(first.rank - 2), "n", "k"][-first.rank :]
    right = [*lead(second.rank - 2), "k", "m"] if second.rank > 1 else ["k"]
    product = lead(max(first.rank, second.rank, 2) - 2)
    product += ["n"] * (first.rank > 1) + ["m"] * (second.rank > 1)
    return [(first, left), (second, right)], product


@rule("matmul linalg_matmul mm bmm mv dot vdot")
def matrix_product(op: Op) -> Claims:
    """Over the length only what is 0 at padded places on one side."""
    factors, product = _matrices(op.operand("self"), op.operand(op.first("other", "mat2", "vec", "tensor")))
    return letters_of(factors, product, op.name)


@rule("addmm baddbmm addmv")
def sum_and_matrix_product(op: Op) -> Claims:
    """As a product; what is added is broadcast to it."""
    first, second = op.operand(op.first("mat1", "batch1", "mat")), op.operand(op.first("mat2", "batch2", "vec"))
    factors, product = _matrices(first, second)
    added = op.operand("self")
    return letters_of(factors, product, op.name, [(added, at_right(product, added))])


@rule("linear")
def linear(op: Op) -> Claims:
    """Each place on its own; over the last dim only what is 0 at padded places."""
    given, weight, bias = op.operand("input"), op.operand("weight"), op.operand("bias")
    ahead = lead(given.rank)[:-1]
    result = [*ahead, *["n"] * (weight.rank > 1)]
    factors: list[Lettered] = [(given, [*ahead, "k"]), (weight, "nk"[-weight.rank :])]
    added: list[Lettered] = [(bias, at_right(result, bias))] if op.has("bias") else []
    return letters_of(factors, result, "a linear layer", added)


@rule("einsum")
def einsum(op: Op) -> Claims:
    """By its own letters; "..." is as many as there are dims left, equal at the right."""
    inputs, arrow, output = op.get("equation").replace(" ", "").partition("->")
    tensors = op.operands("tensors")
    spelled = [_spelled(text, tensor) for text, tensor in zip(inputs.split(","), tensors, strict=True)]
    if any(len(set(letters)) < len(letters) for letters in spelled):
        loses("einsum takes a diagonal")
    operands = list(zip(tensors, spelled, strict=True))
    dots = lead(max(sum(isinstance(letter, int) for letter in letters) for letters in spelled))
    if not arrow:
        once = sorted(letter for letter in set(inputs) - set(",.") if inputs.count(letter) == 1)
        return letters_of(operands, [*dots, *once], "einsum")
    before, _, after = output.partition("...")
    return letters_of(operands, [*before, *(dots if "..." in output else []), *after], "einsum")


def _spelled(text: str, tensor: Operand) -> list[Letter]:
    before, dots, after = text.partition("...")
    return [*before, *(lead(tensor.rank - len(before) - len(after)) if dots else []), *after]
