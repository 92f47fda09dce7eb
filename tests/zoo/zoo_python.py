"""Modules that do in Python what an export has to follow, or cannot: control flow, outputs, state, numpy."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from support import draw
from torch import Tensor, nn
from zoo import LENGTHS, Calls, Entry, inputs, sequences


class _Linear(nn.Module):
    """What these modules have in common: a linear layer, 4 to 4."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)


# --- control flow -----------------------------------------------------------------------------------------------------


class BySize(_Linear):
    """Long sequences take another way than short ones."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if x.shape[1] > 5 else torch.tanh(self.linear(x))


class InChunks(_Linear):
    """A loop whose length depends on the input's."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.linear(chunk).sum(1) for chunk in x.split(4, dim=1)]).amax(0)


class Folded(_Linear):
    """Sizes computed from sizes: neighbours are paired, an odd one is padded."""

    def forward(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        x = nn.functional.pad(x, (0, 0, 0, length % 2))
        pairs = x.reshape(rows, (length + 1) // 2, 2 * width)
        return self.linear(pairs[..., :4]) * (1.0 / length) + torch.arange(pairs.shape[1]).view(1, -1, 1)


class WithOption(_Linear):
    """Arguments that are no tensors."""

    def forward(self, x: Tensor, scale: float = 1.0, how: str = "relu") -> Tensor:
        return getattr(torch, how)(self.linear(x)) * scale


class IfAny(_Linear):
    """Skips the mask where nothing is masked: a look at the data that changes no result."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.linear(x)
        return x.masked_fill(~mask, 0.0) if not bool(mask.all()) else x


class IfPositive(_Linear):
    """A branch on the sum of everything in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) if bool(x.sum() > 0) else -self.linear(x)


class Centred(_Linear):
    """Each row minus the mean of all rows."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return x + y - y.mean(0)


# --- outputs ----------------------------------------------------------------------------------------------------------


class Labels(NamedTuple):
    scores: Tensor
    best: Tensor


@dataclass
class Answer:
    scores: Tensor
    hidden: tuple[Tensor, ...]
    loss: Tensor | None = None


class AsDict(_Linear):
    def forward(self, x: Tensor) -> dict[str, Any]:
        y = self.linear(x)
        return {"scores": y, "each": [y[:, 0], y[:, 1:]], "nothing": None, "name": "as dict"}


class AsNamedTuple(_Linear):
    def forward(self, x: Tensor) -> Labels:
        scores = self.linear(x).softmax(-1)
        return Labels(scores, scores.argmax(-1))


class AsDataclass(_Linear):
    def forward(self, x: Tensor) -> Answer:
        hidden = torch.relu(self.linear(x))
        return Answer(self.linear(hidden), (x, hidden))


class Tops(_Linear):
    """Several outputs of one operator, integers and booleans among them."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        values, where = self.linear(x).topk(2, dim=-1)
        return values, where, values > 0


class WithConstant(_Linear):
    """Beside the scores, positions that are the same for every row."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.linear(x), torch.linspace(0, 1, 5)


class Spectrum(nn.Module):
    """Complex numbers inside: waves [B, N] to magnitudes."""

    def forward(self, x: Tensor) -> Tensor:
        window = torch.hann_window(16, device=x.device)
        return torch.stft(x, 16, hop_length=8, window=window, return_complex=True).abs().log1p()


class View(nn.Module):
    """A result that shares the input's memory."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)[:, :2]


class ColumnsAreRows(_Linear):
    """The rows are in dim 1: [4, B]."""

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.T).T


# --- state, and what Python alone can do ------------------------------------------------------------------------------


class Counting(_Linear):
    """Counts its calls in a buffer."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("count", torch.zeros((), dtype=torch.long))

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return self.linear(x)


class Scratch(_Linear):
    """Writes a buffer and reads it again: right for one call at a time only."""

    last: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("last", torch.zeros(4))

    def forward(self, x: Tensor) -> Tensor:
        self.last.copy_(x[0, 0])
        return self.linear(x) + self.last


_hooking = threading.Lock()


class LazyHooks(_Linear):
    """Registers a hook at the first call, and sets a flag that says so; models of transformers do."""

    def forward(self, x: Tensor) -> Tensor:
        with _hooking:
            if not getattr(self, "hooked", False):
                self.linear.register_forward_hook(lambda module, args, output: 2 * output)
                self.hooked = True
        return self.linear(x)


class InPlace(_Linear):
    """Writes its own tensors in place, a slice and an index at a time."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x).clone()
        y[:, 1:] += y[:, :-1].clone()
        y[..., 0] = 0.0
        y[y > 1.0] = 1.0
        return y.clamp_(min=-1.0).mul_(2.0)


class Modes(_Linear):
    """Contexts inside forward: no gradients, autocast switched off."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            scale = x.abs().amax(-1, keepdim=True)
        with torch.autocast("cpu", enabled=False):
            return self.linear(x / (scale + 1.0))


class ByNumpy(_Linear):
    """Part of the work in numpy."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return y + torch.from_numpy(y.detach().numpy() ** 2)


class ByItem(_Linear):
    """A Python number read from a tensor of the module."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) * float(self.scale)


class RowByRow(_Linear):
    """A Python loop over the rows."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([self.linear(row) for row in x])


def _masks() -> Calls:
    calls = [(draw(1, 5, 4, seed=seed), torch.ones(1, 5, 1, dtype=torch.bool)) for seed in range(6)]
    for _, mask in calls[::2]:
        mask[:, 3:] = False
    return calls


_rows = inputs((1, 4), (1, 4), (1, 4))

CONTROL_FLOW = [
    Entry("branch on a size", BySize, sequences(4)),
    Entry("loop over a size", InChunks, sequences(4)),
    Entry("sizes from sizes", Folded, sequences(4)),
    Entry("options", WithOption, lambda: [{"x": x, "scale": 2.0, "how": "tanh"} for x in sequences(4)()]),
    Entry("branch on data, harmless", IfAny, _masks, expect="no graph"),
    Entry("branch on data", IfPositive, _rows, expect="alone"),
    Entry("rows that influence each other", Centred, _rows, expect="lifted"),
    Entry("loop over rows", RowByRow, _rows, expect="no graph"),
]

OUTPUTS = [
    Entry("dict", AsDict, _rows),
    Entry("named tuple", AsNamedTuple, _rows),
    Entry("dataclass", AsDataclass, sequences(4)),
    Entry("several outputs", Tops, sequences(4)),
    Entry("constant output", WithConstant, _rows),
    Entry("spectrum", Spectrum, sequences(lengths=(64, 100, 48, 81))),
    Entry("view of the input", View, lambda: [draw(1, n, 4, seed=n) for n in LENGTHS]),
    Entry("rows in dim 1", ColumnsAreRows, inputs((4, 1), (4, 1), (4, 1))),
]

STATE = [
    Entry("counter in a buffer", Counting, _rows, expect="alone"),
    Entry("scratch buffer", Scratch, sequences(4), expect="alone"),
    Entry("hooks at the first call", LazyHooks, _rows, expect="no graph"),
    Entry("writes in place", InPlace, sequences(4)),
    Entry("contexts in forward", Modes, _rows),
    Entry("numpy in forward", ByNumpy, _rows),
    Entry("number from a tensor", ByItem, _rows, expect="no graph"),
]

MODELS = [*CONTROL_FLOW, *OUTPUTS, *STATE]
