"""What the scheduling is to reach, all of it: `python -m benchmarks.scheduling [load batch_sizes ...]`.

Each part is a module that can also be run alone; benchmarks.serving, beside other serving layers, is apart: it needs
them. About six minutes on two idle cores.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import aio, batch_sizes, load, mixed, neighbours, tiny
from benchmarks.parts import main
from benchmarks.wanted import Figure


def _by_model(module: Any, names: tuple[str, ...]) -> Callable[[], tuple[dict[str, Any], list[Figure]]]:
    def measure() -> tuple[dict[str, Any], list[Figure]]:
        found = {}
        for name in names:
            found[name] = module.measure(name)
            print(module.describe_found(name, found[name]), flush=True)
        return found, [figure for name in names for figure in module.figures(name, found[name])]

    return measure


def _of(module: Any) -> Callable[[], tuple[dict[str, Any], list[Figure]]]:
    def measure() -> tuple[dict[str, Any], list[Figure]]:
        found = module.measure()
        print(module.describe_found(found), flush=True)
        return found, module.figures(found)

    return measure


PARTS = {
    "load": _by_model(load, load.MODELS),
    "batch_sizes": _by_model(batch_sizes, batch_sizes.WORKLOADS),
    "neighbours": _of(neighbours),
    "mixed": _of(mixed),
    "tiny": _of(tiny),
    "aio": _of(aio),
}


if __name__ == "__main__":
    raise SystemExit(main(PARTS, __doc__))
