"""What the graph backend is to reach, all of it: `python -m benchmarks.graph [forward nodes startup busy resident]`.

Each part is a module that can also be run alone. About four minutes on two idle cores.
"""

import argparse
from collections.abc import Callable
from typing import Any

from benchmarks import busy, forward, nodes, resident, startup
from benchmarks.wanted import Figure, all_good, table


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


def measure(parts: list[str]) -> tuple[dict[str, Any], list[Figure]]:
    """What each part measured, and its figures. A part that fails is recorded as such."""
    found: dict[str, Any] = {}
    figures: list[Figure] = []
    for part in parts:
        try:
            found[part], more = PARTS[part]()
        except Exception as error:
            found[part] = {"failure": f"{type(error).__name__}: {error}"}
            print(f"{part} failed: {found[part]['failure']}", flush=True)
            continue
        figures += more
    return found, figures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}")
    parts = parser.parse_args().parts or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))} (there are: {', '.join(PARTS)})")
    found, figures = measure(parts)
    print(table(figures))
    failed = any("failure" in part for part in found.values())
    return 0 if all_good(figures) and not failed else 1


if __name__ == "__main__":
    raise SystemExit(main())
