"""The batching contract: which dims of a model's inputs and outputs are rows, lengths or fixed.

`probe` finds a contract. `Contract.to_dict` and `Contract.from_dict` save and load one, so that production can
skip probing.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from torchpool.contract.fingerprint import Fingerprint

VERSION = 2
_NON_FINITE = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


class Reason(enum.Enum):
    """What the text of a contract's reason is about."""

    CHECK = "check"
    """A check failed that merging needs."""
    TRAIN_MODE = "train mode"
    """A check failed while the model was in train mode, which may be why."""
    LENGTHS = "lengths"
    """Calls merge, but lengths are not padded."""
    RESULTS = "results"
    """The backend cannot give back what the model returns."""
    THREAD = "thread"
    """The model reads the state of the thread that calls it."""
    ROWS = "rows"
    """Rows are not proven independent, or merged ones were seen to differ from the same rows alone."""


@dataclass(frozen=True)
class Trim:
    """A dim of a call's own output holds `scale * length(symbol) + offset` entries.

    `dim` counts in the merged output, its batch dim included.
    """

    dim: int
    symbol: str
    scale: int
    offset: int

    def size(self, length: int) -> int:
        """Entries that belong to a call whose symbol has this length."""
        return self.scale * length + self.offset


@dataclass(frozen=True)
class InputSpec:
    """One tensor input of a call."""

    name: str
    dtype: torch.dtype
    device: str
    batch_dim: int | None
    """None: shared by all rows; calls merge only when they pass the same tensor."""
    stacked: bool
    """Calls carry no batch dim: they are stacked along a new dim 0, and `batch_dim` is 0."""
    sizes: tuple[int | str, ...]
    """Of one call's tensor, per dim: a fixed size, "batch" at `batch_dim` (unless stacked), or symbol."""
    pad: float | int | bool | None
    """Value that fills the symbol dims on the right; None where nothing is padded."""


@dataclass(frozen=True)
class OutputSpec:
    """One tensor of the model's output."""

    name: str
    batch_dim: int | None
    """None: constant, the same for every call of a batch."""
    trims: tuple[Trim, ...]
    stacked: bool
    """A call's own output has no batch dim: the merged one's is removed by select."""
    outer: int | None = 1
    """The batch dim has outer * rows * inner entries, (o, r, i) of them row r's: a model that folds its rows with a
    time before them (time-major) or behind them has other than 1. None, of one of the two: whatever is left; a trim
    along `batch_dim` is of that one."""
    inner: int | None = 1


@dataclass(frozen=True)
class RowsVerdict:
    """What is known of whether rows of a batch meet, and from what."""

    kind: Literal["proven", "lifted", "mixes", "unknown", "random", "state", "values", "no graph", "refuted"]
    """proven: on the graph. lifted: they meet, and the graph was written anew so that they do not. mixes: rows meet.
    unknown: an operator without a rule. values: a branch or a size depends on values, so that there is no graph.
    refuted: merged rows were seen to differ from the same rows alone."""
    text: str
    """In words, for explain()."""
    op: str | None = None
    """The operator at which it was decided."""
    source: str | None = None
    """The line of the user's code, as "model.py:29 `n.max()`"."""
    ops: int = 0
    """Operators of the graph."""
    lifted: int = 0
    """Operators that run for each call on its own."""
    seconds: float = 0.0
    """The proof took."""

    @property
    def allows(self) -> bool:
        """Whether calls may be merged on it."""
        return self.kind in ("proven", "lifted")


@dataclass(frozen=True)
class PaddingVerdict:
    """What is known of whether padding a length reaches anything that is kept, and from what."""

    symbol: str
    kind: Literal["proven", "conditional", "numbers"]
    """proven: on the graph. conditional: on the graph, for calls of which something holds that `text` says. numbers:
    only the checks of the contract say so."""
    text: str
    """In words, for explain()."""
    op: str | None = None
    """The operator at which it was decided."""
    source: str | None = None
    """The line of the user's code."""


@dataclass(frozen=True)
class Check:
    """One check that was run on the model; `detail` holds the measured number."""

    name: str
    passed: bool
    detail: str


@dataclass(frozen=True)
class Contract:
    """What may be done with a model's calls so that each still gets its own result."""

    mode: Literal["merge", "alone"]
    reason: str | None
    """Why calls run alone, or why lengths are not padded; None where there is nothing to explain."""
    serial: bool
    """Alone only: the order of the calls matters, so they run one after the other."""
    inputs: tuple[InputSpec, ...]
    outputs: tuple[OutputSpec, ...]
    padded: frozenset[str]
    """Symbols whose padding was proven; calls merge only where the other symbols have equal lengths."""
    aliases: bool
    """An output shares memory with an input, the module or another output: results must be copied."""
    row_seconds: float | None
    """Measured eager seconds a row at the largest probed batch, with the thread settings as found."""
    checks: tuple[Check, ...]
    values: tuple[tuple[str, str], ...] = ()
    """The call's arguments that are no tensors, as (name, repr): the proof is for calls with equal ones."""
    code: Reason | None = None
    """Of `reason`; None where there is none, and in contracts that were saved without."""
    call_rows: int | None = None
    """Calls share a batch only if they have that many rows, and outputs have an entry a call instead of one a row."""
    rows: RowsVerdict | None = None
    """None: not known yet, or nobody asked for a proof."""
    tolerance: float | None = None
    """How far merged rows may be from the same rows alone, as a part of the largest value, where that is more than the
    dtypes of inputs and outputs allow: the module computes in a coarser one."""
    model: Fingerprint | None = None
    """Of the model that it was learned from; None in contracts that are not to be saved."""
    padding: tuple[PaddingVerdict, ...] = ()
    """Of symbols that are padded: what is proven on the graph. By numbers where nothing is said."""

    def __post_init__(self) -> None:
        _validate(self)

    @property
    def padded_by_numbers(self) -> frozenset[str]:
        """Symbols whose padding rests on numbers alone, and so on the weights that these were tried with."""
        return self.padded - {verdict.symbol for verdict in self.padding if verdict.kind != "numbers"}

    @property
    def refused(self) -> bool:
        """A check failed in train mode: serving the model would not give what the user means."""
        return self.code is Reason.TRAIN_MODE

    def to_dict(self) -> dict[str, Any]:
        """Plain values that json can write; `from_dict` takes them back."""
        data = dataclasses.asdict(self)
        data["version"] = VERSION
        data["code"] = None if self.code is None else self.code.value
        data["padded"] = sorted(self.padded)
        for item in data["inputs"]:
            item["dtype"] = str(item["dtype"]).removeprefix("torch.")
            item["sizes"] = list(item["sizes"])
            if isinstance(item["pad"], float) and not math.isfinite(item["pad"]):
                item["pad"] = str(item["pad"])
        for item in data["outputs"]:
            item["trims"] = list(item["trims"])
        for key in ("inputs", "outputs", "checks", "padding"):
            data[key] = list(data[key])
        data["values"] = [list(pair) for pair in self.values]
        return data

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Contract:
        """The contract that `to_dict` wrote. Raises ValueError, naming the entry, on anything else."""
        if not isinstance(data, Mapping):
            raise ValueError(f"a contract must be a mapping, got {type(data).__name__}")
        if data.get("version") != VERSION:
            raise ValueError(f"contract version {data.get('version')!r} is not known (expected {VERSION}): probe again")
        known = {"code": None, "model": None, "padding": ()}
        fields = {**known, **{key: value for key, value in data.items() if key != "version"}}
        _expect_keys(cls, fields, "contract")
        return cls(
            mode=fields["mode"],
            reason=fields["reason"],
            serial=fields["serial"],
            inputs=tuple(_input(item, i) for i, item in enumerate(_sequence(fields["inputs"], "inputs"))),
            outputs=tuple(_output(item, i) for i, item in enumerate(_sequence(fields["outputs"], "outputs"))),
            padded=frozenset(_sequence(fields["padded"], "padded")),
            aliases=fields["aliases"],
            row_seconds=fields["row_seconds"],
            checks=tuple(_record(Check, item, "checks") for item in _sequence(fields["checks"], "checks")),
            values=tuple(_pair(item) for item in _sequence(fields["values"], "values")),
            code=_code(fields["code"]),
            call_rows=fields["call_rows"],
            rows=None if fields["rows"] is None else _record(RowsVerdict, fields["rows"], "rows"),
            tolerance=fields["tolerance"],
            model=None if fields["model"] is None else _fingerprint(fields["model"]),
            padding=tuple(_record(PaddingVerdict, item, "padding") for item in _sequence(fields["padding"], "padding")),
        )


def _sequence(value: Any, where: str) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ValueError(f"contract entry {where!r} must be a list, got {value!r}")
    return list(value)


def _pair(value: Any) -> tuple[str, str]:
    pair = _sequence(value, "values")
    if len(pair) != 2 or not all(isinstance(item, str) for item in pair):
        raise ValueError(f"contract entry 'values' must hold pairs of text, got {value!r}")
    return pair[0], pair[1]


def _code(value: Any) -> Reason | None:
    try:
        return None if value is None else Reason(value)
    except ValueError:
        raise ValueError(
            f"contract entry 'code' must be one of {[one.value for one in Reason]}, got {value!r}"
        ) from None


def _fingerprint(value: Any) -> Fingerprint:
    found: Fingerprint = _record(Fingerprint, value, "model")
    if not all(isinstance(text, str) for text in dataclasses.asdict(found).values()):
        raise ValueError(f"contract entry 'model' must hold texts, got {value!r}")
    return found


def _expect_keys(cls: type, data: Any, where: str) -> None:
    if not isinstance(data, Mapping):
        raise ValueError(f"contract entry {where!r} must hold mappings, got {data!r}")
    known = {field.name for field in dataclasses.fields(cls)}
    missing, unknown = sorted(known - set(data)), sorted(map(str, set(data) - known))
    if missing or unknown:
        raise ValueError(f"contract entry {where!r}: missing {missing}, unknown {unknown}")


def _record(cls: type, data: Any, where: str, **changes: Any) -> Any:
    _expect_keys(cls, data, where)
    return cls(**{**data, **changes})


def _input(data: Any, index: int) -> InputSpec:
    where = f"inputs[{index}]"
    _expect_keys(InputSpec, data, where)
    dtype = getattr(torch, str(data["dtype"]), None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"contract entry {where!r}: {data['dtype']!r} is no torch dtype")
    pad = data["pad"]
    if isinstance(pad, str):
        if pad not in _NON_FINITE:
            raise ValueError(f"contract entry {where!r}: pad must be a number, got {pad!r}")
        pad = _NON_FINITE[pad]
    spec: InputSpec = _record(
        InputSpec, data, where, dtype=dtype, pad=pad, sizes=tuple(_sequence(data["sizes"], f"{where}.sizes"))
    )
    return spec


def _output(data: Any, index: int) -> OutputSpec:
    where = f"outputs[{index}]"
    _expect_keys(OutputSpec, data, where)
    trims = tuple(_record(Trim, item, f"{where}.trims") for item in _sequence(data["trims"], f"{where}.trims"))
    spec: OutputSpec = _record(OutputSpec, data, where, trims=trims)
    return spec


def _is_int(value: Any, low: int | None = 0) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and (low is None or value >= low)


def _validate(contract: Contract) -> None:
    def require(condition: bool, text: str) -> None:
        if not condition:
            raise ValueError(f"contract: {text}")

    require(contract.mode in ("merge", "alone"), f"mode must be 'merge' or 'alone', got {contract.mode!r}")
    require(contract.reason is None or isinstance(contract.reason, str), "reason must be text or None")
    require(contract.mode == "merge" or bool(contract.reason), "mode 'alone' needs a reason")
    require(contract.code is None or isinstance(contract.code, Reason), f"code must be a Reason, got {contract.code!r}")
    require(contract.code is None or bool(contract.reason), "a code needs a reason")
    require(
        contract.code is not Reason.TRAIN_MODE or contract.mode == "alone", "code TRAIN_MODE is for mode 'alone' only"
    )
    for name in ("serial", "aliases"):
        require(isinstance(getattr(contract, name), bool), f"{name} must be True or False")
    require(not (contract.serial and contract.mode == "merge"), "serial is for mode 'alone' only")
    seconds = contract.row_seconds
    require(
        seconds is None or (isinstance(seconds, float | int) and math.isfinite(seconds) and seconds >= 0),
        f"row_seconds must be a number of seconds or None, got {seconds!r}",
    )
    names = [spec.name for spec in contract.inputs]
    require(len(set(names)) == len(names), f"input names repeat: {names}")
    symbols: set[str] = set()
    for spec in contract.inputs:
        where = f"input {spec.name!r}"
        require(
            isinstance(spec.name, str) and isinstance(spec.device, str),
            f"{where}: name and device must be text",
        )
        require(isinstance(spec.stacked, bool), f"{where}: stacked must be True or False")
        require(spec.pad is None or isinstance(spec.pad, bool | int | float), f"{where}: pad must be a number")
        require(
            spec.batch_dim is None or _is_int(spec.batch_dim),
            f"{where}: batch_dim {spec.batch_dim!r} is no dim",
        )
        require(not spec.stacked or spec.batch_dim == 0, f"{where}: stacked needs batch_dim 0")
        for size in spec.sizes:
            require(_is_int(size) or (isinstance(size, str) and bool(size)), f"{where}: size {size!r} is no size")
        batches = [dim for dim, size in enumerate(spec.sizes) if size == "batch"]
        expected = [] if spec.stacked or spec.batch_dim is None else [spec.batch_dim]
        require(batches == expected, f"{where}: 'batch' in sizes at {batches}, batch_dim says {expected}")
        symbols |= {size for size in spec.sizes if isinstance(size, str) and size != "batch"}
    require(contract.padded <= symbols, f"padded symbols {sorted(contract.padded - symbols)} are in no input")
    for out in contract.outputs:
        where = f"output {out.name!r}"
        require(isinstance(out.name, str) and isinstance(out.stacked, bool), f"{where}: bad name or stacked")
        require(out.batch_dim is None or _is_int(out.batch_dim), f"{where}: batch_dim {out.batch_dim!r} is no dim")
        folds = (out.outer, out.inner)
        require(
            all(fold is None or _is_int(fold, 1) for fold in folds) and folds != (None, None),
            f"{where}: outer {out.outer!r} and inner {out.inner!r} are no fold",
        )
        require(folds == (1, 1) or not out.stacked, f"{where}: a folded output has a batch dim of its own")
        for trim in out.trims:
            require(trim.symbol in contract.padded, f"{where}: trim by {trim.symbol!r}, which is not padded")
            require(
                _is_int(trim.dim)
                and _is_int(trim.scale, 1)
                and _is_int(trim.offset, None)
                and (trim.dim != out.batch_dim or None in folds),
                f"{where}: {trim} makes no sense",
            )
    for verdict in contract.padding:
        require(
            verdict.symbol in contract.padded and verdict.kind in ("proven", "conditional", "numbers"),
            f"padding verdict {verdict.kind!r} of {verdict.symbol!r}, which is not padded or of no known kind",
        )
    require(contract.call_rows is None or _is_int(contract.call_rows, 1), "call_rows must be a number of rows or None")
    if contract.mode == "merge":
        require(
            any(s.batch_dim is not None for s in contract.inputs),
            "mode 'merge' needs an input with a batch dim",
        )
        require(
            len({s.stacked for s in contract.inputs if s.batch_dim is not None}) == 1,
            "inputs mix stacked and not",
        )
