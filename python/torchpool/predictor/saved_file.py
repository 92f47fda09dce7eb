"""The file that a predictor's knowledge is saved in: json, and tensors as they lie in memory.

Its parts, one after the other: a magic number, the version, the length of the json, a SHA-256 of all that follows, the
json, and the bytes of the tensors, each at a multiple of 64. Reading it runs no code that the file names.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from torchpool.call import tree
from torchpool.capture import NotWritten, Programs, Reader, Writer, kernels_of_linear, refuse_malformed
from torchpool.contract import Contract, RowsVerdict
from torchpool.predictor.knowledge import Knowledge, KnownKind, Outcome, Proven, Unproven

_MAGIC = b"torchpool"
VERSION = 2
_HEADER = struct.Struct(f"<{len(_MAGIC)}sHQ32s")
_ALIGN = 64
_MOST_TENSORS = 1 << 20
_KEYS = {"machine", "options", "batch", "kinds", "tensors"}


@dataclass(frozen=True)
class Saved:
    """What a file holds."""

    knowledge: Knowledge
    options: Mapping[str, Any]
    """Of wrap(), by name."""


def machine() -> str:
    """What programs and sizes were chosen for: the processor's instructions, as the kernels of all may use them."""
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()} {kernels_of_linear()}"


def write(path: str | os.PathLike[str], saved: Saved) -> list[str]:
    """Puts the file in its place at once, whole. What could not be written, in words: it is found out anew."""
    writer = Writer()
    left_out: list[str] = []
    kinds = [_written_kind(writer, kind, left_out) for kind in saved.knowledge.kinds]
    content: dict[str, Any] = {
        "machine": machine(),
        "options": writer.write(dict(saved.options)),
        "batch": list(saved.knowledge.batch),
        "kinds": kinds,
    }
    parts, content["tensors"] = _laid_out(writer.tensors)
    text = json.dumps(content, separators=(",", ":"), allow_nan=False).encode()
    body = [text, b"\0" * (-len(text) % _ALIGN), *parts]
    digest = hashlib.sha256()
    for part in body:
        digest.update(part)
    _replace(Path(path), [_HEADER.pack(_MAGIC, VERSION, len(text), digest.digest()), *body])
    return left_out


def read(path: str | os.PathLike[str]) -> Saved:
    """What `write` has written. Raises ValueError on anything else, and OSError where it cannot be read."""
    data = Path(path).read_bytes()
    if len(data) < _HEADER.size or not data.startswith(_MAGIC):
        raise ValueError(f"{os.fspath(path)} is no file that Predictor.save() has written")
    _, version, length, digest = _HEADER.unpack_from(data)
    if version != VERSION:
        raise ValueError(
            f"{os.fspath(path)} is of version {version}, and this torchpool reads version {VERSION}: save it anew"
        )
    body = memoryview(data)[_HEADER.size :]
    if length > len(body) or hashlib.sha256(body).digest() != digest:
        raise ValueError(f"{os.fspath(path)} is damaged: its content does not give its checksum")
    try:
        return _read(json.loads(bytes(body[:length])), body[length + -length % _ALIGN :])
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{os.fspath(path)} cannot be read: {error}") from error


# --- writing ----------------------------------------------------------------------------------------------------------


def _written_kind(writer: Writer, kind: KnownKind, left_out: list[str]) -> dict[str, Any]:
    try:
        outcome = _written_outcome(writer, kind.outcome)
    except NotWritten as error:
        names = ", ".join(spec.name for spec in kind.contract.inputs)
        left_out.append(f"the graph for calls with ({names}) is not saved, and will be made anew: {error}")
        outcome = None
    return {"contract": kind.contract.to_dict(), "outcome": outcome}


def _written_outcome(writer: Writer, outcome: Outcome | None) -> dict[str, Any] | None:
    if outcome is None:
        return None
    if isinstance(outcome, Unproven):
        return {"reason": outcome.reason, "rows": writer.write(outcome.rows)}
    return {
        "contract": outcome.contract.to_dict(),
        "spec": writer.write(outcome.spec),
        "notes": list(outcome.notes),
        "batch": list(outcome.batch),
        "programs": writer.write(outcome.programs),
    }


def _laid_out(tensors: list[torch.Tensor]) -> tuple[list[bytes], list[dict[str, Any]]]:
    """The bytes to write, and where each tensor lies among them."""
    parts: list[bytes] = []
    table = []
    offset = 0
    for tensor in tensors:
        own = tensor.detach().resolve_conj().resolve_neg().cpu().clone()  # dense, with strides of its own kind
        flat = own.as_strided((own.numel(),), (1,))
        data = flat.view(torch.uint8).numpy().tobytes()
        table.append(
            {
                "dtype": str(own.dtype).removeprefix("torch."),
                "shape": list(own.shape),
                "stride": list(own.stride()),
                "device": str(tensor.device),
                "offset": offset,
            }
        )
        padding = b"\0" * (-len(data) % _ALIGN)
        parts += [data, padding]
        offset += len(data) + len(padding)
    return parts, table


def _replace(path: Path, parts: list[bytes]) -> None:
    """Whoever reads meanwhile, or after a crash, finds the file as it was or as it is to be."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(beside)
        raise


# --- reading ----------------------------------------------------------------------------------------------------------


def _read(content: Mapping[str, Any], data: memoryview) -> Saved:
    if set(content) != _KEYS:
        raise ValueError(f"expected the entries {sorted(_KEYS)}, got {sorted(content)}")
    reader = Reader([_tensor(entry, data) for entry in content["tensors"][:_MOST_TENSORS]])
    same = content["machine"] == machine()
    kinds = tuple(_kind(reader, entry, same) for entry in content["kinds"])
    return Saved(Knowledge(kinds, _batch(content["batch"])), reader.as_a(dict, content["options"]))


def _kind(reader: Reader, entry: Mapping[str, Any], same_machine: bool) -> KnownKind:
    contract = Contract.from_dict(entry["contract"])
    # A program is chosen for a processor's instructions: another one has it made, and weights packed, anew.
    outcome = _outcome(reader, entry["outcome"]) if same_machine else None
    return KnownKind(contract, outcome)


def _outcome(reader: Reader, entry: Mapping[str, Any] | None) -> Outcome | None:
    if entry is None:
        return None
    if "programs" not in entry:
        return Unproven(str(entry["reason"]), reader.as_a(RowsVerdict, entry["rows"]))
    programs = reader.read(entry["programs"])
    if programs is not None:
        if not isinstance(programs, Programs):
            raise ValueError(f"expected programs, got {type(programs).__name__}")
        refuse_malformed(programs)
    return Proven(
        programs,
        Contract.from_dict(entry["contract"]),
        reader.as_a(tree.TreeSpec, entry["spec"]),
        tuple(map(str, entry["notes"])),
        _batch(entry["batch"]),
        from_file=True,
    )


def _batch(value: Any) -> tuple[int, int]:
    first, most = value
    if type(first) is not int or type(most) is not int or not 1 <= first <= most:
        raise ValueError(f"rows of a batch must be two numbers from 1 on, the lower first, got {value!r}")
    return first, most


def _tensor(entry: Mapping[str, Any], data: memoryview) -> torch.Tensor:
    dtype = getattr(torch, entry["dtype"], None)
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{entry['dtype']!r} is no dtype")
    shape, stride, offset = entry["shape"], entry["stride"], entry["offset"]
    if len(shape) != len(stride) or any(type(n) is not int or n < 0 for n in (*shape, *stride, offset)):
        raise ValueError(f"a tensor cannot have shape {shape!r} and strides {stride!r}")
    last = sum((n - 1) * step for n, step in zip(shape, stride, strict=True)) if all(shape) else -1
    size = (last + 1) * dtype.itemsize
    if offset + size > len(data):
        raise ValueError(f"a tensor of shape {shape!r} ends beyond the file")
    if size == 0:
        return torch.empty(shape, dtype=dtype, device=entry["device"])
    flat = torch.frombuffer(bytearray(data[offset : offset + size]), dtype=dtype)  # a copy, which may be written
    return flat.as_strided(shape, stride).to(entry["device"])
