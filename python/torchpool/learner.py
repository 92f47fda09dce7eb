"""Learns how each kind of call may be served: by probing, from what the user stated, or from a saved contract."""

from __future__ import annotations

import dataclasses
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from torchpool import tree
from torchpool.arguments import Call, parameter_names, readable_names, replace_tensors, tensors
from torchpool.contract import Contract
from torchpool.probe import probe

Leaves = list[torch.Tensor]
# What the extension is told: route, contract of a merge route, spec of the results, whether results must be copied.
Learned = tuple[str, Contract | None, tree.TreeSpec | None, bool]

# A batch should take about this long: short enough for the latency of those behind it, long enough to spread the cost
# of a run. It gives 256 rows of a small LSTM, 32 of a small CNN and 8 texts of MiniLM, each near its best.
_TARGET_BATCH_SECONDS = 0.010
_MIN_ROWS, _MAX_ROWS = 8, 256
_MAX_WIDENINGS = 8
_KEPT_SAMPLES = 4


def sane_max_batch(row_seconds: float | None) -> int:
    """Rows of a batch that takes about 10 ms at the measured seconds per row, a power of two from 8 to 256."""
    if not row_seconds:
        return 32
    exponent = round(math.log2(max(_TARGET_BATCH_SECONDS / row_seconds, 1.0)))
    return int(min(max(2**exponent, _MIN_ROWS), _MAX_ROWS))


@dataclass
class Kind:
    """One kind of call: a structure of arguments with tensors of certain dtypes and ranks."""

    names: list[str]
    dtypes: list[torch.dtype]
    ranks: list[int]
    devices: list[torch.device]
    route: str
    contract: Contract | None
    reason: str | None
    samples: list[Leaves] = field(default_factory=list)
    widenings: int = 0


class Learner:
    """Answers the extension's questions about calls that it does not know. Thread-safe."""

    def __init__(
        self,
        target: Callable[..., Any],
        module: torch.nn.Module | None,
        run_plain: Callable[[tuple[Any, ...], dict[str, Any]], Any],
        *,
        examples: Sequence[Call] = (),
        batch: Mapping[str, int] | None = None,
        saved: Sequence[Contract] = (),
        pad: Mapping[str, float | int | bool] | None = None,
        alone: str | None = None,
        needs_spec: bool = False,
        on_merge: Callable[[Contract], None] = lambda contract: None,
    ) -> None:
        self._target = target
        self._module = module
        self._run_plain = run_plain
        self._examples = list(examples)
        self._batch = batch
        self._saved = list(saved)
        self._pad = dict(pad or {})
        self._alone = alone
        self._needs_spec = needs_spec
        self._on_merge = on_merge
        self._parameters = parameter_names(target)
        self._lock = threading.Lock()
        self.kinds: dict[int, Kind] = {}
        self.opaque: dict[str, int] = {}

    # What the extension calls.

    def learn(self, variant: int, paths: list[str], args: tuple[Any, ...], kwargs: dict[str, Any] | None) -> Learned:
        """How calls like this one are served. Raises what the model raises, or a typed error, when it refuses it."""
        call: Call = (args, kwargs or {})
        leaves = [leaf.detach() for leaf in tensors(call)]
        kind = Kind(
            names=readable_names(paths, self._parameters),
            dtypes=[leaf.dtype for leaf in leaves],
            ranks=[leaf.dim() for leaf in leaves],
            devices=[leaf.device for leaf in leaves],
            route="direct",
            contract=None,
            reason=self._alone,
        )
        learned: Learned = ("direct", None, None, False)
        if self._alone is None:
            learned = self._learn_kind(kind, call, leaves)
        with self._lock:
            self.kinds[variant] = kind
        return learned

    def mismatch(
        self, variant: int, paths: list[str], args: tuple[Any, ...], kwargs: dict[str, Any] | None, message: str,
        may_widen: bool,
    ) -> tuple[Any, Learned | None]:
        """The result of a call that departs from its kind's contract, and how to go on with calls like it."""
        call: Call = (args, kwargs or {})
        try:
            result = self._run_plain(*call)
        except Exception as error:
            raise ValueError(f"{message}; the model refuses it: {_brief(error)}") from error
        with self._lock:
            kind = self.kinds.get(variant)
            if not may_widen or kind is None or kind.widenings >= _MAX_WIDENINGS:
                return result, None
            kind.widenings += 1
            samples = [*kind.samples[: _KEPT_SAMPLES - 1], _copies(tensors(call))]
        learned = self._prove(kind, call, samples)
        return result, learned

    def own(self, result: Any) -> Any:
        """The result with every tensor copied: the model returned memory that it keeps or was given."""
        leaves, spec = tree.flatten(result)
        return spec.rebuild([leaf.detach().clone() for leaf in leaves])

    def refused_opaque(self, what: str) -> TypeError | None:
        """For a call with an argument that is no tensor, which the model refused: the error that says so, if tensors
        were learned there."""
        with self._lock:
            known = [kind for kind in self.kinds.values() if kind.route != "direct"]
            self.opaque[what] = self.opaque.get(what, 0) + 1
        if not known:
            return None
        expected = ", ".join(f"{n}: {d}".replace("torch.", "") for n, d in zip(known[0].names, known[0].dtypes, strict=True))
        return TypeError(f"{what}, and the model refuses it; calls so far passed tensors ({expected}): "
                         "convert it with torch.as_tensor() first")

    # Inside.

    def _learn_kind(self, kind: Kind, call: Call, leaves: Leaves) -> Learned:
        contract = self._find_saved(kind, leaves)
        if contract is not None:
            kind.samples = [_copies(leaves)]
            return self._settle(kind, call, contract)
        samples = [_copies(leaves)]
        for example in self._examples:
            other = tensors(example)
            if _alike(other, leaves) and _same_names(example, call) and not _same_sizes(other, samples):
                samples.append(_copies(other))
        return self._prove(kind, call, samples)

    def _prove(self, kind: Kind, call: Call, samples: list[Leaves]) -> Learned:
        def run(leaves: Leaves) -> Any:
            args, kwargs = replace_tensors(call, leaves)
            return self._run_plain(args, kwargs)

        known = self._names_of_pad(kind.names)
        try:
            contract = probe(run, samples, kind.names, module=self._module, pad=known, batch=self._batch)
        except (TypeError, ValueError):
            raise
        except Exception as error:
            refusal = self._explain_refusal(kind, error)
            if refusal is None:
                raise
            raise refusal from error
        if contract.refused:
            raise ValueError(
                f"{contract.reason}. Results would depend on other calls or on chance: call model.eval() before "
                "wrapping, or wrap with batch=False for the model's own calls"
            )
        kind.samples = samples
        return self._settle(kind, call, contract)

    def _settle(self, kind: Kind, call: Call, contract: Contract) -> Learned:
        route = "merge" if contract.mode == "merge" else "serial" if contract.serial else "parallel"
        spec = None
        if self._needs_spec and route == "merge":
            spec = tree.flatten(self._run_plain(*call))[1]
        kind.route, kind.contract, kind.reason = route, contract, contract.reason
        if route == "merge":
            self._on_merge(contract)
        return route, contract, spec, contract.aliases

    def _names_of_pad(self, names: Sequence[str]) -> dict[str, float | int | bool]:
        return {name: value for name, value in self._pad.items() if name in names}

    def _find_saved(self, kind: Kind, leaves: Leaves) -> Contract | None:
        for contract in self._saved:
            inputs = contract.inputs
            if (
                [spec.name for spec in inputs] == kind.names
                and [spec.dtype for spec in inputs] == kind.dtypes
                and [len(spec.sizes) for spec in inputs] == kind.ranks
                and [torch.device(spec.device) for spec in inputs] == kind.devices
            ):
                return contract
        return None

    def _explain_refusal(self, kind: Kind, error: Exception) -> Exception | None:
        """The typed error for a call that the model refuses and that differs from the kinds it took."""
        with self._lock:
            others = [other for other in self.kinds.values() if other.names == kind.names]
        for other in others:
            for i, name in enumerate(kind.names):
                for what, came, expected, cls in (
                    ("has dtype", kind.dtypes[i], other.dtypes[i], TypeError),
                    ("is on device", kind.devices[i], other.devices[i], ValueError),
                    ("has rank", kind.ranks[i], other.ranks[i], ValueError),
                ):
                    if came != expected:
                        text = f"input {name!r} {what} {came}, expected {expected} as in earlier calls"
                        return cls(f"{text}; the model refuses it: {_brief(error)}".replace("torch.", ""))
        return None

    def contracts(self) -> list[Contract]:
        """Everything learned, for saving."""
        with self._lock:
            return [dataclasses.replace(kind.contract) for kind in self.kinds.values() if kind.contract is not None]


def _copies(leaves: Leaves) -> Leaves:
    return [leaf.detach().clone() for leaf in leaves]


def _alike(one: Leaves, other: Leaves) -> bool:
    return [(x.dtype, x.dim(), x.device) for x in one] == [(x.dtype, x.dim(), x.device) for x in other]


def _same_names(one: Call, other: Call) -> bool:
    return len(one[0]) == len(other[0]) and sorted(one[1]) == sorted(other[1])


def _same_sizes(leaves: Leaves, samples: list[Leaves]) -> bool:
    return any([x.shape for x in leaves] == [x.shape for x in sample] for sample in samples)


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}"
