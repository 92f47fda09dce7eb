"""Run PyTorch predict loops at the speed of the hardware: wrap the model, keep the loop."""

from torchpool import _compatibility as _compatibility  # first: it says why the extension cannot be loaded
from torchpool._build_info import VERSION as __version__
from torchpool._core import Closed, QueueFull
from torchpool.contract.contract import Contract
from torchpool.executor.executor import ThreadPoolExecutor
from torchpool.insight.explanation import Explanation
from torchpool.predictor.predictor import Predictor
from torchpool.predictor.wrap import wrap
from torchpool.runtime.runtime import Runtime, default_runtime

__all__ = [
    "Closed",
    "Contract",
    "Explanation",
    "Predictor",
    "QueueFull",
    "Runtime",
    "ThreadPoolExecutor",
    "__version__",
    "default_runtime",
    "wrap",
]
