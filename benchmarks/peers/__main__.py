"""torchpool beside other engines: seconds an item of each, of its best setting, measured in turns.

    python -m benchmarks.peers [--rounds 5] [--models lstm short ...] [--engines "ONNX Runtime" ...] [--write]

An item is a single input; engines that want batches put them together within their time, by length where lengths vary.
Each engine is a process of its own for each model. It tries its settings (sizes of batches, threads) once it is warm,
and stays up with the best. Medians of the rounds count. Results must be those of the plain loop. What an engine cannot
do, or not in its time, is told. With --write the figures go to benchmarks/results/peers.json, in place of those of the
same models, and the table of all of them into README.md.
"""

from __future__ import annotations

import argparse
import sys
import time

import torch

from benchmarks.harness import machine
from benchmarks.peers import table
from benchmarks.peers.contest import measure
from benchmarks.peers.engines import ENGINES
from benchmarks.peers.models import MODELS

ROUNDS = 5
BUSY_CORES = 0.5  # more than this, and the figures say little


def _step(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r  {text:<60}", end="\r", file=sys.stderr, flush=True)


def main() -> int:
    """Prints a table; 1 where torchpool itself failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.peers", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--engines", nargs="+", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--write", action="store_true", help="keep the figures, and put the table into README.md")
    args = parser.parse_args()
    about = machine.describe()
    print(f"{about['cpu']}, {about['cores_usable']} cores, {' '.join(about['cpu_flags'])}, torch {torch.__version__}")
    if (busy := machine.busy_cores()) > BUSY_CORES:
        print(f"warning: something else keeps {busy:.1f} cores busy: do not trust the figures below", flush=True)
    started = time.perf_counter()
    models = {}
    for name in args.models:
        model = MODELS[name]()
        print(f"\n{model.title}, {len(model.items)} items", flush=True)
        outcomes = measure(name, args.engines, args.rounds, _step)
        models[name] = table.record(model.title, len(model.items), args.rounds, outcomes)
        print(table.lines(models[name]), flush=True)
        if args.write:  # after each model: what has been measured is kept, whatever ends the rest
            table.keep(about, {name: models[name]})
    print(f"\n{time.perf_counter() - started:.0f} s in all\n\n{table.markdown(about, models)}")
    if args.write:
        table.put()
    return int(any(table.failed(recorded) for recorded in models.values()))


if __name__ == "__main__":
    sys.exit(main())
