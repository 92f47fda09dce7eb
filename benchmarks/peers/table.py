"""The table of engines: kept in benchmarks/results/peers.json, put into README.md, `python -m benchmarks.peers.table`.

With `--check` it writes nothing and fails where the README's table is not what the file gives.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.peers.contest import Outcome
from benchmarks.peers.engines import ENGINES
from benchmarks.peers.models import MODELS

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "benchmarks" / "results" / "peers.json"
README = ROOT / "README.md"
BEGIN, END = "<!-- make bench-peers: from here -->", "<!-- make bench-peers: to here -->"
OURS = "torchpool"
PEERS = tuple(engine for engine in ENGINES if engine not in (OURS, "loop"))
LEVEL = 0.02  # as much faster or slower is neither

Recorded = Mapping[str, Any]


def record(title: str, items: int, rounds: int, outcomes: Mapping[str, Outcome]) -> dict[str, Any]:
    """A model's figures, as they are kept."""
    engines = {engine: asdict(outcome) for engine, outcome in outcomes.items()}
    return {"title": title, "items": items, "rounds": rounds, "engines": engines}


def _seconds(recorded: Recorded, engine: str) -> float | None:
    seconds: float | None = recorded["engines"].get(engine, {}).get("seconds")
    return seconds


def failed(recorded: Recorded) -> bool:
    """Whether torchpool was measured, and failed."""
    return OURS in recorded["engines"] and _seconds(recorded, OURS) is None


def lines(recorded: Recorded) -> str:
    """A line an engine, with its setting or why it failed; its time over torchpool's behind the time."""
    ours = _seconds(recorded, OURS)
    found = []
    for engine, outcome in recorded["engines"].items():
        seconds = outcome["seconds"]
        if seconds is None:
            found.append(f"  {engine:16}{outcome['failure']}")
            continue
        ratio = "" if ours is None else f"{seconds / ours:8.2f}"
        found.append(f"  {engine:16}{seconds * 1e6:10.1f} us an item{ratio}  {outcome['setting']}".rstrip())
    return "\n".join(found)


def _verdict(recorded: Recorded) -> str:
    """The best peer's time over ours, and who that is where it leads."""
    ours = _seconds(recorded, OURS)
    peers = {engine: seconds for engine in PEERS if (seconds := _seconds(recorded, engine)) is not None}
    if ours is None:
        return "torchpool failed"
    if not peers:
        return "-"
    best = min(peers, key=lambda engine: peers[engine])
    ratio = peers[best] / ours
    name = best if ratio <= 1 + LEVEL else ""
    return f"{ratio:.2f}" + ("" if not name else f", {name} leads" if ratio < 1 - LEVEL else f", level with {name}")


def markdown(about: Mapping[str, Any], models: Mapping[str, Recorded]) -> str:
    """The table, and what it was measured on."""
    flags = "AVX512" if "avx512f" in about["cpu_flags"] else "AVX2" if "avx2" in about["cpu_flags"] else "no AVX2"
    used = [engine for engine in ENGINES if any(engine in recorded["engines"] for recorded in models.values())]
    head = f"us an item; {about['cpu']}, {about['cores_usable']} cores, {flags}, torch {about['torch']}"
    rows = [[head, *used, "best other / torchpool"], ["---"] * (len(used) + 2)]
    for name in MODELS:
        if name in models:
            figures = [_seconds(models[name], engine) for engine in used]
            cells = ["-" if one is None else f"{one * 1e6:,.{1 if one < 1e-4 else 0}f}" for one in figures]
            rows.append([models[name]["title"], *cells, _verdict(models[name])])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def keep(about: Mapping[str, Any], models: Mapping[str, Recorded]) -> None:
    """Writes these models' figures in place of theirs; figures of another machine do not stay beside them."""
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    before = kept.get("machine", {})
    same = all(before.get(key) == about[key] for key in ("cpu", "cpu_flags", "cores_usable", "torch"))
    whole = {
        "date": datetime.date.today().isoformat(),
        "machine": about,
        "models": {**(kept["models"] if same else {}), **models},
    }
    KEPT.write_text(json.dumps(whole, indent=2) + "\n")


def put(check: bool = False) -> int:
    """Puts the kept table between the README's marks; with `check` 1 where another one is there."""
    text = README.read_text()
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not begun or not ended:
        raise SystemExit(f"README.md has no place for the table: {BEGIN} and {END}, each on a line of its own")
    if not KEPT.exists():
        return 0
    kept = json.loads(KEPT.read_text())
    wanted = f"{before}{BEGIN}\n\n{markdown(kept['machine'], kept['models'])}\n\n{END}{after}"
    if check:
        if text != wanted:
            print(f"README.md's table of engines is not what {KEPT.name} gives", file=sys.stderr)
        return int(text != wanted)
    README.write_text(wanted)
    print(f"written: README.md, from {KEPT.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="fail where the README's table is another one")
    sys.exit(put(parser.parse_args().check))
