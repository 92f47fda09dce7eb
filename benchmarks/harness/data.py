"""Real input for the benchmarks, the same in every process."""

import ast
import re
import sysconfig
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

# Modules with many docstrings of ordinary English; parsed, not imported.
TEXT_MODULES = [
    "argparse",
    "asyncio/base_events",
    "calendar",
    "codecs",
    "collections/__init__",
    "configparser",
    "csv",
    "ctypes/util",
    "datetime",
    "decimal",
    "difflib",
    "email/message",
    "fractions",
    "ftplib",
    "heapq",
    "inspect",
    "ipaddress",
    "logging/__init__",
    "mailbox",
    "pathlib",
    "shutil",
    "smtplib",
    "statistics",
    "string",
    "subprocess",
    "tarfile",
    "tempfile",
    "textwrap",
    "threading",
    "typing",
    "unittest/case",
    "unittest/mock",
    "uuid",
    "zipfile",
]


def lstm_samples(count: int = 2_000) -> list[Tensor]:
    """Sequences of 50 steps with 10 features, [1, 50, 10] each."""
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(1, 50, 10, generator=generator) for _ in range(count)]


def digit_images(count: int = 1_000) -> list[Tensor]:
    """scikit-learn's 1,797 handwritten digits, scaled from 8x8 to [1, 1, 28, 28]; repeated beyond that."""
    from sklearn.datasets import load_digits

    pixels = torch.from_numpy(load_digits().images).float().unsqueeze(1) / 16
    images = torch.nn.functional.interpolate(pixels, size=(28, 28), mode="bilinear", align_corners=False)
    return [images[i % len(images)].unsqueeze(0).clone() for i in range(count)]


@cache
def _docstrings() -> tuple[str, ...]:
    library = Path(sysconfig.get_path("stdlib"))
    found: dict[str, None] = {}  # a dict keeps the order and drops repeats
    for module in TEXT_MODULES:
        tree = ast.parse((library / f"{module}.py").read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                if len(text) >= 30:
                    found[text] = None
    return tuple(found)


def documents(count: int = 256) -> list[str]:
    """Docstrings of the standard library, spread evenly over the modules above."""
    texts = _docstrings()
    return [texts[i * len(texts) // count] for i in range(count)]


def short_texts(count: int = 256) -> list[str]:
    """The first sentence of each document, cut to at most 60 characters."""
    return [re.split(r"(?<=[.!?:])\s", text, maxsplit=1)[0][:60] for text in documents(count)]


def long_texts(count: int = 32) -> list[str]:
    """Documents joined until the tokenizer's limit of 256 tokens is certain to cut them."""
    texts = documents(count * 16)
    return [" ".join(texts[i * 16 : (i + 1) * 16] * 4) for i in range(count)]
