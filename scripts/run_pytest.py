"""Runs each Python test once: in two processes, a file at a time, and then those with the mark `alone` by themselves.

Arguments go to pytest, for example `-k map -x`, or `--exhaustive` for all tests that there are. The exit code is that
of the first of pytest's two runs that failed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

# A process that a timeout has ended is not replaced: that one would begin with the same test.
TOGETHER = ["-n", "2", "--dist", "loadfile", "--max-worker-restart", "0"]
# Else torch's threads wait for each other by spinning, on processors that the other process has work for: an LSTM's
# call then takes six times as long.
PASSIVE = {"OMP_WAIT_POLICY": "passive"}
SOME_FAILED, NONE_RAN = 1, 5  # of pytest's exit codes; from 2 to 4 it could not go on


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, add_help=False, allow_abbrev=False)
    parser.add_argument("-m", dest="marks")
    parser.add_argument("-x", "--exitfirst", action="store_true")
    args, others = parser.parse_known_args()
    command = [sys.executable, "-m", "pytest", "--durations=20", *(["-x"] if args.exitfirst else []), *others]
    codes = []
    for options, marks, environment in ((TOGETHER, "not alone", PASSIVE), ([], "alone", {})):
        wanted = f"({args.marks}) and {marks}" if args.marks else marks
        codes.append(subprocess.run([*command, *options, "-m", wanted], env={**os.environ, **environment}).returncode)
        if codes[-1] not in (0, NONE_RAN) and (args.exitfirst or codes[-1] != SOME_FAILED):
            break
    ran = [code for code in codes if code != NONE_RAN]
    return next((code for code in ran if code), 0) if ran else NONE_RAN


if __name__ == "__main__":
    raise SystemExit(main())
