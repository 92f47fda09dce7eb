"""The table of rules prints."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from torchpool.contract.rows import all_rules  # noqa: F401  # its modules enter their rules
from torchpool.contract.rows.registry import rules

SCRIPT = Path(__file__).resolve().parents[4] / "scripts" / "list_rules.py"


def test_every_rule_says_in_a_line_what_it_lets_through() -> None:
    for name, entry in rules().items():
        assert (entry.function.__doc__ or "").strip(), name


def test_the_table_has_a_line_for_each_operator() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    *table, last = done.stdout.splitlines()
    own = {name for name, entry in rules().items() if entry.function.__module__.startswith("torchpool.")}
    assert own <= {line.split()[0] for line in table}
    assert any(re.fullmatch(r"softmax +reductions\.along +Along any dims but the rows'.*", line) for line in table)
    found = re.fullmatch(r"(\d+) operators with a rule, (\d+) more that are pointwise", last)
    assert found is not None
    assert int(found[1]) == len(table)
    assert int(found[2]) > 150
