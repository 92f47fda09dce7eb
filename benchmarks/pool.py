"""What torchpool.ThreadPoolExecutor is to reach, all of it: `python -m benchmarks.pool [tasks loops]`.

Both parts can also be run alone, as benchmarks.executor and benchmarks.executor_loops. About five minutes on two idle
cores.
"""

import argparse
from typing import Any

from benchmarks import executor, executor_loops
from benchmarks.wanted import Figure, all_good, table


def _tasks() -> tuple[dict[str, Any], list[Figure]]:
    found = executor.measure()
    print(executor.describe(found), flush=True)
    return found, executor.figures(found)


def _loops() -> tuple[dict[str, Any], list[Figure]]:
    found = executor_loops.measure()
    return found, executor_loops.figures(found)


PARTS = {"tasks": _tasks, "loops": _loops}


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
