"""What `explain()` says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torchpool.contract import Contract, OutputSpec, Reason, RowsVerdict
from torchpool.insight.headline import Batched, Gain, headline

_PENDING = "run alone, side by side, until their rows are proven independent"
# How calls run that share no batch.
SIDE_BY_SIDE, IN_ORDER = "side by side", "one at a time, in order"
ON_THEIR_THREADS = "each on the thread that makes it"
_BITS = {
    True: "bits: the same whoever shares a batch, alone or merged (invariant=True)",
    False: "bits: the last ones of a result may depend on who shares its batch; invariant=True rules that out",
}
_MAX_KINDS = 64  # as in the extension's table of kinds


@dataclass(frozen=True)
class Explanation:
    """How a predictor serves its calls, and why. Print it; save `to_dict()` and pass it back as `wrap(batch=...)`."""

    name: str
    backend: str
    max_batch: int
    contracts: tuple[Contract, ...]
    notes: tuple[str, ...]
    served_by: tuple[str, ...] = ()
    """Per contract the backend that serves it: graph, python or torchscript."""
    status: tuple[str, ...] = ()
    """Per contract on what its calls are merged, in words."""
    learning: tuple[str, ...] = ()
    """Per contract how long its calls were learned from, and which waited for that."""
    programs: tuple[str, ...] = ()
    """With `explain(verbose=True)`: the graphs' instructions, with `explain(profile=True)` timed."""
    headline: str = ""
    """Whether calls share batches, why, and what that gains: in one line."""
    bits: str = ""
    """Whether the bits of a result depend on who shares its batch: in one line."""

    def to_dict(self) -> dict[str, Any]:
        """Plain values that json can write."""
        return {
            "name": self.name,
            "backend": self.backend,
            "max_batch": self.max_batch,
            "contracts": [contract.to_dict() for contract in self.contracts],
            "notes": list(self.notes),
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Explanation:
        """What `to_dict` wrote. Raises ValueError on anything else."""
        try:
            return cls(
                name=str(data["name"]),
                backend=str(data["backend"]),
                max_batch=int(data["max_batch"]),
                contracts=tuple(Contract.from_dict(item) for item in data["contracts"]),
                notes=tuple(map(str, data["notes"])),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not an explanation: {error!r}") from error

    def __str__(self) -> str:
        lines = [self.headline] if self.headline else []
        lines += [f"{self.name}: backend {self.backend}, at most {self.max_batch} rows a batch"]
        lines += [self.bits] if self.bits else []
        for index, contract in enumerate(self.contracts):
            backend = self.served_by[index] if index < len(self.served_by) else self.backend
            status = self.status[index] if index < len(self.status) else ""
            lines += ["", *_describe(contract, backend, status)]
            lines += [f"  {text}" for text in self.learning[index : index + 1] if text]
        lines += [f"note: {note}" for note in self.notes]
        return "\n\n".join(["\n".join(lines), *self.programs])

    __repr__ = __str__


def _describe(contract: Contract, backend: str, status: str) -> list[str]:
    names = ", ".join([spec.name for spec in contract.inputs] + [f"{n}={v}" for n, v in contract.values])
    if contract.mode == "alone":
        lines = [f"calls with ({names}) run alone, {_order(contract)}: {contract.reason}"]
    elif status == _PENDING:
        lines = [f"calls with ({names}) {status}"]
    else:
        lines = [f"calls with ({names}) share batches, run by the {backend} backend{status and f': {status}'}"]
    for spec in contract.inputs:
        sizes = ", ".join(str(size) for size in spec.sizes)
        rows = (
            "stacked"
            if spec.stacked
            else "shared by all rows"
            if spec.batch_dim is None
            else f"rows in dim {spec.batch_dim}"
        )
        pad = "" if spec.pad is None else f", padded with {spec.pad}"
        lines.append(f"  input  {spec.name}: {str(spec.dtype).removeprefix('torch.')} ({sizes}), {rows}{pad}")
    for output in contract.outputs:
        rows = (
            "the same for every call" if output.batch_dim is None else f"rows in dim {output.batch_dim}{_fold(output)}"
        )
        trims = "".join(f", dim {trim.dim} cut to {trim.scale}*{trim.symbol}{trim.offset:+d}" for trim in output.trims)
        lines.append(f"  output {output.name}: {rows}{trims}")
    if contract.mode == "merge":
        lines += [f"  {_padding(contract, symbol)}" for symbol in sorted(contract.padded)]
    if contract.mode == "merge" and contract.reason:
        lines.append(f"  not padded: {contract.reason}")
    lines += [f"  {'ok ' if check.passed else 'no '} {check.name}: {check.detail}" for check in contract.checks]
    return lines


def _padding(contract: Contract, symbol: str) -> str:
    found = next((verdict.text for verdict in contract.padding if verdict.symbol == symbol), None)
    return found or f"padding of {symbol} by numbers: no graph was looked at"


def _order(contract: Contract) -> str:
    if contract.code is Reason.THREAD:
        return ON_THEIR_THREADS
    return IN_ORDER if contract.serial else SIDE_BY_SIDE


def _fold(output: OutputSpec) -> str:
    if (output.outer, output.inner) == (1, 1):
        return ""
    before = "" if output.outer == 1 else f"{output.outer or '?'} x "
    behind = "" if output.inner == 1 else f" x {output.inner or '?'}"
    return f" ({before}rows{behind})"


@dataclass(frozen=True)
class KindRecord:
    """What is known of one kind of calls."""

    inputs: tuple[str, ...]
    """Names of the tensors."""
    contract: Contract | None
    reason: str | None
    """Why its calls run alone, where there is no contract that says so."""
    not_widened: str | None
    """Why calls of other sizes than the contract's run alone."""
    by_graph: bool = False
    no_graph: str | None = None
    """Why the module serves the calls itself, where there should be a graph."""
    graph_notes: tuple[str, ...] = ()
    rows: RowsVerdict | None = None
    """What is known of whether rows meet."""
    merged: Contract | None = None
    """The contract with which calls are merged, as it was proven."""
    merging: str = "no"
    """Before a proof: "no", "trust" or "verify"."""
    unshown: str | None = None
    """Why results may hold values that belong to one call, so that only a proven graph may merge: in words."""
    context: str | None = None
    """Which context variables calls that share a batch of the module must have in common, in words; None where the
    module runs no batch."""
    order: str = SIDE_BY_SIDE
    """In which its calls run, where there is no contract that says so."""
    refuted: str | None = None
    """Merged rows differed from the same rows alone: in words."""
    seconds: float = 0.0
    """From the first call of the kind until it was settled."""
    probes: int = 0
    """How often it was learned: from its first call, and from calls of new sizes."""
    probed_seconds: float = 0.0

    def shown(self) -> Contract | None:
        """The contract as it is in force."""
        if self.contract is None:
            return None
        if self.refuted is not None:
            text = f"rows of a batch differed from the same calls alone: {self.refuted}"
            return replace(
                self.contract, mode="alone", reason=text, code=Reason.ROWS, rows=RowsVerdict("refuted", self.refuted)
            )
        if self.merged is not None and (self.by_graph or self.merging != "no" or self.no_graph is None):
            return self.merged
        if self.contract.mode == "merge" and self.merging == "no" and self.rows is not None:
            text = self.rows.text if not self.rows.allows or self.no_graph is None else self.no_graph
            return replace(self.contract, mode="alone", reason=text, code=Reason.ROWS, rows=self.rows)
        return replace(self.contract, rows=self.rows)

    def status(self) -> str:
        """On what calls are merged, in words."""
        if self.rows is not None and self.rows.allows:
            return f"{self.rows.text}, {self.seconds:.1f} s after the first call" if self.seconds else self.rows.text
        found = "" if self.rows is None else f"; {self.rows.text}"
        if self.merging == "trust":
            return f"on your word{found}"
        if self.merging == "verify":
            return f"without a proof, under verification{found}"
        return _PENDING

    def batched(self) -> Batched:
        """Whether its calls share batches, and why."""
        calls, shown = ", ".join(self.inputs), self.shown()
        if shown is None:
            return Batched(calls, "no", self.reason or "nothing is known of them")
        if shown.mode != "merge":
            return Batched(calls, "no", shown.reason or "they run alone")
        if (status := self.status()) == _PENDING:
            return Batched(calls, "not yet", "their rows are yet to be proven independent (ready() waits for that)")
        proven = self.rows is not None and self.rows.allows
        return Batched(calls, "yes", self.rows.text if proven and self.rows is not None else f"merged {status}")

    def waited_for(self) -> str:
        """What its first calls waited for, in words."""
        if not self.probes:
            return ""
        sizes = "" if self.probes == 1 else f", and {self.probes - 1} more of new sizes"
        return f"learned in {self.probed_seconds:.2f} s, for which the first call{sizes} waited"

    def notes(self) -> list[str]:
        """What the contract does not say."""
        calls = f"calls with ({', '.join(self.inputs)})"
        notes = [f"graph of {calls}: {note}" for note in self.graph_notes]
        told = (shown := self.shown()) is not None and shown.code is Reason.ROWS
        if self.no_graph is not None and not told:
            notes.insert(0, f"{calls} are served by the module itself, not by a graph: {self.no_graph}")
        if self.contract is None:
            notes.append(f"{calls} run alone, {self.order}: {self.reason}")
        if self.context is not None and not self.by_graph and shown is not None and shown.mode == "merge":
            notes.append(f"{calls} share batches {self.context}")
        if self.unshown is not None and not told:
            notes.append(f"{calls} share batches by a proven graph only: {self.unshown}")
        if self.not_widened is not None:
            notes.append(f"{calls} of other sizes run alone: {self.not_widened}")
        return notes


def explain(
    name: str,
    backend: str,
    max_batch: int,
    kinds: Sequence[KindRecord],
    opaque: Sequence[str] = (),
    opaque_order: str = SIDE_BY_SIDE,
    programs: Sequence[str] = (),
    more: Sequence[str] = (),
    gain: Gain | None = None,
    passed: Sequence[str] = (),
    invariant: bool = False,
) -> Explanation:
    """The explanation of a predictor's present state. `backend`: what serves where no graph does; `opaque`: arguments
    that cannot be taken apart, in words, and in which order their calls run; `programs`: listings of the graphs;
    `more`: notes on all kinds of calls; `gain`: what batches were measured to save; `passed`: why calls came that
    nothing was learned from, in words; `invariant`: as the option has it."""
    notes = [] if kinds else ["nothing learned yet: the contract is learned from the first call"]
    for kind in kinds:
        notes += kind.notes()
    if len(kinds) >= _MAX_KINDS:
        text = (
            f"{_MAX_KINDS} kinds of calls were learned, which is the limit: those of any other kind run alone, "
            "until one of these was not used for long, whose place they take"
        )
        notes.append(f"{text} (an argument that is no tensor and differs in every call makes each a kind of its own)")
    notes += more
    notes += [f"calls where {argument} run alone, {opaque_order}: it cannot be merged" for argument in opaque]
    settled = [(kind, contract) for kind in kinds if (contract := kind.shown()) is not None]
    served_by = tuple("graph" if kind.by_graph else backend for kind, _ in settled)
    return Explanation(
        name=name,
        backend="graph" if "graph" in served_by else backend,
        max_batch=max_batch,
        contracts=tuple(contract for _, contract in settled),
        notes=tuple(notes),
        served_by=served_by,
        status=tuple(kind.status() for kind, _ in settled),
        learning=tuple(kind.waited_for() for kind, _ in settled),
        programs=tuple(programs),
        bits=_BITS[invariant],
        headline=headline([kind.batched() for kind in kinds], gain, _nothing_learned(opaque, passed)),
    )


def _nothing_learned(opaque: Sequence[str], passed: Sequence[str]) -> str:
    if opaque:
        return f"{opaque[0]}, and such calls cannot be merged: pass tensors"
    return passed[0] if passed else "nothing was learned yet: the first call is learned from"
