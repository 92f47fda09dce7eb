"""Run PyTorch predict loops at the speed of the hardware: wrap the model, keep the loop."""

from torchpool import _compatibility as _compatibility  # first: it says why the extension cannot be loaded
from torchpool import rows
from torchpool._build_info import VERSION as __version__
from torchpool._core import Closed, QueueFull
from torchpool.contract import Contract
from torchpool.executor import ThreadPoolExecutor
from torchpool.inplace import accelerate, predictor_of, restore
from torchpool.insight import Explanation
from torchpool.predictor import Predictor, load, wrap
from torchpool.runtime import Runtime, default_runtime

__all__ = [
    "Closed",
    "Contract",
    "Explanation",
    "Predictor",
    "QueueFull",
    "Runtime",
    "ThreadPoolExecutor",
    "__version__",
    "accelerate",
    "default_runtime",
    "load",
    "predictor_of",
    "restore",
    "rows",
    "wrap",
]


def __dir__() -> list[str]:
    return __all__
