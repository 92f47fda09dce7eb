"""A predictor of the extension under a learner that knows already: what the extension makes of what it is told."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import torch
from support import MARK, Gate, row
from torch import nn

import torchpool
from torchpool import _core
from torchpool.call import tree
from torchpool.contract import Contract, RowsVerdict
from torchpool.contract.contract import InputSpec, OutputSpec

Model = Callable[[torch.Tensor], Any]


def contract(call_rows: int | None = None, **output: Any) -> Contract:
    """Of x (rows, 4) and an output with its rows in dim 0, unless `output` says otherwise."""
    spec = {"name": "y", "batch_dim": 0, "trims": (), "stacked": False, **output}
    return Contract(
        mode="merge",
        reason=None,
        serial=False,
        inputs=(InputSpec("x", torch.float32, "cpu", 0, False, ("batch", 4), None),),
        outputs=(OutputSpec(**spec),),
        padded=frozenset(),
        aliases=False,
        row_seconds=None,
        checks=(),
        call_rows=call_rows,
        rows=RowsVerdict("proven", "rows proven independent"),
    )


def of_any_length() -> Contract:
    known = contract()
    return dataclasses.replace(known, inputs=(dataclasses.replace(known.inputs[0], sizes=("batch", "length")),))


class Told:
    """A learner that knows already, and keeps what it is told."""

    learns_by_runs = answers_unlearned = True
    looks_for_state = False

    def __init__(self, model: Model, known: Contract, merging: str) -> None:
        self._model, self._known, self._merging = model, known, merging
        self._spec = tree.flatten(model(row(0)))[1]
        self.number = 0
        self.kinds: list[int] = []
        self.mismatches: list[str] = []
        self.refutations: list[str] = []
        self.moved = 0

    def state_rests(self) -> None:
        """Nothing was put off until then."""

    def gradients_lost(self) -> str | None:
        """That is not what it is asked for."""
        return None

    def spec(self) -> tree.TreeSpec:
        return self._spec

    def learns_next(self, known: Contract) -> None:
        self._known = known

    def learn(self, kind_id: int, names: list[str], args: Any, kwargs: Any) -> Any:
        self.number += 1
        self.kinds.append(kind_id)
        return "merge", self._known, self.spec(), False, self.number, self._merging

    def mismatch(self, kind_id: int, names: list[str], args: Any, kwargs: Any, message: str, is_length: bool) -> Any:
        self.mismatches.append(message)
        return self._model(*args), self.learn(kind_id, names, args, kwargs)

    def refusal(self, kind_id: int, names: list[str], message: str | None) -> Callable[..., Exception]:
        return lambda args, kwargs, error: error

    def put_off(self, kind_id: int, args: Any, kwargs: Any) -> float:
        return 0.0

    def learn_behind(self, kind_id: int, answered: Any, args: Any, kwargs: Any) -> bool:
        return False

    def own(self, result: Any) -> Any:
        return result

    def again_in(self, kind_id: int) -> float | None:
        return None

    def context_variables(self, kind_id: int) -> None:
        return None

    def padded_with(self, kind_id: int) -> None:
        return None

    def may_have_state(self) -> bool:
        return False

    def refuted(self, kind_id: int, text: str) -> None:
        assert kind_id in self.kinds
        self.refutations.append(text)

    def installed(self, kind_id: int, number: int) -> None:
        assert number == self.number

    def weights_moved(self, kind_id: int) -> None:
        self.moved += 1

    def own_change(self, name: str, items: bool) -> bool:
        return True

    def forget(self, before: int) -> None:
        self.kinds.clear()


class Served:
    """A predictor of the extension with one worker, which a gate holds until its calls are queued."""

    def __init__(
        self, model: Model, known: Contract | None = None, merging: str = "no", verify: float = 0.0, first: int = 32
    ) -> None:
        self.model, self.gate, self.sizes = model, Gate(), list[int]()
        self.told = Told(model, known or contract(), merging)
        self.runtime = torchpool.Runtime(1)
        options: dict[str, Any] = {"queue_rows": 1000, "queue_bytes": 1 << 30, "reject": False, "max_delay": 0.0}
        self.core = _core.Predictor(
            self.runtime._core,
            self._run,
            self.told,
            name="served",
            first_batch=first,
            max_batch=first,
            weight=1.0,
            modules=[model] if isinstance(model, nn.Module) else [],
            by_graph=True,
            verify=verify,
            **options,
        )
        self.core.learn((row(0),), None)

    def _run(self, x: torch.Tensor) -> Any:
        if bool((x == MARK).any()):
            self.gate.pass_through()
            return self.model(torch.zeros_like(x))
        self.sizes.append(len(x))
        return self.model(x)

    def serve(
        self,
        graph: _core.GraphBackend | None = None,
        known: Contract | None = None,
        number: int = 1,
        by_module: bool = False,
        kind: int = 0,
    ) -> bool:
        return self.core.serve(kind, number, known or contract(), self.told.spec(), graph, 32, 32, by_module)

    def answers(self, calls: list[torch.Tensor], held_by: torch.Tensor | None = None) -> list[Any]:
        """Of calls that wait together until the worker comes for them, which the call `held_by` holds in the module."""
        mark = row(MARK) if held_by is None else held_by
        for x in calls:  # a call of sizes that are new to the module waits for all that runs
            self.core.call((x,), None)
        self.gate = Gate()
        self.sizes.clear()
        held = self.core.submit((mark,), None)
        self.gate.wait_entered()
        pending = [self.core.submit((x,), None) for x in calls]
        self.gate.open()
        held.get()
        return [call.get() for call in pending]

    def expect_answers_alone(self, calls: list[torch.Tensor], held_by: torch.Tensor | None = None) -> None:
        for answer, x in zip(self.answers(calls, held_by), calls, strict=True):
            got, spec = tree.flatten(answer)
            want, own_spec = tree.flatten(self.model(x))
            assert spec == own_spec
            for one, other in zip(got, want, strict=True):
                torch.testing.assert_close(one, other)

    def close(self) -> None:
        self.gate.open()
        self.core.close(True)
        self.runtime.close()


@contextlib.contextmanager
def opening() -> Iterator[Callable[..., Served]]:
    """Makes a Served of what it is called with; all of them are closed at the end."""
    opened: list[Served] = []

    def make(*args: Any, **options: Any) -> Served:
        opened.append(Served(*args, **options))
        return opened[-1]

    try:
        yield make
    finally:
        for served in opened:
            served.close()
