"""The share of the zoo that graphs serve, after the tests: what each noted, in whichever process it ran."""

from __future__ import annotations

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [report for reports in terminalreporter.stats.values() for report in reports]
    noted = [dict(report.user_properties) for report in reports if getattr(report, "when", None) == "call"]
    backends = [one["served_by"] for one in noted if "served_by" in one]
    if not backends:
        return
    safe = [backend for backend in backends if backend != "alone"]
    alone = len(backends) - len(safe)
    calls, fell_back = (sum(one.get(name, 0) for one in noted) for name in ("calls", "fell_back"))
    share = f"{safe.count('graph')} of {len(safe)} safe to batch served by graph ({alone} more run alone)"
    terminalreporter.write_line(f"zoo: {share}; {fell_back} of their {calls} calls fell back to the module")
