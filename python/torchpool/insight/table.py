"""What is told in columns: stats() as a table, in text and for notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

Row = tuple[str, str]

_TIMES = ("mean", "p50", "p99", "max")
_UNITS = ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"))


class Stats(dict[str, Any]):
    """Counts and times by name, as a dict has them; printed, they are a table."""

    def __str__(self) -> str:
        return text_table(stats_rows(self))

    def _repr_html_(self) -> str:
        return html_table(stats_rows(self))


def stats_rows(stats: Mapping[str, Any]) -> list[Row]:
    """Name and value of each count; of times the mean, p50, p99 and the largest; of costs a row each size class."""
    rows: list[Row] = []
    for name, value in stats.items():
        if name == "cost":
            rows += [(f"cost of {_size_class(one)}", _cost(one)) for one in value]
        elif isinstance(value, Mapping):
            rows.append((name, _distribution(name, value)))
        else:
            rows.append((name, f"{value:.1%}" if name == "padding" else str(value)))
    return rows


def seconds(value: float) -> str:
    """A time in the unit that suits it: 0.00012 -> 120 us."""
    unit, name = next(((unit, name) for unit, name in _UNITS if value >= unit), _UNITS[-1])
    return f"{value / unit:.3g} {name}"


def text_table(rows: Sequence[Row]) -> str:
    """Two columns, aligned."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"{name:<{width}}  {value}".rstrip() for name, value in rows)


def html_table(rows: Iterable[Row], title: str = "") -> str:
    """The same for a notebook."""
    caption = f"<caption>{html.escape(title)}</caption>" if title else ""
    cells = "".join(
        f'<tr><th style="text-align:left">{html.escape(name)}</th>'
        f'<td style="text-align:left">{html.escape(value)}</td></tr>'
        for name, value in rows
    )
    return f"<table>{caption}{cells}</table>"


def _distribution(name: str, value: Mapping[str, Any]) -> str:
    if not value.get("count"):
        return "none"
    show = seconds if name.endswith("_seconds") else lambda number: f"{number:.4g}"
    return f"{value['count']} times: " + ", ".join(f"{key} {show(value[key])}" for key in _TIMES if key in value)


def _size_class(one: Mapping[str, Any]) -> str:
    length = f" x {one['length']}" if one["length"] > 1 else ""
    rows = f"{one['rows']} row{'s' if one['rows'] > 1 else ''}"
    return f"{rows}{length}{', one core' if one['one_core'] else ''}"


def _cost(one: Mapping[str, Any]) -> str:
    each = one["seconds_per_item"]
    return f"{one['batches']} batches" + ("" if each is None else f", {seconds(each)} an item")
