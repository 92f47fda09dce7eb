"""Scaled dot-product attention."""

from __future__ import annotations

from torchpool.contract.rows.domain import Claims, random
from torchpool.contract.rows.letters import Letter, Letters, by_letters, lead
from torchpool.contract.rows.op import Op, Operand
from torchpool.contract.rows.registry import rule


@rule("""
    scaled_dot_product_attention _scaled_dot_product_flash_attention_for_cpu _scaled_dot_product_attention_math
""")
def attention(op: Op) -> Claims:
    """Never along what is attended to or from, nor along heads that share keys; masks are broadcast."""
    if op.get("dropout_p"):
        random("attention with dropout")
    own = 3 if op.get("enable_gqa") else 2
    names = ("query", "key", "value", "attn_mask", "dropout_mask")
    operands = [op.operand(name) for name in names if op.has(name)]
    rank = max(operand.rank for operand in operands)
    result: list[Letter] = [*lead(rank)[: rank - own], *["result"] * own]
    return op.each(by_letters([_lettered(operand, own) for operand in operands], result, "attention over"))


def _lettered(operand: Operand, own: int) -> tuple[Operand, Letters]:
    return operand, [letter if letter < -own else "attended" for letter in range(-operand.rank, 0)]
