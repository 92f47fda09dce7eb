"""The graph that lifting writes: operators for whole batches, and operators for each call on its own.

A value is kept in one of two ways. As the module has it, calls lie somewhere in one of its dims. Apart, dim 0 counts
calls, and what is behind it is what the module has for one call alone.
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sympy  # type: ignore[import-untyped]  # has no types
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx import Graph, Node, Proxy
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext
from torch.fx.node import map_arg
from torch.fx.proxy import GraphAppendingTracer
from torch.utils._pytree import TreeSpec, tree_flatten, tree_unflatten
from torch.utils._sympy.interp import sympy_interp
from torch.utils._sympy.reference import PythonReferenceAnalysis

from torchpool.capture.shapes import unmet
from torchpool.contract import brief
from torchpool.contract.rows.domain import Rows

aten = torch.ops.aten
# What vmap says of operators that it has no rule for, and does not run in a loop.
_NO_RULE = ("Batching rule not implemented", "vmap fallback")
_DYNAMIC = "output dynamic shape"


class Refused(Exception):
    """The graph cannot be lifted; says why, with the operator."""


class FixesLength(Refused):
    """It could be lifted for the lengths of the samples."""


class Writer:
    """Writes a graph node by node, and knows the sizes of each value as expressions over new symbols."""

    def __init__(self, hints: Mapping[sympy.Symbol, int], calls: sympy.Symbol) -> None:
        """`hints`: of each free size of the graph that is lifted, an example. `calls`: the one that counts calls."""
        self.graph = Graph()
        self._shapes = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self._shapes, allow_non_fake_inputs=True)
        self._sizes: dict[sympy.Symbol, torch.SymInt] = {symbol: self._free(hint) for symbol, hint in hints.items()}
        self._calls = self._sizes[calls].node.expr
        self._nodes: dict[Any, Node] = {}
        """Of sizes that were computed, by expression."""
        self._traced: dict[Any, Graph] = {}
        """What vmap gives, by operator and the kinds of its operands."""
        self._tracer = GraphAppendingTracer(self.graph)

    def _free(self, hint: int) -> torch.SymInt:
        context: Any = StatelessSymbolicContext(dynamic_sizes=[DimDynamic.DYNAMIC])
        size: Any = self.mode.from_tensor(torch.empty(hint), symbolic_context=context).shape[0]
        assert isinstance(size, torch.SymInt)
        return size

    # Sizes.

    def size(self, expression: Any) -> Any:
        """The value of a size: an int or SymInt."""
        expression = sympy.sympify(expression)
        if expression.is_Integer:
            return int(expression)
        return self._computed(expression, self._sizes)

    @staticmethod
    def _computed(expression: Any, known: dict[Any, Any]) -> Any:
        """With operators of Python, on sizes or on proxies of nodes."""
        return sympy_interp(PythonReferenceAnalysis, known, expression)

    def number(self, expression: Any) -> Any:
        """A size as an argument: a plain number, or the node that computes it."""
        expression = sympy.sympify(expression)
        if expression.is_Integer:
            return int(expression)
        if expression in (sympy.true, sympy.false):
            return bool(expression)
        if expression.is_number:
            return float(expression)
        if expression not in self._nodes:
            known = {symbol: Proxy(self._nodes[symbol], self._tracer) for symbol in expression.free_symbols}
            node = self._computed(expression, known).node
            node.meta["val"] = self._computed(expression, self._sizes)
            self._nodes[expression] = node
        return self._nodes[expression]

    def refuse_conditions(self, ranges: Mapping[Any, Any]) -> None:
        """Raises Refused where what was traced holds for some sizes only. `ranges`: of the free sizes."""
        own = {size.node.expr: ranges[symbol] for symbol, size in self._sizes.items()}
        own[self._calls] = self._shapes.var_to_range[self._calls]
        condition = unmet(self._shapes, own)
        if condition is not None:
            fixes = Refused if condition.free_symbols <= {self._calls} else FixesLength
            raise fixes(f"what vmap gives is only right where {condition}")

    # Nodes.

    def input(self, name: str, sizes: Sequence[Any], dtype: torch.dtype) -> Node:
        """A tensor of the call. Sizes that occur here are known from now on."""
        node = self.graph.placeholder(name)
        with self.mode:
            node.meta["val"] = torch.empty([self.size(size) for size in sizes], dtype=dtype)
        return node

    def learn_sizes(self, node: Node, sizes: Sequence[Any]) -> None:
        """Reads the free sizes from an input's dims, each from the first that has it."""
        for dim, expression in enumerate(sizes):
            free = list(getattr(expression, "free_symbols", ()))
            if len(free) != 1 or free[0] in self._nodes:
                continue
            times = sympy.cancel(expression / free[0])
            if times.is_Integer:
                found = self.add(aten.sym_size.int, node, dim)
                if times != 1:
                    found = self.graph.call_function(operator.floordiv, (found, int(times)))
                    found.meta["val"] = self._sizes[free[0]]
                self._nodes[free[0]] = found

    def weight(self, path: str, like: torch.Tensor) -> Node:
        """A tensor that the module holds at this path."""
        node = self.graph.get_attr(path)
        node.meta["val"] = self.mode.from_tensor(like.detach(), static_shapes=True)
        return node

    def add(self, target: Any, *args: Any, **kwargs: Any) -> Node:
        """An operator for the whole batch."""
        node = self.graph.call_function(target, args, kwargs)
        given, named = map_arg((args, kwargs), lambda used: used.meta["val"])
        try:
            with self.mode:
                node.meta["val"] = target(*given, **named)
        except Exception as error:
            # Whatever an operator raises for sizes that vary: it took the same ones when it was exported.
            raise Refused(f"{target} cannot be traced once more: {brief(error)}") from error
        return node

    # Calls apart, and together again.

    def apart(self, node: Node, rows: Rows) -> Node:
        """[calls, *one call's shape] of a value that has calls as the claim says."""
        dim = rows.dim
        if rows.plain:
            return self._moved(self.add(aten.unsqueeze.default, node, dim + 1), dim, 0)
        before = [] if rows.outer == 1 else [self.number(rows.outer)]
        behind = [] if rows.inner == 1 else [self.number(rows.inner)]
        node = self.add(aten.unflatten.int, node, dim, [*before, -1, *behind])
        node = self._moved(node, dim + len(before), 0)
        return self.add(aten.flatten.using_ints, node, dim + 1, dim + 2) if before and behind else node

    def together(self, node: Node, dim: int, entries: Any) -> Node:
        """The opposite: calls in `dim`, with so many entries of each, one behind the other."""
        if entries == 1:
            node = self._moved(self.add(aten.squeeze.dim, node, dim + 1), 0, dim)
        else:
            node = self.add(aten.flatten.using_ints, self._moved(node, 0, dim), dim, dim + 1)
        if not node.meta["val"].is_contiguous():
            node = self.add(aten.contiguous.default, node)  # a view may follow that vmap's layout does not allow
        return node

    def _moved(self, node: Node, source: int, to: int) -> Node:
        return node if source == to else self.add(aten.movedim.int, node, source, to)

    def per_call(self, target: Any, args: Any, kwargs: Any, apart: Collection[Node]) -> list[Node]:
        """The results of an operator for each call on its own, apart. Operands that are not in `apart` are the same for
        all calls. Raises Refused."""
        flat, spec = tree_flatten((args, kwargs))
        operands: list[Node] = [value for value in flat if isinstance(value, Node)]
        key = (target, str(spec), *(_kind(value, apart) for value in flat))
        if key not in self._traced:
            self._traced[key] = self._trace(target, flat, spec, apart)
        return self._inline(self._traced[key], operands, target)

    def _trace(self, target: Any, flat: Sequence[Any], spec: TreeSpec, apart: Collection[Node]) -> Graph:
        places = [place for place, value in enumerate(flat) if isinstance(value, Node)]
        operands: list[Node] = [flat[place] for place in places]

        def one(*given: Any) -> Any:
            filled = list(flat)
            for place, value in zip(places, given, strict=True):
                filled[place] = value
            own_args, own_kwargs = tree_unflatten(filled, spec)
            result = target(*own_args, **own_kwargs)
            return tuple(result) if isinstance(result, list) else result

        each = torch.func.vmap(one, in_dims=tuple(0 if operand in apart else None for operand in operands))
        try:
            with self.mode, _no_loops():
                traced = make_fx(each)(*(operand.meta["val"] for operand in operands))
        except Exception as error:
            # Whatever vmap or the operator raises only means that this way is closed.
            raise Refused(_why(target, error)) from error
        if self._calls in self._shapes.replacements:
            raise Refused(f"vmap over {target} fixes the number of calls")
        if self._shapes.replacements:
            raise FixesLength(f"vmap over {target} fixes a length")
        graph: Graph = traced.graph
        return graph

    def _inline(self, traced: Graph, operands: Sequence[Node], target: Any) -> list[Node]:
        left = list(operands)
        known: dict[Node, Node] = {}
        for node in traced.nodes:
            if node.op == "placeholder":
                known[node] = left.pop(0)
            elif node.op == "call_function":
                known[node] = self.graph.node_copy(node, known.__getitem__)
            elif node.op == "output":
                results: Any = node.args[0]
                results = results if isinstance(results, tuple | list) else [results]
                return [known[result] for result in results]
            else:
                raise Refused(f"vmap over {target} leaves a constant in the graph")
        raise AssertionError("a graph ends with its output")


def _kind(value: Any, apart: Collection[Node]) -> str:
    """All of an argument that vmap looks at."""
    if not isinstance(value, Node):
        return repr(value)
    found = value.meta["val"]
    if not isinstance(found, torch.Tensor):
        return f"number {found}"
    return f"{value in apart} {found.dtype} {found.layout} {tuple(found.shape)} {found.stride()}"


@contextmanager
def _no_loops() -> Iterator[None]:
    """Lets vmap raise for an operator without a rule, instead of running it in a loop over calls."""
    functorch: Any = torch._C._functorch
    before = functorch._is_vmap_fallback_enabled()
    functorch._set_vmap_fallback_enabled(False)
    try:
        yield
    finally:
        functorch._set_vmap_fallback_enabled(before)


def _why(target: Any, error: Exception) -> str:
    text = str(error)
    if any(part in text for part in _NO_RULE):
        return f"{target} has no rule for vmap"
    if _DYNAMIC in text:
        return f"how many entries {target} gives depends on values"
    if "random operation" in text:
        return f"{target} draws random numbers"
    return f"vmap over {target} fails: {brief(error)}"
