"""How fast this machine multiplies matrices in fp32, on all cores: the limit of what a model can reach.

Each is a context manager that yields a pass, as `benchmarks.harness.contenders.make` does; its items are products.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import torch

from benchmarks.harness.machine import usable_cores

Pass = Callable[[], list[Any]]
Product = Callable[[], None]

SIZE = 1024
FLOP = 2 * SIZE**3  # of one product
PRODUCTS = 24  # of a core in one pass


def _repeat(product: Product, count: int) -> None:
    with torch.inference_mode():
        for _ in range(count):
            product()


@contextmanager
def intra_op() -> Iterator[Pass]:
    """torch.mm, each product on all cores."""
    product, count = _plain(), PRODUCTS * usable_cores()

    def run() -> list[Any]:
        _repeat(product, count)
        return [None] * count

    yield run


@contextmanager
def _in_threads(make: Callable[[], Product]) -> Iterator[Pass]:
    torch.set_num_threads(1)
    products = [make() for _ in range(usable_cores())]
    with ThreadPoolExecutor(len(products)) as executor:

        def run() -> list[Any]:
            list(executor.map(lambda product: _repeat(product, PRODUCTS), products))
            return [None] * (PRODUCTS * len(products))

        yield run


def _plain() -> Product:
    a, b, c = torch.rand(3, SIZE, SIZE).unbind()

    def product() -> None:
        torch.mm(a, b, out=c)

    return product


def _packed() -> Product:
    a, b = torch.rand(2, SIZE, SIZE).unbind()
    packed = torch.ops.mkldnn._reorder_linear_weight(b, SIZE)

    def product() -> None:
        torch.ops.mkldnn._linear_pointwise(a, packed, None, "none", [], "")

    return product


PLAIN = ("gemm-intra-op", "gemm-threads")
GEMMS = {
    "gemm-intra-op": intra_op,
    "gemm-threads": lambda: _in_threads(_plain),  # torch.mm, a thread a core
    "gemm-packed": lambda: _in_threads(_packed),  # oneDNN's, packed: on some processors it beats torch.mm
}
