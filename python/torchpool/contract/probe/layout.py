"""Lists where the batch may be, likeliest first: dim 0, dim 1, shared inputs, no batch dim at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from torchpool.contract.probe.perturb import Layout, Leaves

_MAX_PER_SIZE = 16  # layouts tried for one choice of the batch's size
_Sizes = tuple[int, ...]


def layouts(
    calls: Sequence[Leaves], names: Sequence[str], stated: Mapping[str, int | None]
) -> Iterator[tuple[Layout, int]]:
    """Layouts to try, each with the number of its family: all with the same rows in the sample calls."""
    leaves = calls[0]
    fixed = {
        i: stated[name] if stated[name] is None else _dim(name, stated[name] or 0, leaves[i].ndim)
        for i, name in enumerate(names)
        if name in stated
    }
    sizes = [{d: tuple(call[i].shape[d] for call in calls) for d in range(leaf.ndim)} for i, leaf in enumerate(leaves)]
    groups = _groups(calls, fixed)
    named = [i for i, dim in fixed.items() if dim is not None]
    places = [(i, fixed[i] or 0) for i in named] or [
        (i, d) for d in (0, 1) for i in range(len(leaves)) if d in sizes[i] and i not in fixed
    ]
    families: list[_Sizes] = []
    for leaf, dim in places:
        rows = sizes[leaf][dim]
        if rows in families or 0 in rows:
            continue
        families.append(rows)
        if any(sizes[i][fixed[i] or 0] != rows for i in named):
            raise ValueError(
                f"batch= names dims of unequal size: { ({names[i]: sizes[i][fixed[i] or 0] for i in named}) }"
            )
        options: list[list[int | None]] = []
        for group in groups:
            first = group[0]
            fitting: list[int | None] = [d for d, vector in sizes[first].items() if vector == rows]
            options.append([fixed[first]] if first in fixed else [*fitting, None])
        for choice in _choices(options):
            yield Layout(_spread(choice, groups, len(leaves))), len(families) - 1
    if named:
        return
    stacks: list[list[int | None]] = []
    for group in groups:
        if group[0] in fixed:
            stacks.append([None])
        elif leaves[group[0]].ndim == 0 and any(leaf.ndim for leaf in leaves):
            stacks.append([None, 0])
        else:
            stacks.append([0, None])
    for choice in _choices(stacks):
        yield Layout(_spread(choice, groups, len(leaves)), stacked=True), len(families)


def _dim(name: str, dim: int, rank: int) -> int:
    if not -rank <= dim < rank:
        raise ValueError(f"batch={{{name!r}: {dim}}}: the input has {rank} dims")
    return dim % rank


def _groups(calls: Sequence[Leaves], fixed: Mapping[int, int | None]) -> list[list[int]]:
    """Leaves of equal shapes and dtype have their rows in the same place (an LSTM's two states)."""
    found: dict[object, list[int]] = {}
    for i, leaf in enumerate(calls[0]):
        key = (tuple(call[i].shape for call in calls), leaf.dtype, fixed.get(i, -1))
        found.setdefault(key, []).append(i)
    return list(found.values())


def _choices(options: list[list[int | None]]) -> Iterator[tuple[int | None, ...]]:
    """Combinations with at least one batched group, those nearest to everybody's first option first."""
    ranked = itertools.islice(itertools.product(*(range(len(o)) for o in options)), 4096)
    picked = 0
    for ranks in sorted(ranked, key=lambda r: (sum(r), r)):
        choice = tuple(o[rank] for o, rank in zip(options, ranks, strict=True))
        if any(dim is not None for dim in choice):
            yield choice
            picked += 1
        if picked == _MAX_PER_SIZE:
            return


def _spread(choice: Sequence[int | None], groups: list[list[int]], count: int) -> tuple[int | None, ...]:
    dims: list[int | None] = [None] * count
    for dim, group in zip(choice, groups, strict=True):
        for i in group:
            dims[i] = dim
    return tuple(dims)
