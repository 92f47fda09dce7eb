"""nn.LSTM, nn.GRU and nn.RNN as operators that export leaves whole.

Export takes ATen's recurrent operators apart into one set of nodes per time step, which freezes the length. Recurrent
modules are therefore exported with torchpool's own operators. These have the same arguments, and compute nothing but
the shapes of their results. `restore` puts ATen's operators back into the exported graph.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from torchpool.capture.program import CaptureError

_FLAGS = "bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"
_ATEN: dict[str, Any] = {
    "lstm": torch.ops.aten.lstm.input,
    "gru": torch.ops.aten.gru.input,
    "rnn_tanh": torch.ops.aten.rnn_tanh.input,
    "rnn_relu": torch.ops.aten.rnn_relu.input,
}
_defined: dict[str, Any] = {}


def _outputs(x: Tensor, hidden: Tensor, num_layers: int, bidirectional: bool, batch_first: bool) -> tuple[Tensor, ...]:
    """Output and last hidden state, laid out as ATen does: the output is time-major in memory."""
    directions = 2 if bidirectional else 1
    batch, steps = (x.shape[0], x.shape[1]) if batch_first else (x.shape[1], x.shape[0])
    output = x.new_empty(steps, batch, directions * hidden.shape[-1])
    last = hidden.new_empty(directions * num_layers, batch, hidden.shape[-1])
    return (output.transpose(0, 1) if batch_first else output), last


def _define(name: str) -> Any:
    """Our operator of that name, registered when it is first needed."""
    if name in _defined:
        return _defined[name]
    qualified = f"torchpool::{name}"
    state, results = ("Tensor[]", "(Tensor, Tensor, Tensor)") if name == "lstm" else ("Tensor", "(Tensor, Tensor)")
    torch.library.define(qualified, f"(Tensor input, {state} hx, Tensor[] params, {_FLAGS}) -> {results}")
    aten = _ATEN[name]

    def run(*args: Any) -> Any:
        return aten(*args)

    def shapes(x: Tensor, hx: Any, params: list[Tensor], *flags: Any) -> tuple[Tensor, ...]:
        _, layers, _, _, bidirectional, batch_first = flags
        if name != "lstm":
            return _outputs(x, hx, layers, bidirectional, batch_first)
        cell = hx[1].new_empty(hx[1].shape)
        return (*_outputs(x, hx[0], layers, bidirectional, batch_first), cell)

    torch.library.impl(qualified, "default", run)
    torch.library.register_fake(qualified, shapes)
    _defined[name] = getattr(torch.ops.torchpool, name).default
    return _defined[name]


class _Exportable(nn.RNNBase):
    """What the classes below have in common; they are given to existing layers, and never constructed."""

    _states: ClassVar[int] = 1

    def forward(self, input: Any, hx: Any = None) -> Any:
        if isinstance(input, nn.utils.rnn.PackedSequence):
            raise CaptureError(f"nn.{self.mode.partition('_')[0]} is called with a packed sequence")
        if input.dim() not in (2, 3):
            raise ValueError(f"expected an input with 2 or 3 dims, got {input.dim()}")
        batched = input.dim() == 3
        if not batched:
            input = input.unsqueeze(0 if self.batch_first else 1)
        states = self._initial(input, hx, batched)
        kind = self.mode.lower()
        weights = [getattr(self, name) for name in self._flat_weights_names]
        output, *last = _define(kind)(
            input, states if kind == "lstm" else states[0], weights, self.bias, self.num_layers, self.dropout,
            self.training, self.bidirectional, self.batch_first,
        )  # fmt: skip
        if not batched:
            output = output.squeeze(0 if self.batch_first else 1)
            last = [state.squeeze(1) for state in last]
        return output, tuple(last) if self._states > 1 else last[0]

    def _initial(self, input: Tensor, hx: Any, batched: bool) -> list[Tensor]:
        batch = input.shape[0 if self.batch_first else 1]
        rows = self.num_layers * (2 if self.bidirectional else 1)
        widths = [self.proj_size or self.hidden_size, self.hidden_size][: self._states]
        if hx is None:
            return [torch.zeros(rows, batch, width, dtype=input.dtype, device=input.device) for width in widths]
        states = list(hx) if self._states > 1 else [hx]
        if not batched:
            states = [state.unsqueeze(1) for state in states]
        for state, width in zip(states, widths, strict=True):
            if tuple(state.shape) != (rows, batch, width):
                raise ValueError(f"expected a hidden state of {(rows, batch, width)}, got {tuple(state.shape)}")
        return states


class _LSTM(_Exportable, nn.LSTM):
    _states = 2


class _GRU(_Exportable, nn.GRU):
    pass


class _RNN(_Exportable, nn.RNN):
    pass


_CLASSES: dict[type, type[nn.Module]] = {nn.LSTM: _LSTM, nn.GRU: _GRU, nn.RNN: _RNN}


def swap(module: nn.Module) -> None:
    """Makes the recurrent layers inside call our operators. For a copy that is only exported."""
    for part in module.modules():
        own = _CLASSES.get(type(part))
        if own is not None:
            part.__class__ = own
            # The layer's own list of its weights; they are taken by name, so that the graph names them too.
            vars(part).pop("_flat_weights", None)


def restore(graph: torch.fx.Graph) -> None:
    """Puts ATen's operators in the place of ours."""
    back: dict[Callable[..., Any], Any] = {own: _ATEN[name] for name, own in _defined.items()}
    for node in graph.nodes:
        if node.op == "call_function" and node.target in back:
            node.target = back[node.target]


def exportable(target: Any) -> Any:
    """Our operator for one of ATen's, of a graph that is to be exported once more; any other as it is."""
    return {_ATEN[name]: own for name, own in _defined.items()}.get(target, target)
