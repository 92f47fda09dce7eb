"""Benchmarks of several parts: some of them, or all, in one run."""

import argparse
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmarks.harness.wanted import Figure, all_good, table

Part = Callable[[], tuple[dict[str, Any], list[Figure]]]
Parts = Mapping[str, Part]


def of_module(module: Any) -> Part:
    """A module's measure(), shown by its describe_found() where it has one, and its figures()."""

    def part() -> tuple[dict[str, Any], list[Figure]]:
        found = module.measure()
        if hasattr(module, "describe_found"):
            print(module.describe_found(found), flush=True)
        return found, module.figures(found)

    return part


def measure(parts: Parts, names: Sequence[str]) -> tuple[dict[str, Any], list[Figure]]:
    """What each part measured, and its figures. A part that fails is recorded as such."""
    found: dict[str, Any] = {}
    figures: list[Figure] = []
    for name in names:
        try:
            found[name], more = parts[name]()
        except Exception as error:
            found[name] = {"failure": f"{type(error).__name__}: {error}"}
            print(f"{name} failed: {found[name]['failure']}", flush=True)
            continue
        figures += more
    return found, figures


def main(parts: Parts, description: str | None) -> int:
    """The program of a module of parts; the exit code says whether all is good."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(parts)}")
    names = parser.parse_args().parts or list(parts)
    if unknown := set(names) - set(parts):
        parser.error(f"no such part: {', '.join(sorted(unknown))} (there are: {', '.join(parts)})")
    found, figures = measure(parts, names)
    print(table(figures))
    failed = any("failure" in part for part in found.values())
    return 0 if all_good(figures) and not failed else 1
