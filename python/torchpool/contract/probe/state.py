"""Saves and restores what probing must not change: random states, a module's buffers, parameters and attributes."""

from __future__ import annotations

import copy
import math
import random
import sys
from collections import deque
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from torchpool.contract.probe.parts import is_dense, same_parts
from torchpool.contract.train_mode import mode_matters

_BASE_ATTRIBUTES = frozenset(vars(nn.Module()))
_MAX_ITEMS = 10_000  # a longer list or dict is not copied
_MAX_BYTES = 256 << 20  # of parameters, and of plain tensor attributes
_COLLECTIONS = (list, dict, set, deque)


class RandomState:
    """The random states as they were: torch (CPU, and CUDA when in use), Python's, numpy's when imported."""

    def __init__(self) -> None:
        self._torch = torch.get_rng_state()
        self._cuda = torch.cuda.get_rng_state_all() if _cuda_in_use() else None
        self._python = random.getstate()
        numpy = sys.modules.get("numpy")
        state: Any = numpy.random.get_state() if numpy else None
        self._numpy = state
        self._numpy_key = (state[1].tobytes(), state[2:]) if numpy else None

    def restore(self) -> None:
        """Puts every state back."""
        torch.set_rng_state(self._torch)
        if self._cuda is not None:
            torch.cuda.set_rng_state_all(self._cuda)
        random.setstate(self._python)
        if self._numpy is not None:
            sys.modules["numpy"].random.set_state(self._numpy)

    def moved(self) -> bool:
        """Whether random numbers have been drawn since."""
        now = RandomState()
        cuda = self._cuda is not None and any(
            not torch.equal(a, b) for a, b in zip(self._cuda, now._cuda or [], strict=False)
        )
        numpy = self._numpy_key is not None and self._numpy_key != now._numpy_key
        return cuda or numpy or not torch.equal(self._torch, now._torch) or self._python != now._python


class ModuleState:
    """A copy of everything in a module that a forward pass can move; `restore` puts it back in place."""

    def __init__(self, module: nn.Module | None) -> None:
        self.mode_matters = module is not None and mode_matters(module)
        self._buffers: list[tuple[str, torch.Tensor, torch.Tensor, dict[str, Any] | None]] = []
        self._parameters: list[tuple[str, torch.Tensor, int, torch.Tensor | None]] = []
        self._attributes: list[tuple[str, dict[str, Any], str, Any, Any]] = []
        self._known: list[tuple[dict[str, Any], set[str]]] = []
        self._parts: list[tuple[str, nn.Module]] = []
        self._hooks = 0
        if module is None:
            return
        parameters = list(module.named_parameters())
        keep = sum(p.numel() * p.element_size() for _, p in parameters) <= _MAX_BYTES
        for name, p in parameters:
            self._parameters.append((name, p, _version(p), p.detach().clone() if keep else None))
        scripted = isinstance(module, torch.jit.ScriptModule)
        self._parts = [] if scripted else list(module.named_modules())
        self._hooks = self._count_hooks()
        for prefix, part in module.named_modules():
            dot = f"{prefix}." if prefix else ""
            home = None if scripted else part._buffers
            for name, buffer in part.named_buffers(recurse=False):
                self._buffers.append((dot + name, buffer, buffer.detach().clone(), home))
            if not scripted:
                self._keep_attributes(dot, vars(part))

    def _count_hooks(self) -> int:
        return sum(len(part._forward_hooks) + len(part._forward_pre_hooks) for _, part in self._parts)

    def keep_set_up(self) -> None:
        """Takes the present attributes for those of before, if hooks came since: a forward that registers hooks at its
        first run remembers that it did, and would do so once more if that were put back."""
        hooks = self._count_hooks()
        if hooks == self._hooks:
            return
        self._hooks = hooks
        self._attributes.clear()
        self._known.clear()
        for prefix, part in self._parts:
            self._keep_attributes(f"{prefix}." if prefix else "", vars(part))

    def _keep_attributes(self, dot: str, attributes: dict[str, Any]) -> None:
        self._known.append((attributes, set(attributes)))
        for name, value in attributes.items():
            if name in _BASE_ATTRIBUTES or isinstance(value, nn.Module):
                continue
            saved = None
            if type(value) in _COLLECTIONS and len(value) <= _MAX_ITEMS:
                saved = copy.copy(value)
            elif isinstance(value, torch.Tensor) and value.numel() * value.element_size() <= _MAX_BYTES:
                saved = value.detach().clone()
            self._attributes.append((dot + name, attributes, name, value, saved))

    def tensors(self) -> list[tuple[str, torch.Tensor]]:
        """The module's parameters, buffers and plain tensor attributes, by name."""
        found = [(f"parameter {name}", p) for name, p, _, _ in self._parameters]
        found += [(f"buffer {name}", b) for name, b, _, _ in self._buffers]
        found += [(f"attribute {n}", v) for n, _, _, v, _ in self._attributes if isinstance(v, torch.Tensor)]
        return found

    def changed(self) -> tuple[str, float] | None:
        """The first buffer or parameter that is not what it was, and by how much (inf: another shape)."""
        for name, buffer, saved, home in self._buffers:
            now = home.get(name.rpartition(".")[2]) if home is not None else buffer
            if now is None or now.shape != saved.shape or now.dtype != saved.dtype:
                return f"buffer {name}", float("inf")
            if not _same(now, saved):
                return f"buffer {name}", float((now.double() - saved.double()).abs().max()) if is_dense(
                    now
                ) else math.inf
        for name, parameter, version, kept in self._parameters:
            if _version(parameter) != version and (kept is None or not _same(parameter, kept)):
                return f"parameter {name}", float("inf" if kept is None else (parameter.detach() - kept).abs().max())
        return None

    def moved_attributes(self) -> list[str]:
        """Names of plain attributes that were bound anew, changed in place, or added."""
        return [name for name, *_ in self._attribute_changes()]

    def _attribute_changes(self) -> Iterator[tuple[str, dict[str, Any], str, Any, Any]]:
        for dotted, attributes, name, value, saved in self._attributes:
            now = attributes.get(name)
            if now is not value or (saved is not None and not _same_value(now, saved)):
                yield dotted, attributes, name, value, saved

    def restore(self) -> None:
        """Puts buffers, parameters and plain attributes back as they were."""
        self.keep_set_up()
        with torch.no_grad():
            for name, buffer, saved, home in self._buffers:
                if home is not None and home.get(name.rpartition(".")[2]) is not buffer:
                    home[name.rpartition(".")[2]] = buffer
                if not _same(buffer, saved):
                    buffer.copy_(saved)
            for _, parameter, version, kept in self._parameters:
                if kept is not None and _version(parameter) != version and not _same(parameter, kept):
                    parameter.copy_(kept)
            for _, attributes, name, value, saved in list(self._attribute_changes()):
                attributes[name] = value
                if isinstance(value, torch.Tensor):
                    if saved is not None and not _same(value, saved):
                        value.copy_(saved)
                elif saved is not None:
                    value.clear()
                    (value.update if isinstance(value, dict | set) else value.extend)(saved)
        for attributes, known in self._known:
            for name in set(attributes) - known:
                del attributes[name]


def _cuda_in_use() -> bool:
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def _version(tensor: torch.Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    if not is_dense(a) or not is_dense(b):
        return same_parts(a, b)
    if torch.equal(a, b):
        return True
    if a.shape != b.shape or a.dtype != b.dtype or not (a.is_floating_point() or a.is_complex()):
        return False
    return bool(((a == b) | (a.isnan() & b.isnan())).all())


def _same_value(now: Any, saved: Any) -> bool:
    if isinstance(saved, torch.Tensor):
        return isinstance(now, torch.Tensor) and _same(now, saved)
    if len(now) != len(saved):
        return False
    pairs = zip(now.items(), saved.items(), strict=True) if isinstance(saved, dict) else zip(now, saved, strict=True)
    if isinstance(saved, dict):
        return all(k is j and v is w for (k, v), (j, w) in pairs)
    return all(a is b for a, b in pairs)
