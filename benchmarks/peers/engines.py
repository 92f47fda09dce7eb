"""The engines: each prepares a pass over a model's items, from single items to a result for each.

Batches are put together within a pass: people who have single inputs must do so, too. Every engine uses every core.
"""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.machine import usable_cores
from benchmarks.peers.models import MODELS, Item, Model, batches

Pass = Callable[[], list[Tensor]]
Run = Callable[[Item], Tensor]


def _in_batches(model: Model, rows: int, run: Run, threads: int) -> Pass:
    """A pass that shares batches of `rows` items out to threads, each of which has `run`."""
    pool = ThreadPoolExecutor(threads) if threads > 1 else None

    def whole() -> list[Tensor]:
        parts = batches(model, rows)
        results: list[Any] = [None] * len(model.items)
        outputs = (pool.map if pool else map)(run, [batch for _, batch in parts])
        for (numbers, _), output in zip(parts, outputs, strict=True):
            for number, row in zip(numbers, output.split(1), strict=True):
                results[number] = row
        return results

    return whole


def loop(name: str) -> Pass:
    """The model called once an item, by one thread with all cores."""
    model = MODELS[name]()

    def whole() -> list[Tensor]:
        with torch.no_grad():
            return [model.module(*item) for item in model.items]

    return whole


def eager(name: str, rows: int) -> Pass:
    """Batches that are put together by hand, by one thread with all cores."""
    model = MODELS[name]()

    def run(batch: Item) -> Tensor:
        with torch.inference_mode():
            return model.module(*batch)

    return _in_batches(model, rows, run, 1)


def compiled(name: str, rows: int) -> Pass:
    """The same through torch.compile, which takes lengths as they come. It needs a C++ compiler."""
    model = MODELS[name]()
    module = torch.compile(model.module, dynamic=True if model.lengths else None)

    def run(batch: Item) -> Tensor:
        with torch.no_grad():
            return module(*batch)

    return _in_batches(model, rows, run, 1)


def torchpool(name: str) -> Pass:
    """`map`, or `starmap`, over single items."""
    from torchpool import wrap

    model = MODELS[name]()
    ends = [min(model.items, key=_size), max(model.items, key=_size)] if model.lengths else [model.items[0]]
    pad = {"pad": dict.fromkeys(model.names, 0)} if model.lengths else {}
    predict = wrap(model.module, example=ends, **pad)
    if not predict.ready(300):
        raise RuntimeError("the graph was not ready in time")
    if set(predict.explain().served_by) != {"graph"}:
        raise RuntimeError(f"no graph serves it: {predict.explain()}")
    if len(model.names) == 1:
        xs = [item[0] for item in model.items]
        return lambda: list(predict.map(xs))
    return lambda: list(predict.starmap(model.items))


def _size(item: Item) -> int:
    return item[0].numel()


@contextlib.contextmanager
def _onnx_file(model: Model) -> Iterator[Path]:
    axes: dict[str, dict[int, str]] = {"y": {0: "rows"}}
    axes |= {name: {0: "rows", 1: "length"} if model.lengths else {0: "rows"} for name in model.names}
    item = batches(model, 2)[0][1]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but needs the least beside onnx itself
        path = Path(folder, "model.onnx")
        options: dict[str, Any] = {"dynamo": False, "opset_version": 17, "dynamic_axes": axes}
        torch.onnx.export(model.module, item, path, input_names=list(model.names), output_names=["y"], **options)
        yield path


def onnxruntime(name: str, rows: int, threads: int) -> Pass:
    """One session: run by `threads` threads with one core each, or by one with all."""
    import onnxruntime as ort

    model = MODELS[name]()
    options = ort.SessionOptions()
    options.intra_op_num_threads = usable_cores() // threads
    options.log_severity_level = 3
    with _onnx_file(model) as path:
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])

    def run(batch: Item) -> Tensor:
        values = {name: tensor.numpy() for name, tensor in zip(model.names, batch, strict=True)}
        return torch.from_numpy(session.run(["y"], values)[0])

    return _in_batches(model, rows, run, threads)


def openvino(name: str, rows: int) -> Pass:
    """An AsyncInferQueue in throughput mode, one stream a core, computing in fp32."""
    import openvino as ov

    model = MODELS[name]()
    with _onnx_file(model) as path:
        options = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": usable_cores(), "INFERENCE_PRECISION_HINT": "f32"}
        queue = ov.AsyncInferQueue(ov.Core().compile_model(ov.Core().read_model(path), "CPU", options))
    results: list[Any] = [None] * len(model.items)

    def finished(request: Any, numbers: list[int]) -> None:
        rows = torch.from_numpy(request.get_output_tensor(0).data.copy()).split(1)
        for number, row in zip(numbers, rows, strict=True):
            results[number] = row

    queue.set_callback(finished)

    def whole() -> list[Tensor]:
        for numbers, batch in batches(model, rows):
            values = {name: tensor.numpy() for name, tensor in zip(model.names, batch, strict=True)}
            queue.start_async(values, userdata=numbers, share_inputs=False)
        queue.wait_all()
        return list(results)

    return whole


def settings(rows: tuple[int, ...]) -> dict[str, list[tuple[Callable[..., Pass], tuple[Any, ...]]]]:
    """Each engine with the settings of which its best counts; `rows`: sizes of batches."""
    cores = usable_cores()
    return {
        "loop": [(loop, ())],
        "torchpool": [(torchpool, ())],
        "eager batches": [(eager, (n,)) for n in rows[1:]],
        "torch.compile": [(compiled, (n,)) for n in rows[1:2]],
        "ONNX Runtime": [(onnxruntime, (n, threads)) for n in rows for threads in dict.fromkeys((1, cores))],
        "OpenVINO": [(openvino, (n,)) for n in rows],
    }
