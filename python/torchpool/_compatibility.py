"""Refuses a torch or Python that the extension was not built for, with what to do. Imported before the extension."""

import sys
import sysconfig

import torch

from torchpool._build_info import TORCH_VERSION, VERSION


def _minor(version: str) -> str:
    return ".".join(version.split("+")[0].split(".")[:2])


def _check_torch() -> None:
    built, found = _minor(TORCH_VERSION), _minor(torch.__version__)
    if built != found:
        raise ImportError(
            f"torchpool {VERSION} was built for torch {built}.x, but torch {torch.__version__} is installed. "
            f"Install a torch {built} (pip install 'torch=={built}.*') or rebuild torchpool against this one "
            "(pip install --no-build-isolation --force-reinstall --no-deps <source>)."
        )


def _check_interpreter() -> None:
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise ImportError(
            f"torchpool {VERSION} does not support free-threaded Python yet; use the ordinary build of "
            f"Python {sys.version_info.major}.{sys.version_info.minor}."
        )


_check_torch()
_check_interpreter()
