"""Takes each check out of the proofs of rows and of padding, one at a time: some test must fail without it.

    python scripts/mutate_rules.py [--every N] [--part rows|pads]... [--module NAME]...

What is taken out, in each module of torchpool.contract.rows and .pads that decides something (`rows.norms`): a
statement that calls or raises (also one arm of a conditional expression that refuses), an `if` that returns early, and
each operand of an `and` or `or`. The tests that come by that line are run on what is left, the module's own first; each
time in a process of its own, forked from one that has run all of them. Prints what no test missed, and where a run
neither passed nor failed (it came to no end, or crashed), as file:line; exits with 1 if there is any of these.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import copy
import functools
import importlib.util
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "torchpool.contract"
PARTS = ("rows", "pads")
TESTS = ROOT / "tests" / "python" / "contract"
NO_CHECKS = ("__init__", "all_rules")  # they only import
# They run what is checked, on models and at random.
NO_UNIT_TESTS = frozenset(
    {"rows/test_audit.py", "rows/test_traps.py", "rows/test_own_rules.py", "rows/test_random_graphs.py"}
    | {"pads/test_traps.py", "pads/test_explained.py", "pads/test_zoo_padding.py"}
)
REFUSES = frozenset({"mixes", "unknown", "random"})
TIMES = 10  # as long as all tests on the whole module: a mutant that takes more comes to no end
PASSED, FAILED, INTERRUPTED, BROKEN, NONE_RAN = 0, 1, 2, 3, 5  # pytest's exit codes
CAUGHT = (FAILED, INTERRUPTED)  # a test failed, or could not even be collected


@dataclass(frozen=True)
class Mutant:
    """A module without one check."""

    module: str
    """As "rows.norms"."""
    line: int
    statement: int
    """The line where the statement begins that it is part of."""
    what: str
    tree: ast.Module

    @property
    def top(self) -> set[int]:
        """The lines of statements that are run when the module is imported."""
        classes = [one for one in self.tree.body if isinstance(one, ast.ClassDef)]
        return {one.lineno for part in (self.tree, *classes) for one in part.body}


# --- mutants ----------------------------------------------------------------------------------------------------------


class _Cut(ast.NodeTransformer):
    """Applies the change of one number, and counts the changes that there are."""

    def __init__(self, wanted: int) -> None:
        self.wanted, self.count = wanted, 0
        self.found: tuple[int, int, str] | None = None
        self.statement = 0

    def visit(self, node: ast.AST) -> Any:
        outer = self.statement
        if isinstance(node, ast.stmt):
            self.statement = node.lineno
        found = super().visit(node)
        self.statement = outer
        return found

    def _this(self, node: ast.AST, what: str) -> bool:
        self.count += 1
        if self.count - 1 != self.wanted:
            return False
        self.found = (getattr(node, "lineno", 0), self.statement, what)
        return True

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        if isinstance(node.value, ast.Call) and not _logs(node.value) and self._this(node, ast.unparse(node)):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        if node.exc is not None and self._this(node, ast.unparse(node)):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        leaves = len(node.body) == 1 and isinstance(node.body[0], ast.Return | ast.Continue) and not node.orelse
        if leaves and self._this(node, ast.unparse(node).replace("\n   ", "")):
            return ast.copy_location(ast.Pass(), node)
        return self.generic_visit(node)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        for refusing, other in ((node.body, node.orelse), (node.orelse, node.body)):
            if _refuses(refusing) and self._this(node, ast.unparse(refusing)):
                return other
        return self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> ast.AST:
        for place, operand in enumerate(node.values):
            if self._this(operand, f"{ast.unparse(operand)} (of: {ast.unparse(node)})"):
                rest = node.values[:place] + node.values[place + 1 :]
                return rest[0] if len(rest) == 1 else ast.copy_location(ast.BoolOp(node.op, rest), node)
        return self.generic_visit(node)


def _logs(node: ast.Call) -> bool:
    """What is logged decides nothing."""
    return isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "log"


def _refuses(node: ast.expr) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in REFUSES


def mutants(module: str, tree: ast.Module) -> Iterator[Mutant]:
    """The module without each of its checks."""
    count = _Cut(-1)
    count.visit(copy.deepcopy(tree))
    for wanted in range(count.count):
        cut = _Cut(wanted)
        changed = ast.fix_missing_locations(cut.visit(copy.deepcopy(tree)))
        assert cut.found is not None
        yield Mutant(module, *cut.found, changed)


@functools.cache
def folder() -> Path:
    """Where the package is installed."""
    spec = importlib.util.find_spec("torchpool")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "contract"


def source_of(module: str) -> Path:
    return folder() / f"{module.replace('.', '/')}.py"


def modules() -> list[str]:
    """Those that decide something."""
    found = {part: sorted(path.stem for path in (folder() / part).glob("*.py")) for part in PARTS}
    return [f"{part}.{name}" for part, names in found.items() for name in names if name not in NO_CHECKS]


def part_of(module: str) -> str:
    return module.partition(".")[0]


# --- tests ------------------------------------------------------------------------------------------------------------


class _Marked(ast.NodeTransformer):
    """Lets each statement of a function say that it is come by."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        super().generic_visit(node)
        if isinstance(node, ast.ClassDef | ast.Module):
            return node
        for field in ("body", "orelse", "finalbody"):
            found = getattr(node, field, None)
            if isinstance(found, list):
                setattr(node, field, [one for part in found for one in _marked(part)])
        return node


def _marked(statement: ast.stmt) -> list[ast.stmt]:
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant):
        return [statement]  # a docstring stays the first
    call = ast.Call(ast.Name("__come_by__", ast.Load()), [ast.Constant(statement.lineno)], [])
    return [ast.fix_missing_locations(ast.copy_location(ast.Expr(call), statement)), statement]


class Visits:
    """A plugin of pytest: which tests come by which statements."""

    def __init__(self) -> None:
        self.tests: dict[tuple[str, int], set[str]] = {}
        self.now: str | None = None
        self.limit = 0
        """Seconds that a run of some of the tests may take."""

    def pytest_runtest_logstart(self, nodeid: str, location: Any) -> None:
        self.now = nodeid

    def pytest_runtest_logfinish(self, nodeid: str, location: Any) -> None:
        self.now = None

    def noting(self, module: str) -> Any:
        """What a module calls at each statement."""

        def come_by(line: int) -> None:
            tests = self.tests.setdefault((module, line), set())
            if self.now is not None:
                tests.add(self.now)

        return come_by


class _Only:
    """A plugin of pytest: runs some of the tests."""

    def __init__(self, wanted: set[str]) -> None:
        self.wanted = wanted

    def pytest_collection_modifyitems(self, items: list[Any]) -> None:
        items[:] = [item for item in items if item.nodeid in self.wanted]


class _Changed:
    """Imports one module from a changed tree."""

    def __init__(self, module: str, tree: ast.Module, come_by: Any = None) -> None:
        self.name, self.tree, self.come_by = f"{PACKAGE}.{module}", tree, come_by
        self.path = source_of(module)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return importlib.util.spec_from_file_location(name, self.path, loader=self) if name == self.name else None

    def create_module(self, spec: Any) -> None:
        return None

    def exec_module(self, module: Any) -> None:
        module.__dict__["__come_by__"] = self.come_by
        exec(compile(self.tree, module.__spec__.origin, "exec"), module.__dict__)


def run_tests(files: list[Path], plugin: Any) -> int:
    """pytest's exit code, in this process."""
    import pytest

    off = [f"-pno:{name}" for name in ("cacheprovider", "logging", "xdist", "hypothesispytest", "nbmake", "anyio")]
    options = ["-x", "-q", "--timeout=0", "-c", str(ROOT / "pyproject.toml")]
    return int(pytest.main([*off, *options, *map(str, files)], plugins=[plugin]))


def forget() -> None:
    """The next import of the package reads it anew, with what the tests made of it."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None) or ""
        own = name in (f"{PACKAGE}.{part}" for part in PARTS)
        own = own or name.startswith(tuple(f"{PACKAGE}.{part}." for part in PARTS))
        if own or file.startswith(str(TESTS)) or name.startswith(tuple(f"{part}_" for part in PARTS)):
            del sys.modules[name]


def start(mutant: Mutant, visits: Visits) -> int:
    """The id of a process that runs the tests on a mutant, and whose exit code is theirs."""
    child = os.fork()
    if child == 0:
        code = BROKEN
        try:
            signal.alarm(visits.limit)  # ends this process by a signal
            quiet = os.open(os.devnull, os.O_WRONLY)
            os.dup2(quiet, 1)
            os.dup2(quiet, 2)
            sys.meta_path.insert(0, _Changed(mutant.module, mutant.tree))  # type: ignore[arg-type]  # has all it takes
            code = missed(mutant, visits)
        finally:
            os._exit(code)
    return child


def missed(mutant: Mutant, visits: Visits) -> int:
    """The exit code of the tests that come by the mutant's statement; of all where it is run at import."""
    tests = visits.tests.get((mutant.module, mutant.statement), set())
    everywhere = {test for found in visits.tests.values() for test in found}
    wanted = tests or (everywhere if mutant.statement in mutant.top else set())
    files = {ROOT / test.partition("::")[0] for test in wanted}
    part, _, name = mutant.module.partition(".")
    own = [path for path in files if path.parent.name == part and path.name.startswith(f"test_{name}")]
    for some in (own, sorted(files.difference(own))):
        if some and (code := run_tests(some, _Only(wanted))) not in (PASSED, NONE_RAN):
            return code
    return PASSED


def fates(found: list[Mutant], visits: Visits, jobs: int) -> Iterator[tuple[Mutant, int]]:
    """Each mutant with the exit code of its tests, below 0 where a signal ended them; in the order of their ends."""
    running: dict[int, Mutant] = {}
    waiting = list(reversed(found))
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant = waiting.pop()
            running[start(mutant, visits)] = mutant
        child, status = os.wait()
        yield running.pop(child), os.waitstatus_to_exitcode(status)


def words(code: int, what: str) -> str:
    """How a mutant that was not caught fared."""
    if code == PASSED:
        return f"no test misses {what}"
    end = "come to no end" if code == -signal.SIGALRM else f"end with {code}"
    return f"the tests {end} without {what}"


def all_tests(parts: set[str]) -> list[Path]:
    paths = [path for part in sorted(parts) for path in sorted((TESTS / part).glob("test_*.py"))]
    return [path for path in paths if f"{path.parent.name}/{path.name}" not in NO_UNIT_TESTS]


def warm_up(parts: set[str]) -> Visits:
    """Runs all tests once, which also imports what mutants need; raises SystemExit where they fail as it is."""
    for place in (ROOT, ROOT / "tests" / "python", ROOT / "tests" / "zoo"):
        sys.path.insert(0, str(place))
    import torch

    torch.set_num_threads(1)  # a process that has started threads cannot be forked with them
    visits = Visits()
    marked = [
        _Changed(module, _Marked().visit(ast.parse(source_of(module).read_text())), visits.noting(module))
        for module in modules()
    ]
    sys.meta_path[:0] = marked  # type: ignore[arg-type]  # has all it takes
    started = time.monotonic()
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = run_tests(all_tests(parts), visits)
    visits.limit = 60 + TIMES * int(time.monotonic() - started)
    del sys.meta_path[: len(marked)]
    if code != PASSED:
        raise SystemExit(f"the tests fail as they are:\n{said.getvalue()}")
    forget()
    return visits


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="only each N-th")
    parser.add_argument("--part", action="append", choices=PARTS, help="of these proofs; rows unless it is said")
    parser.add_argument("--module", action="append", choices=modules(), help="only these modules")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes at a time")
    options = parser.parse_args()
    started = time.monotonic()
    parts = options.part or PARTS[:1]  # of the proof of padding not all checks have a test that misses them yet
    found = [
        mutant
        for module in options.module or [one for one in modules() if part_of(one) in parts]
        for mutant in mutants(module, ast.parse(source_of(module).read_text()))
    ]
    chosen = found[:: options.every]
    visits = warm_up({part_of(mutant.module) for mutant in chosen})
    first = chosen[0]
    same = Mutant(first.module, first.line, first.statement, "nothing", ast.parse(source_of(first.module).read_text()))
    if any(code != PASSED for _, code in fates([same], visits, 1)):
        raise SystemExit(f"the tests fail where {first.module} is replaced by itself")
    left = 0
    for mutant, code in fates(chosen, visits, options.jobs):
        if code not in CAUGHT:
            left += 1
            path = source_of(mutant.module)
            print(f"{path.parent.name}/{path.name}:{mutant.line}: {words(code, mutant.what)}", flush=True)
    print(f"{len(chosen)} of {len(found)} checks taken out, {left} not caught")
    print(f"{time.monotonic() - started:.0f} s")
    return 1 if left else 0


if __name__ == "__main__":
    raise SystemExit(main())
