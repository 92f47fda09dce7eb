"""Random graphs for tests of the proof: operators of many kinds over rows, constants, and what became of them.

graph = RandomGraph(seed)
graph.grow(MAKERS, 20)
graph.audit("random")      # the claims that numbers contradict
"""

from __future__ import annotations

import math
import operator
import random
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch
from rows_audit import Audit
from rows_capture import Exported
from rows_sketch import Sketch, aten
from torch._dispatch.python import enable_python_dispatcher
from torch.fx import Node
from torch.fx.node import map_arg

from torchpool.contract.probe.perturb import Layout
from torchpool.contract.rows.domain import All, Rows
from torchpool.contract.rows.sizes import from_values, size_of

_ROWS = 4

Maker = Callable[["RandomGraph"], Any]
"""Adds an operator, or gives up by raising Unfit."""


class Unfit(Exception):
    """There is no value for this operator, or torch does not take those drawn."""


class RandomGraph:
    """A graph that grows by operators drawn at random."""

    def __init__(self, seed: int) -> None:
        self.draw = random.Random(seed)
        self.sketch = Sketch()
        self.held: dict[Node, torch.Tensor] = {}
        self.given: list[Node] = []
        self.numbers: list[dict[Node, Any]] = [{}, {}]
        """Each node's value for several rows, and for one."""
        self._torch = torch.Generator().manual_seed(seed)
        self.values: list[Node] = []
        for rest, dim, dtype in (
            ((2, 3), 0, torch.float64),
            ((6,), 0, torch.float64),
            ((3,), 1, torch.float64),
            ((), 0, torch.float64),
            ((3,), 0, torch.int64),
            ((2, 3), 0, torch.bool),
        ):
            node = self.sketch.rows(*rest, dim=dim, dtype=dtype)
            self.given.append(node)
            self._hold(node, dim)
        for shape, dtype in (
            ((3, 3), torch.float64),
            ((6,), torch.float64),
            ((1,), torch.float64),
            ((2, 1, 3), torch.float64),
            ((2,), torch.int64),
            ((3,), torch.bool),
        ):
            node = self.sketch.const(*shape, dtype=dtype)
            self.held[node] = self._filled(shape, dtype)
            self._hold(node, None)
        self._counts: dict[int, Node] = {}
        self._fold()

    def _fold(self) -> None:
        """Values that have several entries of each row in a dim, in this order and in that, or equal ones."""
        cube, line = self.given[0], self.given[2]
        self.add(aten.flatten.using_ints, cube, 0, 1)
        self.add(aten.flatten.using_ints, self.add(aten.transpose.int, cube, 0, 1), 0, 1)
        self.add(aten.reshape.default, line, [self.count(3)])
        self.add(aten.expand.default, next(iter(self.held)), [self.count(), -1, -1])
        equal = list(self.held)[self.draw.choice([2, 3])]
        self.add(aten.expand.default, equal, [self.count(2), *equal.meta["val"].shape])
        self.add(aten.arange.default, self.count(self.draw.choice([1, 2])))
        self.empty()
        self.empty()

    def _filled(self, shape: Any, dtype: torch.dtype) -> torch.Tensor:
        if dtype == torch.bool:
            return torch.rand(shape, generator=self._torch) > 0.4
        if dtype == torch.int64:
            return torch.randint(0, 2, shape, generator=self._torch)
        return torch.randn(shape, generator=self._torch, dtype=dtype)

    def _hold(self, node: Node, dim: int | None) -> None:
        self.values.append(node)
        for place, rows in enumerate((_ROWS, 1)):
            if dim is None:
                value = self.held[node].clone()
            else:
                shape = [rows if d == dim else int(size) for d, size in enumerate(node.meta["val"].shape)]
                value = self._filled(shape, node.meta["val"].dtype)
            self.numbers[place][node] = value

    # What operators are given.

    def count(self, times: int = 1) -> Any:
        """`times` times the number of rows, as a size."""
        if times not in self._counts:
            if times == 1:
                self._counts[1] = self.add(aten.sym_size.int, self.given[0], 0)
            else:
                self._counts[times] = self.add(operator.mul, self.count(), times)
        return self._counts[times]

    def pick(self, fits: Callable[[torch.Tensor], bool] = lambda value: True, late: float = 0.5) -> Node:
        """A value of which something is claimed, most often one of the last; none that is as long as values say, of
        which torch cannot tell in advance what it fits."""
        found = [
            node
            for node in self.values
            if not isinstance(self.sketch.of(node), All)
            and not any(from_values(size) for size in node.meta["val"].shape)
            and fits(node.meta["val"])
        ]
        if not found:
            raise Unfit
        return self.draw.choice(found[-6:] if self.draw.random() < late else found)

    def floats(self, rank: int = 0) -> Node:
        return self.pick(lambda value: value.is_floating_point() and value.dim() >= rank)

    def like(self, node: Node) -> Node:
        """A value of the same shape, or one that may be broadcast to it."""
        shape = [size_of(size) for size in node.meta["val"].shape]

        def fits(value: torch.Tensor) -> bool:
            other = [size_of(size) for size in value.shape]
            pairs = zip(reversed(other), reversed(shape), strict=False)
            return value.is_floating_point() and len(other) <= len(shape) and all(b in (a, 1) for b, a in pairs)

        return self.pick(fits, late=0.2)

    def dim(self, node: Node) -> int:
        rank = node.meta["val"].dim()
        if not rank:
            raise Unfit
        return self.draw.randrange(-rank, rank)

    def length(self, node: Node, dim: int) -> int:
        """Of a dim without rows."""
        size = size_of(node.meta["val"].shape[dim])
        if not size.is_Integer or size < 1:
            raise Unfit
        return int(size)

    def size(self, expression: Any) -> Any:
        """An expression as the argument of an operator."""
        times = size_of(expression) / self.sketch.batch.node.expr
        if times.is_Integer:
            return self.count(int(times))
        if not size_of(expression).is_Integer:
            raise Unfit
        return int(expression)

    def shape_for(self, node: Node) -> list[Any]:
        """Another shape for the same entries."""
        total: Any = math.prod((size_of(size) for size in node.meta["val"].shape), start=size_of(1))
        batch = self.sketch.batch.node.expr
        held = total.has(batch)
        rest = total / batch if held else total
        if not rest.is_Integer or rest < 1 or rest > 1000:
            raise Unfit
        sizes: list[int] = [1] * self.draw.randint(1, 4)
        left = int(rest)
        for factor in (2, 3, 5):
            while left % factor == 0:
                left //= factor
                sizes[self.draw.randrange(len(sizes))] *= factor
        if left != 1:
            raise Unfit
        found: list[Any] = list(sizes)
        if held:
            place = self.draw.randrange(len(sizes))
            found[place] = self.count(sizes[place])
        return found

    def empty(self) -> Node | None:
        """A tensor of one constant, as large as the rows make it."""
        sizes: list[Any] = [self.draw.choice([1, 2, 3]) for _ in range(self.draw.randint(0, 2))]
        sizes.insert(self.draw.randint(0, len(sizes)), self.count(self.draw.choice([1, 1, 2, 3])))
        return self.add(self.draw.choice([aten.zeros.default, aten.ones.default]), sizes, dtype=torch.float64)

    # Growth.

    def add(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """Applies an operator; its results are values from then on."""
        sketch = self.sketch
        node = sketch.graph.call_function(target, args, kwargs)
        try:
            given, named = map_arg((args, kwargs), lambda used: used.meta["val"])
            with sketch._mode, enable_python_dispatcher():
                node.meta["val"] = target(*given, **named)
            for rows, values in zip((_ROWS, 1), self.numbers, strict=True):
                given, named = map_arg((args, kwargs), lambda used, values=values: values[used])
                values[node] = target(*given, **named)
                self._check(node.meta["val"], values[node], rows)
        except Exception as error:  # torch does not take these
            sketch.graph.erase_node(node)
            raise Unfit from error
        if isinstance(node.meta["val"], tuple):
            node.meta["val"] = list(node.meta["val"])
        sketch.proof.claims[node] = sketch.proof.claim_of(node)
        if isinstance(node.meta["val"], list):
            for place in range(len(node.meta["val"])):
                self.add(operator.getitem, node, place)
        elif isinstance(node.meta["val"], torch.Tensor):
            self.values.append(node)
        return node

    def _check(self, symbolic: Any, value: Any, rows: int) -> None:
        """Values have the shapes that are claimed, else they are of another graph; and have entries, to be seen."""
        if isinstance(value, list | tuple):
            if len(symbolic) != len(value):
                raise Unfit
            for one, other in zip(symbolic, value, strict=True):
                self._check(one, other, rows)
        elif isinstance(value, torch.Tensor):
            sizes = [size_of(size).subs({self.sketch.batch.node.expr: rows}) for size in symbolic.shape]
            if any(size.is_Integer and size != own for size, own in zip(sizes, value.shape, strict=True)):
                raise Unfit
            if not value.numel() or value.numel() > 4000:
                raise Unfit

    def grow(self, makers: Sequence[Maker], operators: int) -> None:
        """Adds operators; fewer where many are not taken."""
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")  # of torch: writes to expanded values, which are of interest
            most = len(self.values) + operators
            for _ in range(8 * operators):
                if len(self.values) >= most:
                    break
                try:
                    self.draw.choice(makers)(self)
                except Unfit:
                    continue

    def audit(self, *kinds: str) -> Audit:
        """Holds all claims against numbers."""
        layout = Layout(tuple(self._dim(node) for node in self.given), False)
        samples = [[self.numbers[0][node].clone() for node in self.given]]
        exported = Exported(self.sketch.graph, self.given, layout, [], [], self.held, samples)
        found = Audit(exported, self.sketch.proof)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for kind in kinds:
                found.run(kind)
        return found

    def _dim(self, node: Node) -> int:
        rows = self.sketch.proof.given[node]
        assert isinstance(rows, Rows)
        return rows.dim
