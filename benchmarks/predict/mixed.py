"""Padding in batches of mixed lengths: `python -m benchmarks.predict.mixed`.

All docstrings of the set, in the order in which they come, as fast as they are served and at 70 % of that; the part of
the batches' positions that is padding.
"""

from typing import Any

from benchmarks.harness.wanted import Figure, report
from benchmarks.scheduling.load import capacity, poisson, prepare


def measure() -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name in ("documents", "short"):
        loaded = prepare(name)
        top = capacity(loaded, 4.0)
        found[name] = {"flat_out": loaded.predict.stats()["padding"], "capacity": top}
        loaded.predict.close()
        loaded = prepare(name)
        loaded.run(poisson(0.7 * top, 8.0, 5))
        found[name]["at_70"] = loaded.predict.stats()["padding"]
        loaded.predict.close()
    return found


def figures(found: dict[str, Any]) -> list[Figure]:
    made = []
    for name, one in found.items():
        limit = 10.0 if name == "documents" else float("nan")
        made.append(Figure(f"{name}, as fast as possible: padding", 100 * one["flat_out"], limit, form="{:.1f} %"))
        made.append(Figure(f"{name}, at 70 % load: padding", 100 * one["at_70"], limit, form="{:.1f} %"))
    return made


def describe_found(found: dict[str, Any]) -> str:
    rates = (f"{name} {one['capacity']:.0f} calls/s" for name, one in found.items())
    return f"as fast as possible: {', '.join(rates)}"


def main() -> int:
    found = measure()
    print(describe_found(found))
    return report(figures(found))


if __name__ == "__main__":
    raise SystemExit(main())
