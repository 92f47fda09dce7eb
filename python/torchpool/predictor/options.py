"""The options of wrap(), read and checked."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from torchpool.call import Call, argument_names
from torchpool.contract import Contract
from torchpool.insight import Explanation
from torchpool.predictor.examples import read_examples
from torchpool.predictor.kinds import MERGING_UNPROVEN
from torchpool.predictor.misuse import nearest, refuse_no_model
from torchpool.runtime import Runtime

Batch = Mapping[str, Any] | Explanation | Contract | bool | None
_DTYPES = (torch.bfloat16, torch.float16, torch.float32)


@dataclass(frozen=True)
class Options:
    """Everything that wrap() was given beside the model, checked."""

    examples: tuple[Call, ...]
    batch: Mapping[str, int] | None
    saved: tuple[Contract, ...]
    merging: bool
    pad: Mapping[str, float | int | bool]
    dtype: torch.dtype | None
    weights: str | None
    backend: str
    max_batch: int | None
    max_delay: float
    weight: float
    queue_size: int
    queue_bytes: int
    overflow: str
    name: str
    prove: str
    verify: float
    probe_timeout: float
    cache: bool
    invariant: bool = False

    @property
    def proof_needed(self) -> bool:
        """Whether calls are merged only once their rows are proven independent."""
        return MERGING_UNPROVEN[self.prove] == "no" and self.batch is None


def same_options(one: Options, other: Options) -> bool:
    """Whether they ask for the same; examples are never known to."""
    return not one.examples and not other.examples and one == other


def read_options(
    model: Callable[..., Any],
    *,
    example: Any,
    batch: Batch,
    pad: Any,
    dtype: torch.dtype | None,
    weights: str | None = None,
    backend: str,
    max_batch: int | None,
    max_delay: float,
    weight: float,
    queue_size: int | None,
    queue_bytes: int | None,
    overflow: str,
    name: str | None,
    prove: str,
    verify: float,
    probe_timeout: float,
    cache: bool = False,
    invariant: bool = False,
) -> Options:
    """What wrap() was given. Raises TypeError or ValueError for what makes no sense."""
    refuse_no_model(model)
    if isinstance(batch, Mapping) and "contracts" in batch:
        batch = Explanation.from_dict(batch)
    if isinstance(batch, Explanation):
        max_batch = max_batch or batch.max_batch
    stated, saved, merging = _read_batch(batch)
    _read_invariant(invariant, prove, stated)
    return Options(
        examples=read_examples(example),
        batch=stated,
        saved=saved,
        merging=merging,
        pad=_read_pad(model, pad),
        dtype=_read_dtype(model, dtype, backend),
        weights=_read_weights(model, weights, dtype, backend),
        backend=_read_backend(model, backend),
        max_batch=_at_least_one("max_batch", max_batch),
        max_delay=_seconds("max_delay", max_delay),
        weight=_weight(weight),
        queue_size=_at_least_one("queue_size", queue_size) or 4096,
        queue_bytes=_at_least_one("queue_bytes", queue_bytes) or 256 << 20,
        overflow=_one_of("overflow", overflow, ("block", "reject")),
        name=name if name is not None else _name_of(model),
        prove=_read_prove(model, prove, merging, stated),
        verify=_share(verify),
        probe_timeout=_timeout(probe_timeout),
        cache=_flag("cache", cache),
        invariant=invariant,
    )


def module_of(model: Callable[..., Any]) -> torch.nn.Module | None:
    """The module whose state and train mode a call depends on."""
    if isinstance(model, torch.nn.Module):
        return model
    if isinstance(model, torch._C.ScriptMethod):
        module: torch.nn.Module = torch.jit._recursive.wrap_cpp_module(model.owner)  # type: ignore[no-untyped-call]
        return module
    owner = getattr(model, "__self__", None)
    return owner if isinstance(owner, torch.nn.Module) else None


def method_of(model: Callable[..., Any]) -> str:
    """The method of the module that a call runs."""
    if isinstance(model, torch._C.ScriptMethod):
        return str(model.name)
    return "forward" if isinstance(model, torch.nn.Module) else getattr(model, "__name__", "forward")


def _name_of(model: Callable[..., Any]) -> str:
    module = module_of(model)
    if isinstance(module, torch.jit.ScriptModule):
        name = str(getattr(module, "original_name", type(module).__name__))
        return name if model is module else f"{name}.{method_of(model)}"
    return getattr(model, "__qualname__", None) or type(model).__name__


def _at_least_one(name: str, value: int | None) -> int | None:
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise ValueError(f"{name} must be an int of at least 1, or None, got {value!r}")
    return value


def _seconds(name: str, value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number of seconds, 0 or more, got {value!r}")
    return float(value)


def _flag(name: str, value: bool) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _timeout(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise ValueError(f"probe_timeout must be a number of seconds above 0, got {value!r}")
    return float(value)


def _weight(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 1e-3 <= value <= 1e3:
        raise ValueError(f"weight must be a number from 0.001 to 1000, got {value!r}")
    return float(value)


def _share(value: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1:
        raise ValueError(f"verify must be a share from 0 to 1, got {value!r}")
    return float(value)


def _read_prove(model: Callable[..., Any], prove: str, merging: bool, stated: Mapping[str, int] | None) -> str:
    _one_of("prove", prove, ("auto", "required", "verify", "trust"))
    if prove == "required":
        if not merging or stated is not None:
            raise ValueError(
                "prove='required' contradicts batch=: False merges nothing, and {name: dim} is taken on trust"
            )
        module = module_of(model)
        if module is None or isinstance(module, torch.jit.ScriptModule):
            kind = type(model).__name__
            raise TypeError(f"prove='required' needs an nn.Module that is not scripted, or a method of one, got {kind}")
    return prove


def _read_invariant(invariant: bool, prove: str, stated: Mapping[str, int] | None) -> None:
    if _flag("invariant", invariant) and (prove in ("verify", "trust") or stated is not None):
        given = f"prove={prove!r}" if stated is None else "batch={name: dim}"
        raise ValueError(
            f"invariant=True contradicts {given}: without a proof the module runs batches, and a row's bits may depend "
            "on them. Leave one of the two out"
        )


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> str:
    if value not in allowed:
        meant = nearest(value, allowed)
        raise ValueError(
            f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}"
            + (f": did you mean {meant!r}?" if meant else "")
        )
    return value


def _read_backend(model: Callable[..., Any], backend: str) -> str:
    _one_of("backend", backend, ("auto", "graph", "python", "torchscript"))
    scripted = isinstance(model, torch.jit.ScriptModule | torch._C.ScriptMethod)
    if backend == "torchscript" and not scripted:
        raise TypeError(
            f"backend 'torchscript' needs a ScriptModule (torch.jit.load, script or trace) or a method of one, "
            f"got {type(model).__name__}"
        )
    hooks = isinstance(model, torch.nn.Module) and (model._forward_hooks or model._forward_pre_hooks)
    if backend == "torchscript" and hooks:
        raise TypeError("backend 'torchscript' does not run the module's forward hooks: use backend 'python'")
    if backend == "graph" and (scripted or module_of(model) is None):
        raise TypeError(f"backend 'graph' needs an nn.Module or a method of one, got {type(model).__name__}")
    if backend == "auto" and scripted:
        return "python" if hooks else "torchscript"
    return backend


def _read_dtype(model: Callable[..., Any], dtype: torch.dtype | None, backend: str) -> torch.dtype | None:
    if dtype is None:
        return None
    if dtype not in _DTYPES:
        named = getattr(torch, str(dtype).removeprefix("torch."), None)
        raise ValueError(
            f"dtype must be torch.bfloat16, float16 or float32, got {dtype!r}"
            + (f": give {named}, which is no string" if isinstance(dtype, str) and named in _DTYPES else "")
        )
    module = module_of(model)
    if module is None or isinstance(module, torch.jit.ScriptModule) or backend not in ("auto", "graph"):
        raise TypeError("dtype= needs an nn.Module that is not scripted, and backend='auto' or 'graph'")
    if all(p.dtype == dtype for p in module.parameters() if p.is_floating_point()):
        return None
    return dtype


def _read_weights(
    model: Callable[..., Any], weights: str | None, dtype: torch.dtype | None, backend: str
) -> str | None:
    if weights is None:
        return None
    _one_of("weights", weights, ("bf16", "int8"))
    if dtype in (torch.bfloat16, torch.float16):
        raise ValueError(
            f"weights={weights!r} contradicts dtype={dtype}: it stores weights, and computes in float32, where dtype= "
            "chooses both by itself. Give one of them"
        )
    module = module_of(model)
    if module is None or isinstance(module, torch.jit.ScriptModule) or backend not in ("auto", "graph"):
        raise TypeError(
            f"weights={weights!r} needs an nn.Module that is not scripted, or a method of one, and backend='auto' or "
            f"'graph', which store weights; got {type(model).__name__} and backend={backend!r}"
        )
    return weights


def _read_batch(batch: object) -> tuple[Mapping[str, int] | None, tuple[Contract, ...], bool]:
    if batch is None:
        return None, (), True
    if batch is False:
        return None, (), False
    if isinstance(batch, Explanation):
        return None, batch.contracts, True
    if isinstance(batch, Contract):
        return None, (batch,), True
    if isinstance(batch, Mapping):
        for key, dim in batch.items():
            if not isinstance(key, str) or (dim is not None and not isinstance(dim, int)):
                raise ValueError(f"batch must map names to dims, got {key!r}: {dim!r}")
        return dict(batch), (), True
    text = f"batch must be None, False, a mapping of names to dims, or what explain() returned, got {batch!r}"
    if isinstance(batch, bool):
        text = f"{text}: calls are merged where that is proven to be right unless it is False, so leave it out"
    elif isinstance(batch, int):
        text = f"{text}: the most rows of a batch are max_batch={batch}; a dim that holds rows is {{'input': {batch}}}"
    raise TypeError(text)


def _read_pad(model: Callable[..., Any], pad: Any) -> dict[str, float | int | bool]:
    if pad is None:
        return {}
    if isinstance(pad, Mapping):
        known = argument_names(model)
        unknown = [name for name in pad if known and str(name).partition("[")[0] not in known]
        if unknown:
            raise ValueError(f"pad= names no input of the model: {unknown} (inputs: {sorted(known or ())})")
        for name, value in pad.items():
            if not isinstance(name, str) or not isinstance(value, bool | int | float):
                raise ValueError(f"pad must map input names to numbers, got {name!r}: {value!r}")
        return dict(pad)
    if getattr(pad, "pad_token_id", None) is not None:
        if getattr(pad, "padding_side", "right") != "right":
            raise ValueError("pad: the tokenizer pads on the left; only right-padding is supported")
        return {
            "input_ids": int(pad.pad_token_id),
            "attention_mask": 0,
            "token_type_ids": int(getattr(pad, "pad_token_type_id", 0)),
        }
    raise TypeError(f"pad must be a mapping of input names to values or a tokenizer with a pad token, got {pad!r}")


def check_runtime(runtime: object) -> None:
    """Raises TypeError for what is no Runtime."""
    if runtime is not None and not isinstance(runtime, Runtime):
        number = isinstance(runtime, int) and not isinstance(runtime, bool)
        advice = f": give torchpool.Runtime({runtime}) for that many workers" if number else ""
        raise TypeError(f"runtime must be a torchpool.Runtime, or None, got {runtime!r}{advice}")


def check_options(priority: int, deadline: float | None) -> tuple[int, float | None]:
    """Of a view of a predictor or an executor: as given, or TypeError or ValueError."""
    if not isinstance(priority, int):
        raise TypeError(f"priority must be an int, got {priority!r}")
    if not -(2**31) <= priority < 2**31:
        raise ValueError(f"priority must fit 32 bits, got {priority!r}")
    if deadline is not None and not deadline > 0:
        raise ValueError(f"deadline must be a positive number of seconds, or None, got {deadline!r}")
    return priority, deadline
