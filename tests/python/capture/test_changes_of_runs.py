"""What changes while a run of a module is under way: its own doing is accepted, what others did is found again."""

from __future__ import annotations

from typing import Any

import pytest
from support import build
from torch import nn

from torchpool._core import ModuleWatch


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.temp = 1.0


@pytest.fixture
def net() -> Any:
    model = nn.Module()
    model.blocks = nn.ModuleList([Block()])
    return build(lambda: model)


def test_what_others_change_during_a_run_is_found_again_before_the_next_call(net: Any) -> None:
    watch = ModuleWatch([net])
    asked: list[tuple[str, bool]] = []

    def own(name: str, items: bool) -> bool:
        asked.append((name, items))
        return name == "mine"

    net.mine = 1
    assert watch.rebase_after_run(own) == "attribute 'mine' of the model was added"
    net.mine, net.blocks[0].temp = 2, 5.0
    assert watch.rebase_after_run(own) is None
    assert "attribute 'temp' of module 'blocks.0' changed" in (watch.look() or "")
    watch.rebase()
    net.register_forward_hook(lambda module, inputs, output: None)
    net.register_forward_pre_hook(lambda module, inputs: None)
    net.kept = {"a": 1}
    watch.rebase()
    net.kept["b"] = 2
    net._forward_hooks.clear()
    asked.clear()
    assert watch.rebase_after_run(lambda name, items: asked.append((name, items)) or True) is not None
    assert sorted(asked) == [("_forward_hooks", False), ("kept", True)]


def test_what_comes_while_the_question_is_answered_is_not_accepted(net: Any) -> None:
    watch = ModuleWatch([net])

    def own(name: str, items: bool) -> bool:
        net.blocks[0].temp = 7.0
        return True

    net.mine = 1
    assert watch.rebase_after_run(own) is None
    assert "temp" in (watch.look() or "")
