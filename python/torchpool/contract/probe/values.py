"""Whether what a model returns beside tensors, or around them, follows from the shapes of its inputs only.

A label, a flag or a count that is computed from the values of a batch belongs to none of its calls. Where no graph
shows where it comes from, it counts as computed from values if the model reads any that could decide it: while it runs,
no value of a tensor may reach Python, nor may the size of a tensor depend on values. A script tells by its own graph.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from torchpool.call.tree import TreeSpec, flatten
from torchpool.contract.probe.state import ModuleState
from torchpool.contract.probe.watch import Stopped

# Methods that read a tensor's memory without an operator.
_BYPASSES = frozenset(
    {"numpy", "tolist", "data_ptr", "untyped_storage", "storage", "_typed_storage", "__array__", "__dlpack__"}
    | {"__reduce_ex__", "__repr__", "__str__", "__format__", "const_data_ptr", "mutable_data_ptr"}
    | {"apply_", "map_", "map2_", "_nnz"}
)
_ANSWERS = frozenset({"__bool__", "is_nonzero"})
_MOST_RUNS = 64  # with other answers
_MOST_SECONDS = 5.0
_NAMESPACES = frozenset({"aten", "prim", "prims", "quantized", "mkldnn", "mkldnn_prepacked", "torchpool"})
_TELL = frozenset({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape})
_NOT_OWN = ("/torch/", "/torchpool/")
_CONTAINERS = ("prim::TupleConstruct", "prim::ListConstruct", "prim::DictConstruct")
_LEAVE_AS_IT_IS = (*_CONTAINERS, "prim::Return", "aten::len")


def unshown(target: Any, module: nn.Module | None, spec: TreeSpec, run: Callable[[], Any]) -> str | None:
    """Why results of this structure may be another for each call of the same shapes, in words; None where they are not.

    `target` is what `run` runs, on one call, and `module` what it may write to, which is left as it was. A model that
    only asks questions of values (`if mask.all()`) is run once more for all other answers that these may have.
    """
    if isinstance(target, torch.jit.ScriptModule | torch._C.ScriptMethod):
        left = script_decides(target)
        return None if left is None else f"the script returns what its values may decide (of type {left})"
    if spec.is_single_tensor:
        return None
    reads = _Reads()
    with reads.watched():
        run()
    where = reads.values or _decides(module, spec, run, reads.answers)
    if where is None:
        return None
    constants = spec.constants()
    what = f"output {constants[0][0]!r} is a {type(constants[0][1]).__name__}, no tensor" if constants else "the result"
    return f"{what}, and may follow from values of tensors, which are read ({where})"


def _decides(module: nn.Module | None, spec: TreeSpec, run: Callable[[], Any], answers: Sequence[str]) -> str | None:
    """The answer to a question of values that gives another result than `spec`, or none that can be told.

    `answers`: where a run came to its own. Each way through the questions is gone once: behind another answer there may
    be other questions.
    """
    start, runs = time.perf_counter(), 0
    # Ways to go: which answers are to be turned, up to the last of them.
    waiting = [(*(False,) * turned, True) for turned in range(len(answers))]
    where = answers[0] if answers else ""
    while waiting:
        way = waiting.pop()
        runs += 1
        if runs > _MOST_RUNS or time.perf_counter() - start > _MOST_SECONDS:
            return where
        state, reads = ModuleState(module), _Reads(way)
        other = None
        try:
            with state.watched_run(), reads.watched():
                other = flatten(run())[1]
        except Stopped:
            return reads.last(way) or where
        except Exception:  # a check of the inputs: no result at all
            pass
        finally:
            state.note_run()
            state.restore()
        if (other is not None and other != spec) or reads.values is not None:
            return reads.last(way) or where
        waiting += [(*way, *(False,) * more, True) for more in range(len(reads.answers) - len(way))]
    return None


class _Reads:
    """Sees what of tensors' values reaches Python in a run of this thread."""

    def __init__(self, turned: Sequence[bool] = ()) -> None:
        """`turned`: of each of the first yes-or-no answers, whether it is given the other way round."""
        self.values: str | None = None
        """Where a number came through, or a size that values decide; None where none did."""
        self.answers: list[str] = []
        """Where a yes or no came through."""
        self._turned = turned
        self._asking = False

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Sees what is run inside."""
        with torch.inference_mode(False), torch.no_grad(), _Methods(self), _Operators(self):
            yield

    def ask(self, answer: Callable[[], Any]) -> Any:
        """What is asked of values by a method of tensors that is no operator."""
        before, self._asking = self._asking, True
        try:
            result = answer()
        finally:
            self._asking = before
        return self.came(result, "a branch")

    def came(self, result: Any, name: str) -> Any:
        """Something came through; what the model gets."""
        if self._asking:
            return result
        where = f"{name}{_line(sys._getframe(1))}"
        if not isinstance(result, bool):
            self.values = self.values or where
            return result
        self.answers.append(where)
        place = len(self.answers) - 1
        return not result if place < len(self._turned) and self._turned[place] else result

    def last(self, way: Sequence[bool]) -> str | None:
        """Where the last answer of a way came through; None if it did not."""
        return self.answers[len(way) - 1] if len(self.answers) >= len(way) else None


class _Methods(TorchFunctionMode):
    def __init__(self, reads: _Reads) -> None:
        super().__init__()
        self._reads = reads

    def __torch_function__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _ANSWERS:
            return self._reads.ask(lambda: func(*args, **(kwargs or {})))
        result = func(*args, **(kwargs or {}))
        return self._reads.came(result, f"{name}()") if name in _BYPASSES else result


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, reads: _Reads) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._reads = reads

    @classmethod
    def is_infra_mode(cls) -> bool:
        """Others set a flag of the whole process, which would keep torch.compile on other threads from compiling."""
        return True

    def __torch_dispatch__(
        self, func: Any, types: Sequence[type], args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        known = func.namespace in _NAMESPACES
        if known and not _made_sparse(result, args) and (_TELL.isdisjoint(func.tags) or _takes_positions(func, args)):
            return result
        return self._reads.came(result, f"{func.namespace}::{func._opname}")


def _takes_positions(func: Any, args: Sequence[Any]) -> bool:
    """Indexing by positions, whose result is as large as they are many, and not by a mask."""
    if func is not torch.ops.aten.index.Tensor:
        return False
    return not any(index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1])


def _made_sparse(result: Any, args: Sequence[Any]) -> bool:
    """A sparse tensor out of a dense one has as many entries as values decide."""
    sparse = isinstance(result, torch.Tensor) and result.layout is not torch.strided and not result.is_mkldnn
    return sparse and bool(args) and isinstance(args[0], torch.Tensor) and args[0].layout is torch.strided


def _line(frame: FrameType | None) -> str:
    """The innermost line on the stack that is neither torch's nor ours; "" where there is none."""
    while frame is not None and any(part in frame.f_code.co_filename for part in _NOT_OWN):
        frame = frame.f_back
    return f" at {frame.f_code.co_filename.rsplit('/', 1)[-1]}:{frame.f_lineno}" if frame is not None else ""


def script_decides(target: Any) -> str | None:
    """What a script or a method of one returns that its graph does not give in one structure with constants, in words;
    None where it gives all of it so."""
    for value in target.inlined_graph.outputs():
        if (left := _left_open(value)) is not None:
            return left
    return None


def _left_open(value: torch._C.Value) -> str | None:
    node, kind = value.node(), value.type()
    if isinstance(kind, torch._C.TensorType | torch._C.NoneType) or node.kind() == "prim::Constant":
        return None
    if node.kind() not in _CONTAINERS:
        return str(kind)
    if any(use.user.kind() not in _LEAVE_AS_IT_IS for use in value.uses()):
        return str(kind)  # something may be put in, or taken out
    return next((left for one in node.inputs() if (left := _left_open(one)) is not None), None)
