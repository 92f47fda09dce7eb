"""Decides which lengths may differ within a batch: from the samples, or from cut copies of a single sample."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from torchpool.contract.probe.perturb import Layout, cut, is_mask
from torchpool.contract.probe.ragged import Number, PadProver, Ragged, find_ragged, proposals, shorter
from torchpool.contract.probe.rows import RowProof, RowProver
from torchpool.contract.probe.run import Leaves, Runner, Unsafe

_NOT_USED = "padding is not used: "
_MAX_ALIKE = 3  # sample calls of equal shapes whose rows are used


def prove_at_length(
    runner: Runner,
    layout: Layout,
    stated: Mapping[str, int],
    calls: Sequence[Leaves],
    lengths: Mapping[str, int],
    sizes: Sequence[int],
    known: Sequence[RowProof],
    *,
    proof_follows: bool = False,
) -> RowProof:
    """Row independence for `calls` of equal lengths; raises Unsafe, also where the axes are not `known`'s."""
    where = f" at {', '.join(f'{s}={n}' for s, n in lengths.items())}" if known else ""
    shared = [i for i, dim in enumerate(layout.dims) if dim is None]
    alike = [call for call in calls if all(torch.equal(call[i], calls[0][i]) for i in shared)]
    proof = RowProver(runner, layout, stated, where).prove(
        alike[:_MAX_ALIKE], sizes, calls, leaks=not (known and proof_follows)
    )
    if known and proof.axes != known[0].axes:
        text = f"batch axes of the outputs are {proof.axes}{where}, but {known[0].axes} in the first sample"
        raise Unsafe("output axes", text, stage=2)
    return proof


class LengthFinder:
    """Finds symbols and padding for a layout whose rows are proven independent."""

    def __init__(
        self,
        runner: Runner,
        layout: Layout,
        stated: Mapping[str, int],
        pads: Mapping[str, Number],
        sizes: Sequence[int],
        *,
        proof_follows: bool = False,
    ) -> None:
        self.runner, self.layout, self.stated, self.pads, self.sizes = runner, layout, stated, pads, sizes
        self.proof_follows = proof_follows

    def find(self, samples: Sequence[Leaves], proofs: Sequence[RowProof]) -> Ragged:
        """The sizes of the inputs, and the padding that was proven; `why_not` where there is none to use."""
        ragged = find_ragged(samples, self.layout)
        if ragged.places:
            self._pad(ragged, proofs)
            return ragged
        checks = self.runner.checks
        for places in proposals(samples[0], self.runner.names, self.layout, self.pads):
            before = len(checks)
            try:
                longer = self._cut_copies(samples[0], places, proofs)
            except Unsafe as failure:
                if failure.serial:
                    raise
                del checks[before:]
                ragged.why_not = ragged.why_not or f"lengths are fixed: {failure.reason}"
                continue
            if longer is not None and longer.padded:
                return longer
            del checks[before:]
            if longer is not None:
                ragged.why_not = ragged.why_not or longer.why_not
        return ragged

    def _cut_copies(
        self, whole: Leaves, places: list[tuple[int, int, str]], proofs: Sequence[RowProof]
    ) -> Ragged | None:
        """A single sample: cut copies stand for calls of other lengths. None where the model refuses them."""
        leaf, dim, symbol = places[0]
        calls = [whole]
        for length in shorter(whole[leaf].shape[dim]):
            piece = cut(whole, places, {symbol: length})
            try:
                self.runner(piece)
            except Unsafe:
                raise
            except Exception:
                continue
            calls.append(piece)
        if len(calls) == 1:
            return None
        ragged = find_ragged(calls, self.layout)
        more = [
            prove_at_length(
                self.runner, self.layout, self.stated, [call], ragged.lengths(call), self.sizes, proofs,
                proof_follows=self.proof_follows,
            )
            for call in calls[1:]
        ]  # fmt: skip
        self._pad(ragged, [*proofs, *more])
        return ragged

    def _pad(self, ragged: Ragged, proofs: Sequence[RowProof]) -> None:
        """Fills in what padding can be proven: all symbols together, else one alone."""
        names, sample = self.runner.names, proofs[0].units[0]
        symbols = sorted({symbol for _, _, symbol in ragged.places})
        paddable = []
        for symbol in symbols:
            leaves = [leaf for leaf, _, name in ragged.places if name == symbol]
            sources = [i for i in leaves if names[i] in self.pads or is_mask(names[i], sample[i])]
            if sources and not any(self.layout.dims[i] is None for i in leaves):
                paddable.append(symbol)
        no_source = "no pad value was given and no input is a mask"
        if not paddable:
            dims = ", ".join(f"{names[leaf]!r} dim {dim}" for leaf, dim, _ in ragged.places)
            ragged.why_not = f"{_NOT_USED}{no_source}; calls merge only with calls of equal lengths ({dims})"
            return
        tries = [frozenset(paddable)] + ([frozenset({s}) for s in paddable] if len(paddable) > 1 else [])
        for chosen in tries:
            try:
                PadProver(self.runner, self.layout, ragged, self.stated, proofs).prove(chosen, self.pads)
            except Unsafe as failure:
                if failure.serial:
                    raise
                ragged.why_not = ragged.why_not or f"{_NOT_USED}{failure.reason}"
                continue
            rest = sorted(set(symbols) - chosen)
            why = ragged.why_not or no_source
            ragged.why_not = f"lengths {', '.join(rest)} are not padded: {why}" if rest else None
            return
