"""Which modules compute something else in train mode, as far as can be seen from what they are made of."""

from __future__ import annotations

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
