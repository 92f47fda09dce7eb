"""What the graph backend is to reach, all of it: `python -m benchmarks.graph [forward nodes startup busy resident]`.

Each part is a module that can also be run alone. About four minutes on two idle cores.
"""

from collections.abc import Callable
from typing import Any

from benchmarks import busy, forward, nodes, resident, startup
from benchmarks.parts import main
from benchmarks.wanted import Figure


def _forward() -> tuple[dict[str, Any], list[Figure]]:
    found = {}
    for name in forward.ROUNDS:
        found[name] = forward.measure(name)
        print(f"{name}, MiniLM's forward pass alone", forward.describe(found[name]), sep="\n", flush=True)
    return found, [figure for name in found for figure in forward.figures(name, found[name])]


def _of(module: Any) -> Callable[[], tuple[dict[str, Any], list[Figure]]]:
    def measure() -> tuple[dict[str, Any], list[Figure]]:
        found = module.measure()
        return found, module.figures(found)

    return measure


PARTS = {
    "forward": _forward,
    "nodes": _of(nodes),
    "startup": _of(startup),
    "busy": _of(busy),
    "resident": _of(resident),
}


if __name__ == "__main__":
    raise SystemExit(main(PARTS, __doc__))
