"""Sums of products, distances, and linear algebra over the last two dims."""

from __future__ import annotations

from torchpool.contract.rows.domain import Claims, Packed, Rows, mixes, unknown
from torchpool.contract.rows.letters import Letter, Letters, at_right, by_letters, lead
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule
from torchpool.contract.rows.sizes import equal

_SUMS = "a product sums over"


def _matrices(first: Operand, second: Operand) -> tuple[list[tuple[Operand, Letters]], list[Letter]]:
    """The letters of two factors of a matrix product, and of the product."""
    left = [*lead(first.rank - 2), "n", "k"][-first.rank :]
    right = [*lead(second.rank - 2), "k", "m"] if second.rank > 1 else ["k"]
    product = lead(max(first.rank, second.rank) - 2)
    product += ["n"] * (first.rank > 1) + ["m"] * (second.rank > 1)
    return [(first, left), (second, right)], product


@rule("matmul linalg_matmul mm bmm mv dot vdot", accepts=[Packed])
def matrix_product(op: Op) -> Claims:
    """Never over the dim that is summed; rows of both as the same leading dim."""
    factors, product = _matrices(op.operand("self"), op.operand(op.first("other", "mat2", "vec", "tensor")))
    return by_letters(factors, product, _SUMS)


@rule("addmm baddbmm addmv", accepts=[Packed])
def sum_and_matrix_product(op: Op) -> Claims:
    """As a product; what is added is broadcast to it."""
    first, second = op.operand(op.first("mat1", "batch1", "mat")), op.operand(op.first("mat2", "batch2", "vec"))
    factors, product = _matrices(first, second)
    added = op.operand("self")
    return by_letters([*factors, (added, at_right(product, added))], product, _SUMS)


@rule("addbmm")
def sum_of_matrix_products(op: Op) -> Claims:
    """Sums over the leading dim, too."""
    added = op.operand("self")
    factors = [(op.operand("batch1"), "bnk"), (op.operand("batch2"), "bkm"), (added, at_right("nm", added))]
    return by_letters(factors, "nm", _SUMS)


@rule("outer ger addr")
def outer_product(op: Op) -> Claims:
    """Each entry of one with each of the other: only one of them may have rows."""
    vectors: list[tuple[Operand, Letters]] = [(op.operand(op.first("vec1", "self")), "n"), (op.operand("vec2"), "m")]
    if op.name == "addr":
        added = op.operand("self")
        vectors.append((added, at_right("nm", added)))
    return by_letters(vectors, "nm", _SUMS)


@rule("inner")
def inner_product(op: Op) -> Claims:
    """Sums over the last dim of both."""
    first, second = op.operand("self"), op.operand("other")
    left: list[Letter] = [f"left {dim}" for dim in range(first.rank - 1)]
    right: list[Letter] = [f"right {dim}" for dim in range(second.rank - 1)]
    operands: list[tuple[Operand, Letters]] = [(first, [*left, "k"]), (second, [*right, "k"])]
    return by_letters(operands, [*left, *right], _SUMS)


@rule("linear", accepts=[Packed])
def linear(op: Op) -> Claims:
    """Never over the last dim; a weight that has rows along the features it gives is one more product."""
    given, weight, bias = op.operand("input"), op.operand("weight"), op.operand("bias")
    ahead = lead(given.rank)[:-1]
    result = [*ahead, *["n"] * (weight.rank > 1)]
    factors: list[tuple[Operand, Letters]] = [(given, [*ahead, "k"]), (weight, "nk"[-weight.rank :])]
    if op.has("bias"):
        factors.append((bias, at_right(result, bias)))
    return by_letters(factors, result, "a linear layer sums over")


@rule("bilinear")
def bilinear(op: Op) -> Claims:
    """As `linear`, of two inputs."""
    first, second = op.operand("input1"), op.operand("input2")
    ahead = lead(first.rank)[:-1]
    factors: list[tuple[Operand, Letters]] = [(first, [*ahead, "i"]), (second, [*ahead, "j"])]
    factors += [(op.operand("weight"), "nij"), (op.operand("bias"), "n")]
    return by_letters(factors, [*ahead, "n"], "a bilinear layer sums over")


@rule("einsum")
def einsum(op: Op) -> Claims:
    """By its own letters; "..." is as many as there are dims left, equal at the right."""
    inputs, arrow, output = op.get("equation").replace(" ", "").partition("->")
    tensors = op.operands("tensors")
    spelled = [_spelled(text, tensor) for text, tensor in zip(inputs.split(","), tensors, strict=True)]
    operands = list(zip(tensors, spelled, strict=True))
    dots = lead(max(sum(isinstance(letter, int) for letter in letters) for letters in spelled))
    if not arrow:
        once = sorted(letter for letter in set(inputs) - set(",.") if inputs.count(letter) == 1)
        return by_letters(operands, [*dots, *once], "einsum sums over")
    before, _, after = output.partition("...")
    return by_letters(operands, [*before, *(dots if "..." in output else []), *after], "einsum sums over")


def _spelled(text: str, tensor: Operand) -> list[Letter]:
    before, dots, after = text.partition("...")
    return [*before, *(lead(tensor.rank - len(before) - len(after)) if dots else []), *after]


@rule("tensordot")
def tensordot(op: Op) -> Claims:
    """Sums over the dims that are named."""
    first, second = op.operand("self"), op.operand("other")
    left: list[Letter] = [f"left {dim}" for dim in range(first.rank)]
    right: list[Letter] = [f"right {dim}" for dim in range(second.rank)]
    for place, (one, other) in enumerate(zip(op.dims("dims_self", first), op.dims("dims_other", second), strict=True)):
        left[one] = right[other] = place
    result = [letter for letter in [*left, *right] if isinstance(letter, str)]
    return by_letters([(first, left), (second, right)], result, _SUMS)


@rule("cdist _cdist_forward")
def distances(op: Op) -> Claims:
    """Between each vector of one and each of the other."""
    first, second = op.operand("x1"), op.operand("x2")
    operands = [(first, [*lead(first.rank - 2), "n", "k"]), (second, [*lead(second.rank - 2), "m", "k"])]
    return by_letters(operands, [*lead(max(first.rank, second.rank) - 2), "n", "m"], "a distance sums over")


@rule("cosine_similarity linalg_vecdot pairwise_distance linalg_cross cross")
def along_one_dim(op: Op) -> Claims:
    """Of vectors along one dim, of operands that are broadcast. The dim that is kept by `keepdim` is the last."""
    operands = [op.operand(op.first("x1", "x", "self")), op.operand(op.first("x2", "y", "other"))]
    rank = max(operand.rank for operand in operands)
    dim = op.get("dim", -1)
    if dim is None:
        unknown("a cross product that is given no dim")
    summed = dim % rank - rank
    result: list[Letter] = list(lead(rank))
    if op.name in ("linalg_cross", "cross"):
        result[summed] = "one of its own"
    else:
        result.remove(summed)
    return by_letters([(operand, lead(operand.rank)) for operand in operands], result, f"{op.name} over")


@rule("""
    linalg_inv linalg_inv_ex inverse linalg_det det logdet slogdet linalg_slogdet _linalg_det _linalg_slogdet
    linalg_cholesky linalg_cholesky_ex cholesky linalg_qr linalg_svd _linalg_svd linalg_svdvals linalg_eigh
    _linalg_eigh linalg_eigvalsh linalg_matrix_exp matrix_exp linalg_matrix_power matrix_power linalg_lu_factor
""")
def of_each_matrix(op: Op) -> Claims:
    """Never over the last two dims; all results keep the others."""
    given = op.operand(op.first("A", "self"))
    assert isinstance(given.claim, Rows)
    if given.claim.dim >= given.rank - 2:
        mixes(f"{op.name} over the rows")
    return op.each(given.claim)


@rule("linalg_solve linalg_solve_ex linalg_solve_triangular cholesky_solve")
def solve(op: Op) -> Claims:
    """Of each matrix; rows of both as the same leading dim."""
    if op.name == "cholesky_solve":
        matrix, right = op.operand("input2"), op.operand("self")
    else:
        matrix, right = op.operand(op.first("A", "self")), op.operand("B")
    own = 1 if op.name in ("linalg_solve", "linalg_solve_ex") and _are_vectors(matrix, right) else 2
    letters = [[*lead(matrix.rank - 2), "own", "own"], [*lead(right.rank - own), *["own"] * own]]
    result = op.result[0] if isinstance(op.result, list | tuple) else op.result
    return op.each(by_letters(zip((matrix, right), letters, strict=True), lead(result.dim() - own), f"{op.name} over"))


def _are_vectors(matrix: Operand, right: Operand) -> bool:
    """Whether the right side is one vector per matrix, as torch decides it."""
    if right.rank == 1:
        return True
    return right.rank == matrix.rank - 1 and all(map(equal, right.sizes, matrix.sizes[:-1]))
