"""Runs a command behind one line that says what is done and how far it is; its output goes to a file.

    python scripts/progress.py LOG TITLE -- COMMAND...

A terminal sees the line move; elsewhere it is printed when the command ends. Where the command fails, the end of its
output follows, and the exit code is the command's. Needs no environment: `make` calls it before there is one.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path

WIDTH = 100
SHOWN_LINES = 60  # of the output of a command that failed
BUILD_STEP = re.compile(r"\[(\d+)/(\d+)\] (?:Building|Linking)")
PIP_STEP = re.compile(r"\s*(Collecting|Installing collected packages|Building wheel for) ?([\w.-]*)")


def step(line: str) -> str | None:
    """What a line of pip's or Ninja's output says of the progress, in a few words; None for all other lines."""
    if found := BUILD_STEP.search(line):
        return f"{found[1]} of {found[2]} compiled"
    if found := PIP_STEP.match(line):
        return {"Collecting": f"fetching {found[2]}", "Building wheel for": f"building {found[2]}"}.get(
            found[1], "unpacking"
        )
    return None


def run(log: Path, title: str, command: list[str]) -> int:
    shown = sys.stdout.isatty()
    started = time.monotonic()

    def show(text: str, end: str) -> None:
        line = f"{title} {'.' * max(2, 44 - len(title))} {text}"
        print(f"\r{line:<{WIDTH}}" if shown else line, end=end, flush=True)

    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as file, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
        assert process.stdout is not None
        if shown:
            show("", "")
        for raw in process.stdout:
            line = raw.decode(errors="replace")
            file.write(line)
            if shown and (text := step(line)) is not None:
                show(f"{text[:40]}, {time.monotonic() - started:.0f} s", "")
    failed = process.returncode != 0
    show(f"{'FAILED' if failed else 'done'} in {time.monotonic() - started:.0f} s", "\n")
    if failed:
        print(*log.read_text().splitlines()[-SHOWN_LINES:], f"(all of it: {log})", sep="\n", file=sys.stderr)
    return process.returncode


def main() -> int:
    if "--" not in sys.argv or sys.argv.index("--") != 3 or len(sys.argv) < 5:
        print("usage: progress.py LOG TITLE -- COMMAND...", file=sys.stderr)
        return 2
    return run(Path(sys.argv[1]), sys.argv[2], sys.argv[4:])


if __name__ == "__main__":
    sys.exit(main())
