"""One contender in a process of its own: `python -m benchmarks.harness.contenders WORKLOAD CONTENDER`.

The child writes one JSON line when its input is loaded, and one for each command that the parent writes:
`warm`, `pass` or `save PATH`; end of input ends it. Between its passes a contender is idle, so that the
parent can interleave the contenders' passes finely.
"""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch

from benchmarks.graph.gemm import GEMMS
from benchmarks.harness.peers import PEERS
from benchmarks.harness.workloads import Call, Workload, load

Pass = Callable[[], list[Any]]  # runs the whole workload once

NAIVE = "tpe4-naive"
BASELINES = ("plain", NAIVE, "tpe2-one-thread", "tpe4-one-thread")
TORCHPOOL = ("torchpool-map", "torchpool-stdlib4", "torchpool-stdlib32")
OVERLAP32 = "torchpool-overlap32"
EXECUTOR_MAP = "torchpool-executor-map"
BENCH_ONLY = ("torchpool-bf16-map", "python-map", "python-stdlib4", OVERLAP32, EXECUTOR_MAP)
SEQUENTIAL = "torchpool-sequential"
LABELS = {
    "plain": "plain loop",
    NAIVE: "TPE(4) naive",
    "tpe2-one-thread": "TPE(2), 1 torch thread",
    "tpe4-one-thread": "TPE(4), 1 torch thread",
    "torchpool-map": "wrapped, map",
    "torchpool-stdlib4": "wrapped, stdlib TPE(4)",
    "torchpool-stdlib32": "wrapped, stdlib TPE(32)",
    "torchpool-bf16-map": "wrapped in bfloat16, map",
    "python-map": "python backend, map",
    "python-stdlib4": "python backend, TPE(4)",
    OVERLAP32: "wrapped, torchpool TPE(4, overlap=32)",
    EXECUTOR_MAP: "wrapped, torchpool TPE(4).map",
    SEQUENTIAL: "wrapped, plain loop",
    "openvino": "OpenVINO, a stream a core",
    "onnxruntime": "ONNX Runtime, a thread a core",
    "gemm-intra-op": "torch.mm, all cores",
    "gemm-threads": "torch.mm, a thread a core",
    "gemm-packed": "packed GEMM, a thread a core",
}
TENSOR_WORKLOADS = ("lstm", "cnn")
YARDSTICKS = tuple(GEMMS)  # they run something else than the workload: there are no outputs to compare


def sequential(work: Workload, call: Call) -> Pass:
    return lambda: [work.one(call, item) for item in work.items]


def offered(name: str, workload: str) -> bool:
    """Whether the contender can run the workload: a map of the model itself needs items that are its arguments."""
    return name != EXECUTOR_MAP or workload in TENSOR_WORKLOADS


def threaded(work: Workload, body: Callable[[Any], Any], new: Callable[[], Executor]) -> Pass:
    """The loop in an executor, a fresh one for each pass: starting it is part of what the user's script pays."""

    def run() -> list[Any]:
        with new() as executor:
            return list(executor.map(body, work.items))

    return run


def stdlib(work: Workload, call: Call, workers: int) -> Pass:
    return threaded(work, lambda item: work.one(call, item), lambda: ThreadPoolExecutor(workers))


@contextmanager
def make(name: str, work: Workload) -> Iterator[Pass]:
    """Sets a contender up; set_num_threads, where called, comes before any thread starts, as it has to."""
    if name == "plain":
        yield sequential(work, work.model)
    elif name == NAIVE:
        yield stdlib(work, work.model, 4)
    elif name in ("tpe2-one-thread", "tpe4-one-thread"):
        torch.set_num_threads(1)
        yield stdlib(work, work.model, int(name[3]))
    elif name in PEERS:
        with PEERS[name](work) as run:
            yield run
    elif name in GEMMS:
        with GEMMS[name]() as run:
            yield run
    else:
        import torchpool

        options: dict[str, Any] = {"backend": "python"} if name.startswith("python") else {}
        if "bf16" in name:
            options["dtype"] = torch.bfloat16
        with torchpool.wrap(work.model, **work.wrap_options, **options) as predict:
            list(work.bulk(predict, work.items[:32]))
            predict.ready()
            if name == EXECUTOR_MAP:
                yield threaded(work, predict, partial(torchpool.ThreadPoolExecutor, 4))
            elif name.endswith("-map"):
                yield lambda: list(work.bulk(predict, work.items))
            elif name == SEQUENTIAL:
                yield sequential(work, predict)
            elif name == OVERLAP32:
                new = partial(torchpool.ThreadPoolExecutor, 4, overlap=32)
                yield threaded(work, lambda item: work.one(predict, item), new)
            else:
                yield stdlib(work, predict, int(name.partition("stdlib")[2]))


def status_mb(field: str) -> float:
    """A line of /proc/self/status in MB. VmHWM is this program's own peak; getrusage adds its parent's."""
    with open("/proc/self/status") as status:
        for line in status:
            if line.startswith(field + ":"):
                return int(line.split()[1]) / 1024
    return float("nan")


def main() -> None:
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever a library prints must not look like a reply
    workload, contender = sys.argv[1:3]
    work = load(workload)
    print(json.dumps({"ready": True}), file=replies)
    sys.stdin.readline()  # "warm": one whole pass that is not timed, the same for all
    with make(contender, work) as run:
        outputs = run()
        print(json.dumps({"warm": True}), file=replies)
        for line in sys.stdin:
            command, _, argument = line.strip().partition(" ")
            if command == "pass":
                outputs.clear()
                start = time.perf_counter()
                outputs = run()
                elapsed = time.perf_counter() - start
                print(json.dumps({"seconds_per_item": elapsed / len(outputs)}), file=replies)
            elif command == "save":
                torch.save([dict(y) if hasattr(y, "keys") else y for y in outputs], argument)
                print(json.dumps({"items": len(outputs), "peak_rss_mb": status_mb("VmHWM")}), file=replies)


if __name__ == "__main__":
    main()
