"""nn.LSTM, nn.GRU and nn.RNN as operators that export leaves whole.

Export takes ATen's recurrent operators apart into one set of nodes per time step, which freezes the length. Recurrent
modules are therefore exported with torchpool's own operators. These have the same arguments, and compute nothing but
the shapes of their results. `restore` puts ATen's operators back into the exported graph, and for layers that run over
packed sequences our own kernel: ATen's would need the rows sorted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

import torchpool._core  # noqa: F401  # registers the kernel
from torchpool.capture.graph_edit import bound_arguments, value_of
from torchpool.capture.packed_sequences import Sequence
from torchpool.capture.program import CaptureError

_FLAGS = "bool has_biases, int num_layers, float dropout, bool train, bool bidirectional, bool batch_first"
_ATEN: dict[str, Any] = {
    "lstm": torch.ops.aten.lstm.input,
    "gru": torch.ops.aten.gru.input,
    "rnn_tanh": torch.ops.aten.rnn_tanh.input,
    "rnn_relu": torch.ops.aten.rnn_relu.input,
}
_KERNELS = ("lstm", "gru", "rnn_tanh")
"""What our own kernel computes."""
_defined: dict[str, Any] = {}
_packed: dict[str, Any] = {}
"""The same over rows of their own lengths."""


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


def _kernel_outputs(
    x: Tensor, hidden: Any, cell: Any, packed: Tensor, lengths: Any, kind: str, units: int, num_layers: int,
    bidirectional: bool, batch_first: bool, need_output: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    state = x.new_empty(num_layers * (2 if bidirectional else 1), x.shape[0 if batch_first else 1], units)
    output, last = _outputs(x, state, num_layers, bidirectional, batch_first)
    return (
        output if need_output else x.new_empty(0),
        last,
        torch.empty_like(state) if kind == "lstm" else x.new_empty(0),
    )


torch.library.register_fake("torchpool::rnn", _kernel_outputs)


def _define_packed(name: str) -> Any:
    """Our operator of that name for rows of their own lengths, registered when it is first needed."""
    if name in _packed:
        return _packed[name]
    qualified = f"torchpool::packed_{name}"
    results = ", ".join(["Tensor"] * (3 if name == "lstm" else 2))
    torch.library.define(
        qualified, f"(Tensor input, Tensor lengths, Tensor[] hx, Tensor[] params, int hidden, {_FLAGS}) -> ({results})"
    )

    def shapes(
        x: Tensor, lengths: Tensor, hx: list[Tensor], params: list[Tensor], hidden: int, *flags: Any
    ) -> tuple[Tensor, ...]:
        _, layers, _, _, bidirectional, batch_first = flags
        rows = layers * (2 if bidirectional else 1)
        state = x.new_empty(rows, x.shape[0 if batch_first else 1], hidden)
        found = _outputs(x, state, layers, bidirectional, batch_first)
        return (*found, torch.empty_like(state)) if name == "lstm" else found

    torch.library.register_fake(qualified, shapes)
    _packed[name] = getattr(torch.ops.torchpool, f"packed_{name}").default
    return _packed[name]


class _Exportable(nn.RNNBase):
    """What the classes below have in common; they are given to existing layers, and never constructed."""

    _states: ClassVar[int] = 1

    def forward(self, input: Any, hx: Any = None) -> Any:
        if isinstance(input, Sequence):
            return self._over_packed(input, hx)
        if input.dim() not in (2, 3):
            raise ValueError(f"expected an input with 2 or 3 dims, got {input.dim()}")
        batched = input.dim() == 3
        if not batched:
            input = input.unsqueeze(0 if self.batch_first else 1)
        states = self._initial(input, hx, batched, self.batch_first)
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

    def _over_packed(self, sequence: Sequence, hx: Any) -> Any:
        kind, x = self.mode.lower(), sequence.padded
        drops = self.training and self.dropout and self.num_layers > 1
        if kind not in _KERNELS or self.proj_size or drops or x.dtype != torch.float32 or x.dim() != 3:
            what = "with projections" if self.proj_size else "in train mode" if drops else f"on {x.dtype}"
            named = f"nn.{self.mode.partition('_')[0]} {'with relu' if kind not in _KERNELS else what}"
            raise CaptureError(f"{named} is called with a packed sequence")
        states = [] if hx is None else self._initial(x, hx, True, sequence.batch_first)
        output, *last = _define_packed(kind)(
            x, sequence.lengths, states, [getattr(self, name) for name in self._flat_weights_names], self.hidden_size,
            self.bias, self.num_layers, self.dropout, self.training, self.bidirectional, sequence.batch_first,
        )  # fmt: skip
        found = Sequence(output, sequence.lengths, sequence.batch_first, clean=True)
        return found, tuple(last) if self._states > 1 else last[0]

    def _initial(self, input: Tensor, hx: Any, batched: bool, batch_first: bool) -> list[Tensor]:
        batch = input.shape[0 if batch_first else 1]
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
    """Puts ATen's operators in the place of ours, or our kernel's."""
    back: dict[Callable[..., Any], Any] = {own: _ATEN[name] for name, own in _defined.items()}
    packed = {own: name for name, own in _packed.items()}
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in back:
            node.target = back[node.target]
        elif node.op == "call_function" and node.target in packed:
            _use_kernel(graph, node, packed[node.target])


def _use_kernel(graph: torch.fx.Graph, node: torch.fx.Node, kind: str) -> None:
    given = bound_arguments(node)
    sizes = (given["num_layers"], given["bidirectional"])
    hidden, cell = [*given["hx"], None, None][:2]
    with graph.inserting_before(node):
        weights = graph.call_function(
            torch.ops.torchpool.pack_rnn.default, (given["params"], kind, given["has_biases"], *sizes)
        )
        weights.meta["val"] = value_of(given["params"][0]).new_empty(1)  # as many as the kernel's form needs
        layer = graph.call_function(
            torch.ops.torchpool.rnn.default,
            (
                given["input"], hidden, cell, weights, given["lengths"], kind, given["hidden"], *sizes,
                given["batch_first"], True,
            ),
        )  # fmt: skip
    layer.meta.update(node.meta)
    node.replace_all_uses_with(layer)
    graph.erase_node(node)


def exportable(target: Any) -> Any:
    """Our operator for one of ATen's, of a graph that is to be exported once more; any other as it is."""
    return {_ATEN[name]: own for name, own in _defined.items()}.get(target, target)
