"""Which modules compute something else in train mode, as far as can be seen from what they are made of."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from support import draw
from torch import nn

from torchpool.contract import Reason, mode_matters
from torchpool.contract.probe import probe


class Centred(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(1) - x.mean(0, keepdim=True)


class CentredInTraining(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.softmax(1) - x.mean(0, keepdim=True) if self.training else x


class DropsByFunction(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        def drop(y: torch.Tensor) -> torch.Tensor:
            return nn.functional.dropout(y)

        return drop(x)


class Fits(nn.Module):
    """Sets the mode, and does not ask for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    def fit(self) -> None:
        self.train()
        self(torch.ones(1))
        self.eval()

    def train(self, mode: bool = True) -> Fits:
        self.training = mode
        return super().train(mode)


def _int8() -> nn.Module:
    """Dynamically and statically quantised layers in train mode."""
    static = nn.Sequential(torch.ao.quantization.QuantStub(), nn.Conv1d(1, 2, 3), torch.ao.quantization.DeQuantStub())
    static.qconfig = torch.ao.quantization.default_qconfig  # type: ignore[assignment]
    static = torch.ao.quantization.prepare(static.eval())
    static(torch.ones(1, 1, 8))
    dynamic = nn.Sequential(nn.Linear(3, 3), nn.LSTM(3, 3))
    return nn.ModuleList(
        [torch.ao.quantization.convert(static), torch.ao.quantization.quantize_dynamic(dynamic)]
    ).train()


def _exported(module: nn.Module) -> nn.Module:
    return torch.export.export(module, (torch.ones(2, 3),)).module()


def _traced(module: nn.Module) -> nn.Module:
    traced: nn.Module = torch.jit.trace(module, torch.ones(2, 3), check_trace=False)
    return traced


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    ("make", "matters"),
    [
        (Fits, False),
        (_int8, False),
        (lambda: _exported(nn.Sequential(nn.Linear(3, 3), nn.Dropout()).eval()), False),
        (lambda: _exported(nn.Sequential(nn.Linear(3, 3), nn.Dropout())), False),  # its graph has the mode
        (lambda: torch.fx.symbolic_trace(nn.Sequential(nn.Linear(3, 3), nn.Dropout())), True),
        (lambda: _traced(nn.Sequential(nn.Linear(3, 3), nn.Dropout())), False),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3))), False),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0))), False),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.Dropout())), True),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))), True),
        (lambda: torch.jit.script(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)).eval()), False),
        (lambda: torch.jit.script(nn.LSTM(3, 3)), False),
        (lambda: torch.jit.script(nn.LSTM(3, 3, 2, dropout=0.1)), True),
    ],
)
@pytest.mark.usefixtures("seeded")
def test_modules_that_were_made_of_others(make: Callable[[], nn.Module], matters: bool) -> None:
    assert mode_matters(make()) is matters


@pytest.mark.parametrize(
    ("module", "matters"),
    [
        (nn.Dropout(0.5), True),
        (nn.Dropout(0.0), False),
        (nn.BatchNorm1d(3), True),
        (nn.BatchNorm1d(3, track_running_stats=False), True),
        (nn.InstanceNorm1d(3), False),
        (nn.InstanceNorm1d(3, track_running_stats=True), True),
        (nn.RReLU(), True),
        (nn.LSTM(3, 3, 2, dropout=0.1), True),
        (nn.LSTM(3, 3), False),
        (nn.MultiheadAttention(4, 2, dropout=0.1), True),
        (nn.TransformerEncoderLayer(4, 2), True),
        (nn.TransformerEncoderLayer(4, 2, dropout=0.0), False),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3)), False),
        (Centred(), False),
        (CentredInTraining(), True),
        (DropsByFunction(), True),
    ],
)
def test_modules(module: nn.Module, matters: bool) -> None:
    assert mode_matters(module) is matters
    assert not mode_matters(module.eval())


@pytest.mark.parametrize(("module", "code"), [(Centred(), Reason.CHECK), (CentredInTraining(), Reason.TRAIN_MODE)])
def test_the_mode_is_blamed_where_it_may_be_at_fault(module: nn.Module, code: Reason) -> None:
    contract = probe(lambda leaves: module(*leaves), [[draw(4, 8)]], ["x"], module=module)
    assert contract.mode == "alone"
    assert contract.code is code


@pytest.mark.parametrize("caught", [False, True])
@pytest.mark.parametrize("layer", [lambda: nn.BatchNorm1d(4), lambda: nn.BatchNorm1d(4, momentum=None)])
def test_a_call_that_is_refused_changes_no_statistics_even_for_a_moment(
    layer: Callable[[], nn.Module], caught: bool
) -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = layer()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                y: torch.Tensor = self.norm(x)
            except BaseException:
                if not caught:
                    raise
                return x
            return y

    model = Model().train()
    before = [buffer._version for buffer in model.buffers()]
    contract = probe(lambda leaves: model(*leaves), [[draw(4, 4)]], ["x"], module=model)
    assert contract.refused and "counts each call" in str(contract.reason)
    assert [buffer._version for buffer in model.buffers()] == before


def test_a_layer_that_no_call_runs_refuses_none() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2

    model = Model().train()
    contract = probe(lambda leaves: model(*leaves), [[draw(4, 4)]], ["x"], module=model)
    assert contract.mode == "merge" and not contract.refused
