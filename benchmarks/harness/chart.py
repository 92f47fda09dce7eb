"""The README's chart, drawn from a recorded run: `python -m benchmarks.harness.chart [--results FILE] [--check]`.

Every number in the chart is read from a file under benchmarks/results/: the newest one that has every workload, unless
`--results` names another. `--check` writes nothing and fails where docs/figures/speed.svg is not what the file gives.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results"
FIGURE = ROOT / "docs" / "figures" / "speed.svg"

WORKLOADS = {
    "lstm": "LSTM, a sequence of 50 steps",
    "cnn": "CNN, a digit of 28 x 28",
    "documents": "MiniLM, a docstring",
    "short": "MiniLM, its first sentence",
}
PLAIN, NAIVE, BEST_POOL = "plain", "tpe4-naive", "best-pool"
BARS = {
    PLAIN: "plain loop",
    NAIVE: "ThreadPoolExecutor(4)",
    BEST_POOL: "best of the thread pools",
    "torchpool-stdlib4": "wrapped: the same pool of 4",
    "torchpool-map": "wrapped: predict.map",
}

WIDTH, MARGIN, GAP = 960, 24, 32
PANEL_WIDTH = (WIDTH - 2 * MARGIN - GAP) / 2
LABEL_WIDTH, VALUE_WIDTH = 184, 100
BAR, STEP = 15, 22
PANEL_TOP, PANEL_HEIGHT = 68, 30 + STEP * len(BARS) + 14
HEIGHT = PANEL_TOP + 2 * PANEL_HEIGHT + 30
OTHERS, OURS, TEXT, FAINT = "#b4bac4", "#d9480f", "#1f2328", "#59636e"
FONT = "font-family=\"system-ui, -apple-system, 'Segoe UI', Helvetica, Arial, sans-serif\""


def newest_with(workloads: Mapping[str, str]) -> Path:
    """The newest file of results that has all of the workloads; names begin with their dates."""
    for path in sorted(RESULTS.glob("*.json"), reverse=True):
        if set(workloads) <= set(json.loads(path.read_text()).get("workloads", ())):
            return path
    raise SystemExit(f"no file under {RESULTS.relative_to(ROOT)} has all of {', '.join(workloads)}")


def seconds(recorded: Mapping[str, Any]) -> dict[str, float]:
    """Seconds per item of each bar, for one recorded workload."""
    contenders = recorded["contenders"]
    return {
        bar: recorded["best_pool_seconds_per_item"] if bar == BEST_POOL else contenders[bar]["seconds_per_item"]
        for bar in BARS
    }


def duration(value: float) -> str:
    """Three digits, and the unit that suits."""
    number, unit = (value * 1e3, "ms") if value >= 1e-3 else (value * 1e6, "µs")
    digits = 0 if number >= 100 else 1 if number >= 10 else 2
    return f"{number:.{digits}f} {unit}"


def times_faster(reference: float, value: float) -> str:
    ratio = reference / value
    return f"{ratio:.0f} x" if ratio >= 10 else f"{ratio:.1f} x"


def text(x: float, y: float, content: str, *, size: int = 12, fill: str = TEXT, extra: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{fill}"{extra and " " + extra}>{escape(content)}</text>'


def panel(title: str, found: Mapping[str, float], left: float, top: float) -> list[str]:
    """One workload: a bar for each way to run it, as long as the time that an item takes."""
    bold = 'font-weight="600"'
    parts = [text(left, top + 12, title, size=14, extra=bold)]
    longest = max(found.values())
    most = PANEL_WIDTH - LABEL_WIDTH - VALUE_WIDTH
    for place, (bar, label) in enumerate(BARS.items()):
        ours = bar.startswith("torchpool")
        y = top + 26 + place * STEP
        length = max(1.5, most * found[bar] / longest)
        value = duration(found[bar]) + (f", {times_faster(found[NAIVE], found[bar])}" if ours else "")
        parts += [
            text(left, y + 12, label, fill=TEXT if ours else FAINT),
            f'<rect x="{left + LABEL_WIDTH:g}" y="{y:g}" width="{length:.1f}" height="{BAR}" rx="2" '
            f'fill="{OURS if ours else OTHERS}"/>',
            text(round(left + LABEL_WIDTH + length + 6, 1), y + 12, value, extra=bold if ours else ""),
        ]
    return parts


def chart(results: Mapping[str, Any]) -> str:
    """The whole chart as SVG."""
    machine = results["machine"]
    rounds = ", ".join(str(results["workloads"][name]["rounds"]) for name in WORKLOADS)
    flags = "AVX512" if "avx512f" in machine["cpu_flags"] else "AVX2" if "avx2" in machine["cpu_flags"] else "no AVX"
    where = f"{machine['cpu']}, {machine['cores_usable']} cores, {flags}, torch {machine['torch']}"
    note = f"{where}; {results['date']}; best of {rounds} interleaved passes; each panel has a scale of its own"
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" {FONT}>',
        "<title>Time per item: loops and thread pools as they are, and with the model wrapped</title>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#ffffff"/>',
        text(MARGIN, 30, "Time per item; shorter is better", size=17, extra='font-weight="600"'),
        text(MARGIN, 48, "x: times as fast as the ThreadPoolExecutor(4) without torchpool", fill=FAINT),
    ]
    for place, (name, title) in enumerate(WORKLOADS.items()):
        left = MARGIN + (place % 2) * (PANEL_WIDTH + GAP)
        parts += panel(title, seconds(results["workloads"][name]), left, PANEL_TOP + (place // 2) * PANEL_HEIGHT)
    parts += [text(MARGIN, HEIGHT - 14, note, size=11, fill=FAINT), "</svg>"]
    return "\n".join(parts) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, help="a file that `python -m benchmarks.run --json` wrote")
    parser.add_argument("--check", action="store_true", help="fail where the committed chart is another one")
    args = parser.parse_args()
    path = args.results or newest_with(WORKLOADS)
    drawn = chart(json.loads(path.read_text()))
    if args.check:
        if not FIGURE.exists() or FIGURE.read_text() != drawn:
            print(f"{FIGURE.relative_to(ROOT)} is not what {path.name} gives", file=sys.stderr)
            return 1
        return 0
    FIGURE.parent.mkdir(parents=True, exist_ok=True)
    FIGURE.write_text(drawn)
    print(f"written: {FIGURE.relative_to(ROOT)}, from {path.name}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
