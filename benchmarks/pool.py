"""What torchpool.ThreadPoolExecutor is to reach, all of it: `python -m benchmarks.pool [tasks loops]`.

Both parts can also be run alone, as benchmarks.executor and benchmarks.executor_loops. About five minutes on two idle
cores.
"""

from typing import Any

from benchmarks import executor, executor_loops
from benchmarks.parts import main
from benchmarks.wanted import Figure


def _tasks() -> tuple[dict[str, Any], list[Figure]]:
    found = executor.measure()
    print(executor.describe(found), flush=True)
    return found, executor.figures(found)


def _loops() -> tuple[dict[str, Any], list[Figure]]:
    found = executor_loops.measure()
    return found, executor_loops.figures(found)


PARTS = {"tasks": _tasks, "loops": _loops}


if __name__ == "__main__":
    raise SystemExit(main(PARTS, __doc__))
