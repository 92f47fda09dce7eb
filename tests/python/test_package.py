"""What `import torchpool` gives, and what it leaves alone."""

from __future__ import annotations

import types

from support import assert_clean, run_python

import torchpool


def test_the_package_lists_its_public_names_only() -> None:
    assert dir(torchpool) == sorted(torchpool.__all__)
    modules = [name for name in torchpool.__all__ if isinstance(getattr(torchpool, name), types.ModuleType)]
    assert modules == ["rows"], "of modules only those that are meant to be reached as torchpool.<name>"


def test_wrap_is_the_function() -> None:
    assert isinstance(torchpool.wrap, types.FunctionType)


def test_what_captures_is_not_imported_before_something_is_captured() -> None:
    source = """
import sys, torch
before = set(sys.modules)
import torchpool
new = set(sys.modules) - before
print(sorted(name for name in new if name.startswith(("torch.export", "torch.fx.experimental", "sympy"))))
print(sorted(name for name in new if name in ("torchpool.capture.export", "torchpool.capture.programs")))
"""
    done = run_python(source)
    assert_clean(done)
    assert done.stdout == "[]\n[]\n"
