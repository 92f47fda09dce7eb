"""Other inference engines on a workload of MiniLM's batches.

Each is a context manager that yields a pass, as `benchmarks.harness.contenders.make` does, and uses every core.
"""

import importlib.util
import tempfile
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.harness.machine import usable_cores
from benchmarks.harness.workloads import Workload

Pass = Callable[[], list[Any]]

NEEDS = {"openvino": ("openvino",), "onnxruntime": ("onnxruntime", "onnx")}
OUTPUTS = ("last_hidden_state", "pooler_output")


def missing(name: str) -> str:
    """Why a peer cannot run here and how to change that; empty where it can."""
    absent = [module for module in NEEDS.get(name, ()) if importlib.util.find_spec(module) is None]
    if not absent:
        return ""
    return f"{' and '.join(absent)} not installed: pip install --no-deps -r benchmarks/requirements-peers.txt"


@contextmanager
def openvino(work: Workload) -> Iterator[Pass]:
    """An AsyncInferQueue in throughput mode, one stream a core, computing in fp32."""
    import openvino as ov

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the tracing that the conversion does
        converted = ov.convert_model(work.model, example_input=dict(work.items[-1]))
    options = {"PERFORMANCE_HINT": "THROUGHPUT", "NUM_STREAMS": usable_cores(), "INFERENCE_PRECISION_HINT": "f32"}
    requests = ov.AsyncInferQueue(ov.Core().compile_model(converted, "CPU", options))
    inputs = [{name: tensor.numpy() for name, tensor in item.items()} for item in work.items]
    outputs: list[Any] = [None] * len(inputs)

    def finished(request: Any, index: int) -> None:
        copies = [torch.from_numpy(request.get_output_tensor(i).data.copy()) for i in range(len(OUTPUTS))]
        outputs[index] = dict(zip(OUTPUTS, copies, strict=True))

    requests.set_callback(finished)

    def run() -> list[Any]:
        for index, values in enumerate(inputs):
            requests.start_async(values, userdata=index, share_inputs=True)
        requests.wait_all()
        return list(outputs)

    yield run


@contextmanager
def onnxruntime(work: Workload) -> Iterator[Pass]:
    """One session, run by as many threads as there are cores, each run on its caller's thread alone."""
    import onnxruntime as ort

    names = list(work.items[0])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.onnx")
        _export_onnx(work.model, work.items[-1], path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    inputs = [{name: item[name].numpy() for name in names} for item in work.items]

    def one(values: dict[str, Any]) -> dict[str, Tensor]:
        return dict(zip(OUTPUTS, map(torch.from_numpy, session.run(list(OUTPUTS), values)), strict=True))

    with ThreadPoolExecutor(usable_cores()) as executor:
        yield lambda: list(executor.map(one, inputs))


class _ByPosition(nn.Module):
    """The model with positional arguments and a plain tuple of outputs."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.model(**dict(zip(self.names, tensors, strict=True)))
        return tuple(result[name] for name in OUTPUTS)


def _export_onnx(model: nn.Module, item: dict[str, Tensor], path: Path) -> None:
    names = list(item)
    both = {0: "batch", 1: "length"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracing exporter is deprecated, but needs the least beside onnx itself
        torch.onnx.export(
            _ByPosition(model, names).eval(),
            tuple(item.values()),
            path,
            dynamo=False,
            input_names=names,
            output_names=list(OUTPUTS),
            dynamic_axes={**dict.fromkeys(names, both), OUTPUTS[0]: both, OUTPUTS[1]: {0: "batch"}},
            opset_version=17,
        )


PEERS = {"openvino": openvino, "onnxruntime": onnxruntime}
