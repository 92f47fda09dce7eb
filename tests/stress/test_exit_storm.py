"""Programs that end at a random moment while their executor is busy: a sample of benchmarks.executor.exit_storm."""

from __future__ import annotations

import pytest
from benchmarks.executor.exit_storm import storm


@pytest.mark.alone
@pytest.mark.timeout(600)
def test_a_program_may_end_in_any_way_while_its_executor_is_busy(pytestconfig: pytest.Config) -> None:
    """Two of each kind, or five."""
    processes = 60 if pytestconfig.getoption("--exhaustive") else 24
    failures = storm(processes, jobs=2, seed=0)
    assert not failures, f"{len(failures)} of {processes} programs\n\n" + "\n\n".join(failures)
