"""Lengths that vary from call to call: which dims they are, and whether padding them changes nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from torchpool.contract.contract import Trim
from torchpool.contract.probe.perturb import Layout, Leaves, Places, cut, disturb, is_mask, is_number, pad_right
from torchpool.contract.probe.rows import PLAIN, RowProof, RowProver
from torchpool.contract.probe.run import OutOfTime, Runner, Unsafe, largest

Number = float | int | bool
_MAX_GROUPS = 3  # sets of calls that agree in the lengths that are not padded
_MAX_TOGETHER = 4  # calls of different lengths padded to one batch


@dataclass
class Ragged:
    """The sizes of a call's inputs, and what padding was proven for them."""

    sizes: list[list[int | str]]
    places: list[tuple[int, int, str]]
    padded: frozenset[str] = frozenset()
    values: dict[int, Number] = field(default_factory=dict)
    trims: dict[int, tuple[Trim, ...]] = field(default_factory=dict)
    why_not: str | None = None

    def lengths(self, call: Leaves) -> dict[str, int]:
        """The length of each symbol in this call."""
        return {symbol: call[leaf].shape[dim] for leaf, dim, symbol in self.places}


def find_ragged(calls: Sequence[Leaves], layout: Layout) -> Ragged:
    """Dims that differ between the calls; those that always vary together share a symbol."""
    symbols: dict[tuple[int, ...], str] = {}
    ragged = Ragged([], [])
    for i, leaf in enumerate(calls[0]):
        sizes: list[int | str] = []
        for dim in range(leaf.ndim):
            vector = tuple(call[i].shape[dim] for call in calls)
            if dim == layout.dims[i] and not layout.stacked:
                sizes.append("batch")
            elif len(set(vector)) == 1:
                sizes.append(vector[0])
            else:
                symbol = symbols.setdefault(vector, f"s{len(symbols)}")
                ragged.places.append((i, dim, symbol))
                sizes.append(symbol)
        ragged.sizes.append(sizes)
    return ragged


def proposals(
    call: Leaves, names: Sequence[str], layout: Layout, pads: Mapping[str, Number]
) -> Iterator[list[tuple[int, int, str]]]:
    """A single sample's dims that are likely lengths: a mask's last dim, or dims of the inputs in `pads`."""

    def free(i: int) -> list[int]:
        return [d for d in range(call[i].ndim) if layout.stacked or d != layout.dims[i]]

    def along(size: int, leaf: int, dim: int) -> list[tuple[int, int, str]]:
        found = []
        for i in layout.batched:
            fitting = [d for d in free(i) if call[i].shape[d] == size]
            if i == leaf:
                fitting = fitting if is_mask(names[i], call[i]) else [dim]
            elif not is_mask(names[i], call[i]):
                fitting = [dim] if dim in fitting else fitting[:1]
            found += [(i, d, "s") for d in fitting]
        return found

    seen: list[list[tuple[int, int, str]]] = []
    masks = [i for i in layout.batched if is_mask(names[i], call[i])]
    likely = [(i, d) for i in masks for d in free(i)[-1:]]
    likely += [(i, d) for i in layout.batched if names[i] in pads for d in free(i)]
    for i, d in likely:
        if call[i].shape[d] >= 2:
            places = along(call[i].shape[d], i, d)
            if places not in seen:
                seen.append(places)
                yield places


def shorter(length: int, taken: Sequence[int] = ()) -> list[int]:
    """Up to two lengths below `length`: about two thirds and less, one odd and one even where possible.

    They are small, because a long sample costs much to probe.
    """
    first = max(1, min(16, 2 * length // 3))
    wanted = [first, first - 1, length // 2, length - 1, length - 2]
    return [n for n in dict.fromkeys(wanted) if 1 <= n < length and n not in taken][:2]


class PadProver:
    """Tries to pad one set of symbols; `prove` fills the Ragged in, or raises Unsafe with what went wrong."""

    def __init__(
        self,
        runner: Runner,
        layout: Layout,
        ragged: Ragged,
        stated: Mapping[str, int],
        proofs: Sequence[RowProof],
    ) -> None:
        self.runner, self.layout, self.ragged, self.proofs = runner, layout, ragged, proofs
        self.rows = RowProver(runner, layout, stated)
        self.rows.axes = proofs[0].axes
        self.rows.own = [own for proof in proofs for own in proof.own[:1]]
        self.rows.folds = {j: [fold] for j, fold in enumerate(proofs[0].folds) if fold != PLAIN}
        self.rows.varies = True

    def prove(self, symbols: frozenset[str], pads: Mapping[str, Number]) -> None:
        """Proves padding of `symbols` together, with the user's values, else 0, and masks tried both ways."""
        names, sample = self.runner.names, self.proofs[0].units[0]
        self.symbols = symbols
        self.places: Places = [place for place in self.ragged.places if place[2] in symbols]
        leaves = sorted({leaf for leaf, _, _ in self.places})
        masks = [i for i in leaves if names[i] not in pads and is_mask(names[i], sample[i])]
        given = {i: pads[names[i]] for i in leaves if names[i] in pads}
        failures: list[Unsafe] = []
        for mask_value in (0, 1) if masks else (0,):
            values: dict[int, Number] = {}
            for i in leaves:
                value = given.get(i, mask_value if i in masks else 0)
                kind = bool if sample[i].dtype == torch.bool else float if sample[i].is_floating_point() else None
                values[i] = kind(value) if kind else value
            contents = [i for i in leaves if i not in masks and i not in given]
            try:
                trims = self._prove_values(values, contents if masks else [])
            except OutOfTime:
                raise
            except Unsafe as failure:
                failures.append(failure)
                continue
            self.ragged.padded, self.ragged.values, self.ragged.trims = symbols, values, trims
            return
        raise max(failures, key=lambda failure: failure.stage)

    def _prove_values(self, values: dict[int, Number], contents: list[int]) -> dict[int, tuple[Trim, ...]]:
        groups: dict[tuple[tuple[str, int], ...], list[tuple[Leaves, list[torch.Tensor]]]] = {}
        for proof in self.proofs:
            lengths = self.ragged.lengths(proof.units[0])
            key = tuple((s, n) for s, n in lengths.items() if s not in self.symbols)
            groups.setdefault(key, []).append((proof.units[0], proof.own[0].leaves))
        found: dict[int, tuple[Trim, ...]] | None = None
        worst_gap, most = 0.0, 0
        for calls in list(groups.values())[:_MAX_GROUPS]:
            points = self._more_lengths(calls, values)
            trims = {j: self._fit(j, points) for j in range(len(points[0][1]))}
            if found is not None and trims != found:
                raise Unsafe("output lengths", "output lengths follow no one formula (2 groups)")
            found = trims
            usable = [point for point in points if point[2]]
            if len({tuple(self._lengths(call).items()) for call, _, _ in usable}) < 2:
                raise Unsafe("padding", "the model ran at 1 length only")
            gap, count = self._prove_group([(call, own) for call, own, _ in usable], trims, values, contents)
            worst_gap, most = max(worst_gap, gap), max(most, count)
        text = f"{most} lengths together, differ by {worst_gap:.2g} of the largest value from their own calls"
        self.runner.record(f"padded equals separate ({', '.join(sorted(self.symbols))})", True, text)
        return {j: t for j, t in (found or {}).items() if t}

    def _lengths(self, call: Leaves) -> dict[str, int]:
        return {s: n for s, n in self.ragged.lengths(call).items() if s in self.symbols}

    def _more_lengths(
        self, calls: list[tuple[Leaves, list[torch.Tensor]]], values: dict[int, Number]
    ) -> list[tuple[Leaves, list[torch.Tensor], bool]]:
        """The calls, and copies cut along each symbol in turn; grown ones (False) only to learn sizes."""
        points = [(call, own, True) for call, own in calls]
        longest = max(calls, key=lambda item: sum(self._lengths(item[0]).values()))[0]
        full = self._lengths(longest)
        for symbol in sorted(self.symbols):
            taken = [self._lengths(call)[symbol] for call, _ in calls]
            tries = [cut(longest, self.places, {symbol: n}) for n in shorter(full[symbol], taken)]
            for attempt in tries:
                own = self._try(attempt)
                if own is not None:
                    points.append((attempt, own, True))
            if len({self._lengths(call)[symbol] for call, _, _ in points}) < 3:
                grown = pad_right(longest, self.places, {symbol: full[symbol] + 1}, values)
                own = self._try(grown)
                if own is not None:
                    points.append((grown, own, False))
        return points

    def _try(self, call: Leaves) -> list[torch.Tensor] | None:
        try:
            outcome = self.runner(call)
        except Unsafe:
            raise
        except Exception:
            return None
        return outcome.leaves if outcome.spec == self.rows.own[0].spec else None

    def _fit(self, j: int, points: Sequence[tuple[Leaves, list[torch.Tensor], bool]]) -> tuple[Trim, ...]:
        """size = scale * length + offset for each dim that varies, checked on all lengths."""
        name, axis = self.rows.own[0].spec.leaf_names[j], self.rows.axes[j]
        folded = j in self.rows.folds
        trims: list[Trim] = []
        for dim in range(points[0][1][j].ndim):
            if dim == axis and not self.layout.stacked and not folded:
                continue
            sizes = [(self._lengths(call), self._own_size(own[j], j, dim)) for call, own, _ in points]
            if len({size for _, size in sizes}) == 1:
                continue
            merged_dim = dim + 1 if self.layout.stacked and axis is not None and dim >= axis else dim
            for symbol in sorted(self.symbols):
                trim = _affine(merged_dim, symbol, [(lengths[symbol], size) for lengths, size in sizes])
                if trim is not None:
                    trims.append(trim)
                    break
            else:
                seen = ", ".join(f"{'/'.join(map(str, lengths.values()))}: {size}" for lengths, size in sizes)
                text = f"the size of dim {dim} of output {name!r} is no exact multiple"
                raise Unsafe("output lengths", f"{text} of a length plus a constant ({seen})")
        return tuple(trims)

    def _own_size(self, leaf: torch.Tensor, j: int, dim: int) -> int:
        """What varies with a call's lengths along a dim of its own output: of a fold, whatever is left."""
        if j not in self.rows.folds or dim != self.rows.axes[j]:
            return leaf.shape[dim]
        return leaf.shape[dim] // self._entries_of_one(j)

    def _entries_of_one(self, j: int) -> int:
        """Of a fold: entries for each of what is left."""
        outer, inner = self.rows.folds[j][0]
        return 1 if outer == 1 else inner

    def _prove_group(
        self,
        calls: list[tuple[Leaves, list[torch.Tensor]]],
        trims: dict[int, tuple[Trim, ...]],
        values: dict[int, Number],
        contents: list[int],
    ) -> tuple[float, int]:
        by_length = {tuple(self._lengths(call).items()): (call, own) for call, own in reversed(calls)}
        ordered = sorted(by_length.values(), key=lambda item: sum(self._lengths(item[0]).values()))
        gap = 0.0
        if self.runner.slow and len(ordered) > 2:
            # All of them beside the longest would cost too much: it gets one batch.
            ends = [ordered[0], ordered.pop()]
            gap = self._compare([c for c, _ in ends], [own for _, own in ends], trims, values, range(2), 1)
        # The longest is in every batch; the rest in lots.
        lots = [ordered[i : i + _MAX_TOGETHER - 1] for i in range(0, len(ordered) - 1, _MAX_TOGETHER - 1)]
        for lot in lots:
            batch = [item for item in lot if item is not ordered[-1]] + [ordered[-1]]
            owns = [own for _, own in batch]
            units = [call for call, _ in batch]
            for stage, fill in enumerate([values, *self._other_fills(units, values, contents)]):
                gap = max(gap, self._compare(units, owns, trims, fill, range(len(units)), min(stage, 1) + 1))
            names, last = self.runner.names, len(units) - 1
            numbers = any(is_number(units[0][i]) for i in self.layout.batched)
            for kept in (0, last):
                for factor in (30.0, 1000.0) if numbers else (1.0,):
                    changed = [
                        unit if i == kept else disturb(names, self.layout, unit, factor, True)
                        for i, unit in enumerate(units)
                    ]
                    self._compare(changed, owns, trims, values, [kept], 3)
        return gap, min(len(ordered), _MAX_TOGETHER)

    def _other_fills(
        self, units: list[Leaves], values: dict[int, Number], contents: list[int]
    ) -> list[dict[int, Number]]:
        """Under a mask, what the padding holds must not matter: other valid values of the sample."""
        fills = []
        for share in (1.0, 0.5) if contents else ():
            fill = dict(values)
            for i in contents:
                top = max(largest(unit[i]) for unit in units)
                fill[i] = -3.0 * top * share - 1.0 if is_number(units[0][i]) else math.floor(top * share)
                if units[0][i].dtype == torch.bool:
                    fill[i] = True
            fills.append(fill)
        return fills

    def _compare(
        self,
        units: list[Leaves],
        owns: list[list[torch.Tensor]],
        trims: dict[int, tuple[Trim, ...]],
        fill: dict[int, Number],
        indices: Sequence[int],
        stage: int,
    ) -> float:
        lengths = [self._lengths(unit) for unit in units]
        target = {s: max(n[s] for n in lengths) for s in self.symbols}
        merged = self.rows._run([pad_right(unit, self.places, target, fill) for unit in units])
        most = 0.0
        for i in indices:
            got = []
            for j in range(len(merged.leaves)):
                part = self.rows.part(merged, j, i, self.rows.fold_in(merged.leaves[j], j, len(units)))
                axis = self.rows.axes[j]
                for trim in trims[j]:
                    if j in self.rows.folds and trim.dim == axis:
                        # What is left is the outer size of (outer, inner), or all of it: its own entries come first.
                        one = self._entries_of_one(j)
                        if part.shape[trim.dim] == trim.size(target[trim.symbol]) * one:
                            part = part.narrow(trim.dim, 0, trim.size(lengths[i][trim.symbol]) * one)
                        continue
                    dim = trim.dim - 1 if self.layout.stacked and axis is not None and trim.dim > axis else trim.dim
                    if part.shape[dim] == trim.size(target[trim.symbol]):
                        part = part.narrow(dim, 0, trim.size(lengths[i][trim.symbol]))
                got.append(part)
            gap, j = self.rows.gap(got, owns[i])
            if gap > self.rows.bound(j):
                raise Unsafe(
                    "padded equals separate",
                    self._explain(gap, j, lengths[i], target, fill, stage),
                    stage=stage,
                )
            most = max(most, gap)
        return most

    def _explain(
        self,
        gap: float,
        j: int,
        own: dict[str, int],
        target: dict[str, int],
        fill: dict[int, Number],
        stage: int,
    ) -> str:
        output = self.rows.own[0].spec.leaf_names[j]
        filled = ", ".join(f"{self.runner.names[i]!r} with {value}" for i, value in fill.items())
        grown = ", ".join(f"{s} from {own[s]} to {target[s]}" for s in sorted(self.symbols))
        text = f"output {output!r} changes by {gap:.2g} of its largest value when {grown}"
        hint = {
            2: " (what the padding holds matters: state its value with pad=)",
            3: " and other requests change",
        }
        return f"{text} is padded ({filled}){hint.get(stage, '')}"


def _affine(dim: int, symbol: str, points: Sequence[tuple[int, int]]) -> Trim | None:
    """The exact line through all points, of three lengths at least; None where there is none."""
    (length, size), *_ = points
    second = next((p for p in points if p[0] != length), None)
    if second is None or len({p[0] for p in points}) < 3:
        return None
    scale, rest = divmod(second[1] - size, second[0] - length)
    trim = Trim(dim, symbol, scale, size - scale * length)
    return trim if not rest and scale > 0 and all(trim.size(n) == out for n, out in points) else None
