"""Checks of the source tree that no compiler makes: file sizes and what each layer may name."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_LINES = 400
COUNTED = {".h", ".cpp", ".py", ".pyi", ".cmake", ".md", ".toml", ".json"}
UNCOUNTED = ("benchmarks/results/",)

INCLUDE = re.compile(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', re.MULTILINE)
COMMENT = re.compile(r"//[^\n]*|/\*.*?\*/", re.DOTALL)
PYTHON_WORDS = re.compile(
    r"\b(?:gil_scoped_\w+|PyGILState_\w+|PyEval_\w+|Py_(?:BEGIN|END)_ALLOW_THREADS|PyObject|pybind11|py::)"
)
PYTHON_HEADERS = re.compile(
    r"^(?:Python\.h|pybind11/|torch/(?:extension|python)\.h"
    r"|torch/csrc/(?:Exceptions|utils/(?:pybind|python)|autograd/python))"
)
ROOT_IMPORT = re.compile(r"^\s*(import torchpool(?![.\w])|from torchpool import (?!_core$).*)", re.MULTILINE)
# The operating system's own headers, for topology, parking and affinity.
SYSTEM_HEADERS = {
    *("dirent.h", "errno.h", "fcntl.h", "linux/futex.h", "pthread.h", "sched.h", "time.h", "unistd.h"),
    *("sys/syscall.h", "sys/stat.h", "sys/types.h"),
}
# Which of our own folders each layer may include from.
MAY_INCLUDE = {
    "core": {"core"},
    "predict": {"core", "predict"},
    "bindings": {"core", "predict", "bindings"},
    "lab": {"core", "predict", "bindings", "lab"},
}


def tracked_files() -> list[Path]:
    """Files under version control and new ones that are not ignored."""
    out = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    return [ROOT / name for name in out.stdout.splitlines() if (ROOT / name).is_file()]


def too_long(path: Path, text: str) -> list[str]:
    name = path.relative_to(ROOT).as_posix()
    if path.suffix not in COUNTED or name.startswith(UNCOUNTED):
        return []
    lines = text.count("\n")
    return [f"{name}: {lines} lines; split it by the noun"] if lines > MAX_LINES else []


def allowed_in_core(header: str) -> bool:
    return re.fullmatch(r"\w+", header) is not None or header in SYSTEM_HEADERS


def layer_faults(path: Path, text: str) -> list[str]:
    parts = path.relative_to(ROOT).parts
    if parts[0] != "cpp" or parts[1] not in MAY_INCLUDE or path.suffix not in {".h", ".cpp"}:
        return []
    layer, name, faults = parts[1], "/".join(parts), []
    for header in INCLUDE.findall(text):
        top = header.split("/")[0]
        if top in MAY_INCLUDE and top not in MAY_INCLUDE[layer]:
            faults.append(f"{name}: {layer} may not include {header}")
        elif layer == "core" and top != "core" and not allowed_in_core(header):
            faults.append(f"{name}: core may include the standard library only, not {header}")
        elif layer not in ("bindings", "lab") and PYTHON_HEADERS.match(header):
            faults.append(f"{name}: only bindings may include {header}")
    if layer not in ("bindings", "lab"):
        words = set(PYTHON_WORDS.findall(COMMENT.sub("", text)))
        faults += [f"{name}: only bindings may name {word}" for word in sorted(words)]
    return faults


def import_faults(path: Path, text: str) -> list[str]:
    """Within the Python package only the extension is imported from its root, which import-linter cannot see."""
    name = path.relative_to(ROOT).as_posix()
    if not name.startswith("python/torchpool/") or name == "python/torchpool/__init__.py":
        return []
    return [f"{name}: of the root only _core may be imported, not by {line!r}" for line in ROOT_IMPORT.findall(text)]


def main() -> int:
    faults: list[str] = []
    for path in tracked_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        faults += too_long(path, text) + layer_faults(path, text) + import_faults(path, text)
    print("\n".join(faults) or "layout: clean")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
