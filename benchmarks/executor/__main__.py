"""What torchpool.ThreadPoolExecutor is to reach, all of it: `python -m benchmarks.executor [tasks loops]`.

Both parts can also be run alone, as benchmarks.executor.tasks and benchmarks.executor.loops. About five minutes on two
idle cores.
"""

from typing import Any

from benchmarks.executor import loops, tasks
from benchmarks.harness.parts import main
from benchmarks.harness.wanted import Figure


def _tasks() -> tuple[dict[str, Any], list[Figure]]:
    found = tasks.measure()
    print(tasks.describe(found), flush=True)
    return found, tasks.figures(found)


def _loops() -> tuple[dict[str, Any], list[Figure]]:
    found = loops.measure()
    return found, loops.figures(found)


PARTS = {"tasks": _tasks, "loops": _loops}


if __name__ == "__main__":
    raise SystemExit(main(PARTS, __doc__))
