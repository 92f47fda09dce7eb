"""The source of a capture: a module, and the kind of call to capture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from torchpool.call import Call, replace_tensors, tree
from torchpool.capture import module_copy
from torchpool.capture.program import CaptureError
from torchpool.contract import Contract, Leaves, brief, mode_surely_matters

# Hooks of these modules do nothing but collect values for the result.
_COLLECTING_HOOKS = ("transformers.utils.output_capturing",)
COLLECTING_MARK = "_output_capturing_hooks_installed"
"""The attribute by which a model knows that it has set them, in its first run."""


@dataclass(frozen=True, kw_only=True)
class Source:
    module: nn.Module
    method: str | None
    """None for the module's own call."""
    call: Call
    samples: Sequence[Leaves]
    """Tensors of calls that the module takes."""
    contract: Contract
    dtype: torch.dtype | None = None
    """What to compute in instead of the module's own."""
    weights: str | None = None
    """In what to store weights of linear layers, and to compute in fp32; beside a dtype: the faster of the two."""
    spec: tree.TreeSpec
    """Of the module's result."""
    result_dtypes: tuple[torch.dtype, ...]
    proof_needed: bool = False
    """Whether a graph in which rows may meet is of no use."""
    rows: int = 1
    """Of a call; samples may have been cut to fewer."""
    invariant: bool = False
    """A graph in which a row's bits may depend on its batch is of no use."""

    @staticmethod
    def of(
        target: Callable[..., Any],
        module: nn.Module,
        call: Call,
        samples: Sequence[Leaves],
        contract: Contract,
        dtype: torch.dtype | None = None,
        *,
        weights: str | None = None,
        proof_needed: bool = False,
        rows: int = 1,
        invariant: bool = False,
    ) -> Source:
        """`target` is `module` or a method of it; it is called once. Raises CaptureError for what no graph serves."""
        method = serves(target, module, samples, contract, dtype)
        args, kwargs = replace_tensors(call, samples[0])
        with torch.no_grad():
            results, spec = tree.flatten(target(*args, **kwargs))
        return Source(
            module=module,
            method=method,
            call=call,
            samples=samples,
            contract=contract,
            dtype=dtype,
            weights=weights,
            spec=spec,
            result_dtypes=tuple(leaf.dtype for leaf in results),
            proof_needed=proof_needed,
            rows=rows,
            invariant=invariant,
        )

    def copy(self, *, all_buffers: bool) -> nn.Module:
        """The module to export, which shares its tensors; in `dtype` if there is one."""
        try:
            module = module_copy.share(self.module)
        except Exception as error:
            raise CaptureError(f"the module cannot be copied: {brief(error, 2)}") from error
        if self.dtype is not None:
            module_copy.convert(module, self.dtype, all_buffers=all_buffers)
        return module


def serves(
    target: Callable[..., Any],
    module: nn.Module,
    samples: Sequence[Leaves],
    contract: Contract,
    dtype: torch.dtype | None,
) -> str | None:
    """The method that a graph of this target serves; None for the module's own call. Raises CaptureError for what no
    graph serves."""
    method = _method(target, module)
    _refuse(module, samples, contract, dtype)
    if mode_surely_matters(module):
        raise CaptureError("part of the module is in train mode, which changes what it computes")
    return method


def _method(target: Callable[..., Any], module: nn.Module) -> str | None:
    """The name of the method that the target is; None for the module's own call."""
    if target is module:
        return None
    name = getattr(target, "__name__", None)
    owner = getattr(target, "__self__", None)
    if owner is not module or not isinstance(name, str) or getattr(type(module), name, None) is None:
        raise CaptureError("only a module or a method of one can be captured, not any callable")
    return name


def refuse_hooks(module: nn.Module) -> None:
    """Raises CaptureError for hooks: a graph runs no Python, so that what they do beside the result would be lost."""
    for name, part in module.named_modules():
        hooks = [*part._forward_hooks.values(), *part._forward_pre_hooks.values()]
        if not all(getattr(hook, "__module__", None) in _COLLECTING_HOOKS for hook in hooks):
            raise CaptureError(f"submodule {name!r} has forward hooks, which a graph cannot run")
    registered = torch.nn.modules.module
    if registered._global_forward_hooks or registered._global_forward_pre_hooks:
        raise CaptureError("there are global forward hooks, which a graph cannot run")


def _refuse(module: nn.Module, samples: Sequence[Leaves], contract: Contract, dtype: torch.dtype | None) -> None:
    if isinstance(module, torch.jit.ScriptModule):
        raise CaptureError("a ScriptModule is served by the torchscript backend")
    if contract.serial:
        raise CaptureError(f"a graph has no state: {contract.reason}")
    if dtype is not None and not dtype.is_floating_point:
        raise CaptureError(f"dtype must be a floating-point type, got {dtype}")
    for part in module.modules():
        if type(part).__module__.startswith("torch._dynamo"):
            raise CaptureError("torch.compile has compiled it")
    for tensor in [*samples[0], *module.parameters(), *module.buffers()]:
        if torch.nn.parameter.is_lazy(tensor):
            raise CaptureError("some of its weights are not made yet: no call has reached the lazy layers they are of")
        if tensor.device.type != "cpu" or tensor.layout != torch.strided:
            raise CaptureError(f"only dense tensors on the CPU are supported, not {tensor.layout} on {tensor.device}")
