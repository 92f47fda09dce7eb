"""What the scheduling is to reach, all of it: `python -m benchmarks.scheduling [load batch_sizes ...]`.

Each part is a module that can also be run alone; benchmarks.serving, beside other serving layers, is apart: it needs
them. About nine minutes on two idle cores.
"""

from typing import Any

from benchmarks.harness.parts import Part, main, of_module
from benchmarks.harness.wanted import Figure
from benchmarks.predict import mixed, tiny
from benchmarks.scheduling import aio, batch_sizes, load, neighbours


def _by_model(module: Any, names: tuple[str, ...]) -> Part:
    def measure() -> tuple[dict[str, Any], list[Figure]]:
        found = {}
        for name in names:
            found[name] = module.measure(name)
            print(module.describe_found(name, found[name]), flush=True)
        return found, [figure for name in names for figure in module.figures(name, found[name])]

    return measure


PARTS = {
    "load": _by_model(load, load.MODELS),
    "batch_sizes": _by_model(batch_sizes, batch_sizes.WORKLOADS),
    "neighbours": of_module(neighbours),
    "mixed": of_module(mixed),
    "tiny": of_module(tiny),
    "aio": of_module(aio),
}


if __name__ == "__main__":
    raise SystemExit(main(PARTS, __doc__))
