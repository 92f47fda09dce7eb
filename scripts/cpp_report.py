"""Sums up the C++ tests of a build folder: how many ran, and which took longest.

    python scripts/cpp_report.py build/tsan

Reads the JSON reports that the test programs write, one for each program and shard. Fails where there are none, and
where a report is older than its program: a program that was not run proves nothing.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

SLOWEST = 20
WORTH_TELLING_S = 0.05


def main() -> int:
    build = Path(sys.argv[1])
    reports = sorted(build.glob("tests/cpp/reports/*.json"))
    programs = {program: program.stat().st_mtime for program in build.glob("tests/cpp/*_tests")}
    times: list[tuple[float, str]] = []
    failed = skipped = 0
    for report in reports:
        program = report.parent.parent / report.stem.split(".")[0]
        if report.stat().st_mtime < programs.pop(program, report.stat().st_mtime):
            print(f"{report} is older than its program", file=sys.stderr)
            return 1
        for suite in json.loads(report.read_text())["testsuites"]:
            for test in suite["testsuite"]:
                if test["status"] != "RUN":
                    continue
                failed += "failures" in test
                skipped += test["result"] == "SKIPPED"
                times.append((float(test["time"].rstrip("s")), f"{suite['name']}.{test['name']}"))
    if programs or not times:
        print(f"no reports of {', '.join(map(str, programs)) or 'any program'}", file=sys.stderr)
        return 1
    slow = [(seconds, name) for seconds, name in sorted(times, reverse=True)[:SLOWEST] if seconds >= WORTH_TELLING_S]
    print(f"slowest C++ tests of {build}:")
    print(*[f"  {seconds:6.2f} s  {name}" for seconds, name in slow], sep="\n")
    print(f"{build.name}: {len(times) - failed - skipped} passed, {failed} failed, {skipped} skipped")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
