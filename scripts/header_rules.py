"""Writes for make which of our headers each C++ file includes, directly or not: what `make lint-tidy` looks at again.

python scripts/header_rules.py PREFIX SUFFIX FILE...    prints "PREFIX<file without .cpp>SUFFIX: headers"
"""

from __future__ import annotations

import re
import sys
from functools import cache
from pathlib import Path

ROOT = Path("cpp")
_INCLUDE = re.compile(r'^#include "([^"]+)"', re.MULTILINE)


@cache
def included(path: Path) -> frozenset[Path]:
    """Those of our headers that the file names."""
    return frozenset(ROOT / name for name in _INCLUDE.findall(path.read_text()) if (ROOT / name).is_file())


def headers(path: Path) -> list[Path]:
    """All that the file is compiled with, sorted."""
    found: set[Path] = set()
    left = [path]
    while left:
        new = included(left.pop()) - found
        found |= new
        left += new
    return sorted(found)


def main(prefix: str, suffix: str, *files: str) -> None:
    """Prints one rule a file."""
    for file in sorted(files):
        print(f"{prefix}{file.removesuffix('.cpp')}{suffix}: {' '.join(map(str, headers(Path(file))))}")


if __name__ == "__main__":
    main(*sys.argv[1:])
