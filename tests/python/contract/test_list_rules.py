"""The tables of rules print."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from torchpool.contract.pads import all_rules as _pads  # noqa: F401  # its modules enter their rules
from torchpool.contract.pads import registry as pads
from torchpool.contract.rows import all_rules as _rows  # noqa: F401
from torchpool.contract.rows import registry as rows

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "list_rules.py"
PROOFS: dict[str, Any] = {"rows": rows.rules, "pads": pads.rules}


@pytest.mark.parametrize("proof", PROOFS)
def test_every_rule_says_in_a_line_what_it_lets_through(proof: str) -> None:
    for name, entry in PROOFS[proof]().items():
        assert (entry.function.__doc__ or "").strip(), name


def test_the_tables_have_a_line_for_each_operator() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=True)
    tables: dict[str, list[str]] = {proof: [] for proof in PROOFS}
    ends: dict[str, tuple[int, int]] = {}
    for line in done.stdout.splitlines():
        end = re.fullmatch(r"(\w+): (\d+) operators with a rule, (\d+) more that are pointwise", line)
        if end is not None:
            ends[end[1]] = (int(end[2]), int(end[3]))
        else:
            tables[line.split()[1].partition(".")[0]].append(line)
    for proof, rules in PROOFS.items():
        own = {name for name, entry in rules().items() if entry.function.__module__.startswith("torchpool.")}
        assert own <= {line.split()[0] for line in tables[proof]}
        assert ends[proof][0] == len(tables[proof])
        assert ends[proof][1] > 150
    assert any(
        re.fullmatch(r"softmax +rows\.reductions\.along +Along any dims but the rows'.*", line)
        for line in tables["rows"]
    )
    assert any(re.fullmatch(r"sum +pads\.reductions\.reduce +Over other dims .*", line) for line in tables["pads"])
