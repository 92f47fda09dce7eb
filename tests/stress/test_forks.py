"""Children of a process in five states of its predictor: a sample of benchmarks.predict.forks."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


@pytest.mark.alone
@pytest.mark.timeout(900)
def test_children_are_served_whatever_the_predictor_did_when_they_were_forked(pytestconfig: pytest.Config) -> None:
    """In a process of its own: pytest's has threads, and forks would be of these, too."""
    rounds = 20 if pytestconfig.getoption("--exhaustive") else 2
    command = [sys.executable, "-m", "benchmarks.predict.forks", "--rounds", str(rounds)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-20_000:]}"
