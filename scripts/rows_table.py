"""Prints what is proven of the rows of the zoo's models and some larger ones, what it costs, and what serves them.

    python scripts/rows_table.py [NAME]...     # only models whose name holds one of these

Per model: what the zoo says of it, the verdict with operator and line, the seconds of the export, the milliseconds of
the proof, the operators of the graph; what serves it once wrapped (a proven graph, a lifted one, or the module, call by
call), and how many results of its calls from 8 threads, by map and by submit are not what the model gives in eager;
then totals.
"""

from __future__ import annotations

import collections
import logging
import statistics
import sys
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "python"), str(ROOT / "tests" / "zoo")]

import torch  # noqa: E402  # behind the paths of what is imported next
import zoo_large  # noqa: E402
import zoo_media  # noqa: E402
import zoo_python  # noqa: E402
import zoo_text  # noqa: E402
import zoo_torch  # noqa: E402
from bad_models import assert_same  # noqa: E402
from rows_capture import NoGraph, export  # noqa: E402
from support import eager, run_threads  # noqa: E402
from zoo import Entry  # noqa: E402

import torchpool  # noqa: E402
from torchpool.call.arguments import as_call  # noqa: E402

MODELS = [*zoo_text.MODELS, *zoo_media.MODELS, *zoo_torch.MODELS, *zoo_python.MODELS, *zoo_large.MODELS]
HEAD = (
    f"{'model':34} {'label':6} {'verdict':8} {'export s':>8} {'proof ms':>8} {'ops':>5} "
    f"{'served':8} {'wrong':>9}  where"
)
THREADS = 8
SECONDS = 120  # for a graph to come, and for a call


@dataclass(frozen=True)
class Proven:
    kind: str
    seconds: float
    milliseconds: float | None
    ops: int
    where: str


@dataclass(frozen=True)
class Served:
    by: str
    calls: int
    wrong: int


def served(entry: Entry) -> Served:
    """What serves the wrapped model, and how many results of calls that come in three ways are not eager's."""
    model, oracle, calls = entry.build(), entry.build(), [as_call(call) for call in entry.calls()]
    expected = [eager(oracle, *args, **kwargs) for args, kwargs in calls]
    wrong: list[int] = []  # by each thread

    def differs(got: Any, want: Any) -> bool:
        try:
            assert_same(got, want)
        except AssertionError:
            return True
        return False

    with torchpool.wrap(model, example=entry.calls()[:2], pad=entry.pad) as predict:

        def call_all(number: int) -> None:
            found = 0
            for i in range(len(calls)):
                args, kwargs = calls[(i + number) % len(calls)]
                found += differs(predict(*args, **kwargs), expected[(i + number) % len(calls)])
            wrong.append(found)

        run_threads(THREADS, call_all)
        predict.ready(SECONDS)
        run_threads(THREADS, call_all)
        many = entry.calls() * 4
        results = predict.map(many) if isinstance(many[0], torch.Tensor) else predict.starmap(many)
        wrong.append(sum(map(differs, results, expected * 4)))
        futures = [predict.submit(*args, **kwargs) for args, kwargs in calls * 4]
        wrong.append(sum(map(differs, [future.result(SECONDS) for future in futures], expected * 4)))
        merging = {c.rows.kind for c in predict.explain().contracts if c.rows is not None and c.mode == "merge"}
        by = "alone" if not merging <= {"proven", "lifted"} or not merging else " and ".join(sorted(merging))
    return Served(by, (2 * THREADS + 8) * len(calls), sum(wrong))


def proven(entry: Entry) -> Proven:
    """What is proven of its rows."""
    begin = time.perf_counter()
    try:
        exported = export(entry.build(), entry.calls())
    except NoGraph as problem:
        spent = time.perf_counter() - begin
        return Proven("no graph", spent, None, 0, str(problem)[:110])
    spent = time.perf_counter() - begin
    begin = time.perf_counter()
    verdict, _ = exported.prove()
    proof = (time.perf_counter() - begin) * 1e3
    where = "" if verdict.proven else f"{verdict.op}, {verdict.source}: {verdict.reason}"
    return Proven(verdict.kind, spent, proof, verdict.ops, where)


def main(names: list[str]) -> None:
    logging.disable(logging.ERROR)  # what export says before it raises
    warnings.simplefilter("ignore")
    print(HEAD)
    kinds: dict[str, collections.Counter[str]] = {"safe": collections.Counter(), "unsafe": collections.Counter()}
    times, ways, calls, wrong = [], collections.Counter[str](), 0, 0
    for entry in MODELS:
        if names and not any(name in entry.name for name in names):
            continue
        label, found, use = "safe" if entry.safe else "unsafe", proven(entry), served(entry)
        milliseconds = "" if found.milliseconds is None else f"{found.milliseconds:.1f}"
        print(
            f"{entry.name:34} {label:6} {found.kind:8} {found.seconds:8.2f} {milliseconds:>8} {found.ops:5} "
            f"{use.by:8} {use.wrong:3} of {use.calls:3}  {found.where}",
            flush=True,
        )
        kinds[label][found.kind] += 1
        ways[use.by] += 1
        calls, wrong = calls + use.calls, wrong + use.wrong
        if found.milliseconds is not None:
            times.append(found.milliseconds)
    for label, found in kinds.items():
        print(f"{label}: {found.total()}; " + ", ".join(f"{count} {kind}" for kind, count in found.most_common()))
    print("served: " + ", ".join(f"{count} {by}" for by, count in ways.most_common()) + f"; {wrong} of {calls} wrong")
    if times:
        print(f"proof: median {statistics.median(times):.1f} ms, longest {max(times):.1f} ms")


if __name__ == "__main__":
    main(sys.argv[1:])
