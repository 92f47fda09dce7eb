"""The text of a graph's program, timed or not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torchpool.capture import BODY


@dataclass(frozen=True)
class Timing:
    """How long a program took on one batch."""

    sizes: tuple[tuple[int, ...], ...]
    """Of the batch's tensors."""
    seconds: Sequence[tuple[str, float]]
    """Operator and mean time of each instruction that a batch runs, in order."""


def program_listing(inputs: Sequence[str], program: str, timing: Timing | None = None) -> str:
    """The program of calls with these inputs, an instruction a line; with the time of each, and each operator's share,
    where it was timed."""
    title = f"graph of calls with ({', '.join(inputs)})"
    lines = program.splitlines()
    if timing is None:
        return "\n".join([f"{title}:", *lines])
    begin = lines.index(BODY) + 1
    for number, (_, seconds) in enumerate(timing.seconds, begin):
        lines[number] = f"{seconds * 1e6:10.1f} us{lines[number]}"
    sizes = ", ".join(map(str, timing.sizes))
    total = sum(seconds for _, seconds in timing.seconds)
    by_op: dict[str, float] = {}
    for op, seconds in timing.seconds:
        by_op[op] = by_op.get(op, 0.0) + seconds
    ordered = sorted(by_op.items(), key=lambda item: -item[1])
    shares = [f"{seconds / total:10.1%}     {op.removeprefix('aten::')}" for op, seconds in ordered]
    return "\n".join([f"{title} of sizes {sizes}, {total * 1e6:.1f} us:", *lines, "by operator:", *shares])
