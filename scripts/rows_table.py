"""Prints what is proven of the rows of the zoo's models and of some larger ones, where it ends, and what it costs.

    python scripts/rows_table.py [NAME]...     # only models whose name holds one of these

Per model: what the zoo says of it, the verdict with operator and line, the seconds of the export, the milliseconds of
the proof, the operators of the graph; then totals.
"""

from __future__ import annotations

import collections
import logging
import statistics
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "python"), str(ROOT / "tests" / "zoo")]

import torch  # noqa: E402  # behind the paths of what is imported next
import zoo_large  # noqa: E402
import zoo_media  # noqa: E402
import zoo_python  # noqa: E402
import zoo_text  # noqa: E402
import zoo_torch  # noqa: E402
from rows_capture import NoGraph, export  # noqa: E402
from zoo import Entry  # noqa: E402

MODELS = [*zoo_text.MODELS, *zoo_media.MODELS, *zoo_torch.MODELS, *zoo_python.MODELS, *zoo_large.MODELS]
HEAD = f"{'model':34} {'label':6} {'verdict':8} {'export s':>8} {'proof ms':>8} {'ops':>5}  where"


def row(entry: Entry) -> tuple[str, str, float | None]:
    """The line of the table, the verdict, and the milliseconds of the proof."""
    label = "safe" if entry.safe else "unsafe"
    begin = time.perf_counter()
    try:
        exported = export(entry.build(), entry.calls())
    except NoGraph as problem:
        spent = time.perf_counter() - begin
        return f"{entry.name:34} {label:6} no graph {spent:8.2f} {'':8} {'':5}  {str(problem)[:110]}", "no graph", None
    spent = time.perf_counter() - begin
    begin = time.perf_counter()
    verdict, _ = exported.prove()
    proof = (time.perf_counter() - begin) * 1e3
    where = "" if verdict.proven else f"{verdict.op}, {verdict.source}: {verdict.reason}"
    return (
        f"{entry.name:34} {label:6} {verdict.kind:8} {spent:8.2f} {proof:8.1f} {verdict.ops:5}  {where}",
        verdict.kind,
        proof,
    )


def main(names: list[str]) -> None:
    logging.disable(logging.ERROR)  # what export says before it raises
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(HEAD)
    kinds: dict[str, collections.Counter[str]] = {"safe": collections.Counter(), "unsafe": collections.Counter()}
    times = []
    for entry in MODELS:
        if names and not any(name in entry.name for name in names):
            continue
        line, kind, proof = row(entry)
        print(line, flush=True)
        kinds["safe" if entry.safe else "unsafe"][kind] += 1
        if proof is not None:
            times.append(proof)
    for label, found in kinds.items():
        print(f"{label}: {found.total()}; " + ", ".join(f"{count} {kind}" for kind, count in found.most_common()))
    if times:
        print(f"proof: median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1:])
