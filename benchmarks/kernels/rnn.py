"""Our recurrent layers beside ATen's, in microseconds an item: sequences of 50 steps of 10 features.

    python -m benchmarks.kernels.rnn [--kinds lstm gru rnn_tanh] [--units 20 128 512] [--rows 1 8 32 512] [--rounds 9]
                                     [--onnx]

One thread each, in its own processor time, which other work on the machine disturbs least. All are run in turn in each
round; told are the best and the median round, the ratios of the best ones to ours, and the largest difference of the
outputs. `--onnx` adds ONNX Runtime (`pip install --no-deps -r benchmarks/requirements-peers.txt`). To
see what a processor without AVX512 would do, set TORCHPOOL_ISA=avx2, ATEN_CPU_CAPABILITY=avx2, ONEDNN_MAX_CPU_ISA=AVX2.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

import torchpool  # noqa: F401  # registers the kernels
from benchmarks.harness.machine import describe

STEPS, FEATURES = 50, 10
LAYERS = {20: 3, 128: 3, 512: 1}
KINDS: dict[str, type[nn.RNNBase]] = {"lstm": nn.LSTM, "gru": nn.GRU, "rnn_tanh": nn.RNN}
ROUND_SECONDS = 0.02


def _seconds(call: Callable[[], object], times: int) -> float:
    start = time.thread_time()
    for _ in range(times):
        call()
    return (time.thread_time() - start) / times


def _interleaved(calls: list[Callable[[], object]], rounds: int) -> list[list[float]]:
    """Per call the seconds of each round."""
    times = [max(1, int(ROUND_SECONDS / min(_seconds(call, 1) for _ in range(3)))) for call in calls]
    taken: list[list[float]] = [[] for _ in calls]
    for _ in range(rounds):
        for call, count, seconds in zip(calls, times, taken, strict=True):
            seconds.append(_seconds(call, count))
    return taken


def onnx_runtime(model: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """The layer in a session of one thread, the caller's."""
    import onnxruntime as ort

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but needs the least beside onnx itself
        path = Path(folder, "rnn.onnx")
        torch.onnx.export(model, (x,), path, dynamo=False, opset_version=17, input_names=["x"], output_names=["y"])
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    values = {"x": x.numpy()}
    return lambda: torch.from_numpy(session.run(["y"], values)[0])


def compare(kind: str, units: int, rows: int, rounds: int, onnx: bool) -> str:
    """One line of the table."""
    layers = LAYERS.get(units, 1)
    model = KINDS[kind](FEATURES, units, layers, batch_first=True).eval()
    weights = [getattr(model, name) for name in model._flat_weights_names]
    packed = torch.ops.torchpool.pack_rnn(weights, kind, True, layers, False)
    x = torch.randn(rows, STEPS, FEATURES)

    def own() -> torch.Tensor:
        return torch.ops.torchpool.rnn(x, None, None, packed, None, kind, units, layers, False, True, True)[0]

    def aten() -> torch.Tensor:
        return model(x)[0]

    others = [aten, *([onnx_runtime(model, x)] if onnx else [])]
    difference = max((own() - other()).abs().max() for other in others)
    ours, *theirs = ([1e6 * one / rows for one in taken] for taken in _interleaved([own, *others], rounds))
    columns = [f"{min(ours):8.1f}", f"{statistics.median(ours):8.1f}"]
    for other in theirs:
        columns += [f"{min(other):8.1f}", f"{statistics.median(other):8.1f}", f"{min(other) / min(ours):5.2f}"]
    return f"| {kind:8} | {units:3} x {layers} | {rows:4} | {' | '.join(columns)} | {difference:.0e} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=["lstm", "gru"])
    parser.add_argument("--units", nargs="+", type=int, default=list(LAYERS))
    parser.add_argument("--rows", nargs="+", type=int, default=[1, 8, 32, 512])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--onnx", action="store_true", help="ONNX Runtime as well")
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    aten = torch.backends.cpu.get_cpu_capability()
    print(f"{describe()['cpu']}; ours on {torch.ops.torchpool.isa()}, ATen on {aten}; us an item")
    others = ("ATen", "ONNX Runtime") if given.onnx else ("ATen",)
    columns = ["layer", "units", "rows", "ours, best", "median"]
    for other in others:
        columns += [f"{other}, best", "median", "ratio"]
    print(f"| {' | '.join([*columns, 'differs'])} |")
    print(f"| {' | '.join(['---'] * (len(columns) + 1))} |")
    with torch.inference_mode():
        for kind in given.kinds:
            for units in given.units:
                for rows in given.rows:
                    print(compare(kind, units, rows, given.rounds, given.onnx), flush=True)


if __name__ == "__main__":
    main()
