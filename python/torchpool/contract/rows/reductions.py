"""Operators over one or several dims: those that leave them out, and those that keep them."""

from __future__ import annotations

from torchpool.contract.rows.domain import Claims, Packed, Rows, mixes
from torchpool.contract.rows.lists import as_values
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.pointwise import pointwise
from torchpool.contract.rows.registry import rule


def _over(op: Op, dims: list[int], of: Operand) -> Rows | Packed:
    """What is claimed of a value once it is computed over these dims, which may not be the rows'."""
    held = as_values(of.claim)
    assert isinstance(held, Rows | Packed)
    if held.dim in dims:
        mixes(f"{op.name} over the rows" + (", as over all dims" if len(dims) == of.rank > 1 else ""))
    return held


@rule(
    """sum mean amax amin prod any all argmax argmin std var var_mean std_mean logsumexp special_logsumexp norm
    linalg_norm linalg_vector_norm linalg_matrix_norm frobenius_norm nuclear_norm nansum nanmean median nanmedian mode
    kthvalue aminmax count_nonzero""",
    accepts=[Packed],
)
def reduce(op: Op) -> Claims:
    """Over any dims but the rows', which are all dims where none are named."""
    of = op.operand("self")
    dims = op.dims("dim", of)
    held = _over(op, dims, of)
    return op.each(held if op.get("keepdim") else held.at(held.dim - sum(dim < held.dim for dim in dims)))


@rule("max min", accepts=[Packed])
def extreme(op: Op) -> Claims:
    """Of two tensors as any pointwise operator; of one as any reduction."""
    return pointwise(op) if "other" in op.arguments else reduce(op)


@rule("quantile nanquantile", accepts=[Packed])
def quantile(op: Op) -> Claims:
    """Over any dim but the rows'; a list of quantiles becomes the first dim."""
    q = op.operand("q")
    if not q.is_const:
        mixes("which quantile is taken comes from rows")
    held = reduce(op)
    assert isinstance(held, Rows | Packed)
    return held.at(held.dim + 1) if q.is_tensor and q.rank else held


@rule(
    """softmax _softmax special_softmax _safe_softmax log_softmax _log_softmax special_log_softmax cumprod cummax cummin
    logcumsumexp topk flip roll rot90 glu fft_fft fft_ifft fft_rfft fft_irfft fft_hfft fft_ihfft fft_fft2 fft_ifft2
    fft_rfft2
    fft_irfft2 fft_hfft2 fft_ihfft2 fft_fftn fft_ifftn fft_rfftn fft_irfftn fft_hfftn fft_ihfftn fft_fftshift
    fft_ifftshift _fft_c2c _fft_r2c _fft_c2r""",
    accepts=[Packed],
)
def along(op: Op) -> Claims:
    """Along any dims but the rows'; the dims stay. Without dims along all."""
    of = op.operand("self")
    return op.each(_over(op, op.dims(op.first("dim", "dims"), of), of))


@rule("diff")
def diff(op: Op) -> Claims:
    """Along any dim but the rows'; what is put before or behind has the same layout."""
    found = along(op)
    if any(op.has(name) and op.operand(name).claim != found for name in ("prepend", "append")):
        mixes("diff from values that are not aligned with the rows")
    return found


@rule("renorm")
def renorm(op: Op) -> Claims:
    """Along the rows' dim: each place there has the norm of its own entries."""
    of = op.operand("self")
    assert isinstance(of.claim, Rows)
    if of.claim.dim != of.dim(op.get("dim")):
        mixes("renorm takes norms over the rows")
    return of.claim
