"""The proof of padding over an exported graph, from the contract's words to its own and back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch.fx import Graph, Node

from torchpool.capture import shapes as capture_shapes
from torchpool.contract import Contract, OutputSpec, PaddingVerdict, ShapeCheck, ShapeEqual, brief
from torchpool.contract.pads.verdict import PaddedInput, PaddedOutput, PadVerdict, prove_padding

log = logging.getLogger("torchpool")

PADDED = "padded"
"""Of the meta of a call's tensor: its batch dim, and the dim and number of a symbol whose padding reaches nothing that
is kept, as is proven on the graph."""


def prove_pads(
    flat: Graph,
    given: Sequence[Node],
    results: Sequence[Node],
    contract: Contract,
    checks: Sequence[ShapeCheck | ShapeEqual],
    constants: Mapping[Node, torch.Tensor],
    tables: Mapping[Node, torch.Tensor],
) -> tuple[PaddingVerdict, ...]:
    """What is proven of each padded length of a graph whose rows are proven independent.

    given, results: the nodes of the call's tensors and of what it gives. checks: the sizes that the graph is for.
    constants, tables: of placeholders, the tensors that nobody can change, and buffers.
    """
    found = []
    for symbol in sorted(contract.padded):
        dims = [_dims(symbol, capture_shapes.sizes_of(spec)) for spec in contract.inputs]
        least = [check.low for check in checks if isinstance(check, ShapeCheck) and check.dim in dims[check.input]]
        if max(least, default=0) > 1:
            why = f"the graph is for lengths from {max(least)} on, and shorter calls are padded to these"
            found.append(numbers(symbol, why))
            continue
        inputs = {
            node: PaddedInput(own, spec.pad if own else None)
            for node, own, spec in zip(given, dims, contract.inputs, strict=True)
        }
        outputs = [(node, _padded_output(spec, symbol)) for node, spec in zip(results, contract.outputs, strict=True)]
        try:
            verdict, _ = prove_padding(flat, inputs, outputs, constants, tables)
        except Exception as error:
            # A graph may have sizes that no rule knows: it is served all the same, as numbers have shown it right.
            log.debug("the proof of padding fails", exc_info=True)
            found.append(numbers(symbol, f"the proof fails: {brief(error)}"))
        else:
            found.append(_in_words(symbol, verdict))
    return tuple(found)


def _padded_output(spec: OutputSpec, symbol: str) -> PaddedOutput:
    trims = {trim.dim: (trim.scale, trim.offset) for trim in spec.trims if trim.symbol == symbol}
    if spec.batch_dim is None or (spec.outer, spec.inner) == (1, 1):
        return PaddedOutput(trims)
    return PaddedOutput(trims, (spec.batch_dim, "outer" if spec.outer is None else "inner"))


def _in_words(symbol: str, verdict: PadVerdict) -> PaddingVerdict:
    if verdict.kind == "proven":
        return PaddingVerdict(symbol, "proven", f"padding of {symbol} proven")
    where = f", {verdict.source}" if verdict.source else f" ({verdict.op})" if verdict.op else ""
    if verdict.kind == "conditional":
        text = f"padding of {symbol} proven for some calls, by numbers for others: {verdict.reason}{where}"
        return PaddingVerdict(symbol, "conditional", text, verdict.op, verdict.source)
    return numbers(symbol, f"{verdict.reason}{where}", verdict.op, verdict.source)


def _dims(symbol: str, sizes: Sequence[int | str]) -> tuple[int, ...]:
    return tuple(dim for dim, size in enumerate(sizes) if size == symbol)


def numbers(symbol: str, why: str, op: str | None = None, source: str | None = None) -> PaddingVerdict:
    """Nothing is proven: padding rests on the numbers that were tried."""
    return PaddingVerdict(symbol, "numbers", f"padding of {symbol} by numbers: {why}", op, source)
