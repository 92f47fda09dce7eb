"""What the graph backend is to reach, all of it: `python -m benchmarks.graph [forward nodes startup busy resident]`.

Each part is a module that can also be run alone. About four minutes on two idle cores.
"""

from typing import Any

from benchmarks.graph import busy, forward, nodes, resident, startup
from benchmarks.harness.parts import main, of_module
from benchmarks.harness.wanted import Figure


def _forward() -> tuple[dict[str, Any], list[Figure]]:
    found = {}
    for name in forward.ROUNDS:
        found[name] = forward.measure(name)
        print(f"{name}, MiniLM's forward pass alone", forward.describe(found[name]), sep="\n", flush=True)
    return found, [figure for name in found for figure in forward.figures(name, found[name])]


PARTS = {
    "forward": _forward,
    "nodes": of_module(nodes),
    "startup": of_module(startup),
    "busy": of_module(busy),
    "resident": of_module(resident),
}


if __name__ == "__main__":
    raise SystemExit(main(PARTS, __doc__))
