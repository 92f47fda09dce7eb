"""What is seen of a module between calls, what a run of its own may change, and what leaves no trace."""

from __future__ import annotations

import copy
import gc
import sys
import weakref
from collections import OrderedDict
from collections.abc import Callable
from types import FrameType, MethodType, SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from support import build, draw
from torch import nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.nn.utils import parametrizations, parametrize

from torchpool._core import ModuleWatch

Tensor = torch.Tensor


class Block(nn.Module):
    gain: ClassVar[float] = 1.0

    def __init__(self, config: SimpleNamespace) -> None:
        super().__init__()
        self.config = config
        self.fc, self.act = nn.Linear(4, 4), nn.ReLU()
        self.norm = nn.BatchNorm1d(4)
        self.temp, self.sizes, self.names = 1.0, (4, 4), ["a", "b"]

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.act(self.fc(x))) / self.temp


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.config = SimpleNamespace(scale=1.0, heads=2)
        self.options = {"eps": 1e-5}
        self.blocks = nn.ModuleList(Block(self.config) for _ in range(2))
        self.head = nn.Sequential(OrderedDict(first=nn.Linear(4, 4), second=nn.Tanh()))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x) * self.config.scale


def nothing(*args: Any) -> None:
    pass


@pytest.fixture
def net() -> Any:
    return build(Net)


@pytest.fixture
def block(net: Any) -> Any:
    return net.blocks[1]


def change(act: Callable[[Any], object]) -> tuple[str, str | None]:
    """The kind and the text of what is seen after a change of a fresh net, which is gone once it is accepted."""
    net = build(Net)
    watch = ModuleWatch([net])
    assert watch.look() is None
    act(net)
    seen = watch.kind(), watch.look()
    assert watch.look() == seen[1], "the same answer until it is accepted"
    watch.rebase()
    assert watch.look() is None
    return seen


def set_attribute(path: str, name: str, value: Any) -> Callable[[Any], None]:
    return lambda net: setattr(net.get_submodule(path), name, value)


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (set_attribute("blocks.1", "temp", 2.0), "attribute 'temp' of module 'blocks.1' changed from 1.0 to 2.0"),
        (set_attribute("blocks.1", "temp", 1), "attribute 'temp' of module 'blocks.1' changed from 1.0 to 1"),
        (set_attribute("", "mode", "fast"), "attribute 'mode' of the model was added"),
        (lambda net: delattr(net.blocks[0], "names"), "attribute 'names' of module 'blocks.0' was removed"),
        (set_attribute("blocks.0", "sizes", (4, 5)), "attribute 'sizes' of module 'blocks.0' was replaced"),
        (lambda net: setattr(net.config, "scale", 2), "attribute 'config.scale' of the model changed from 1.0 to 2"),
        (lambda net: net.options.update(eps=1.0), "attribute 'options' of the model has other entries"),
        (lambda net: setattr(net.blocks[0].norm, "eps", 1.0), "attribute 'eps' of module 'blocks.0.norm' changed"),
        (lambda net: vars(net.blocks[0].norm).update(eps=1.0), "attribute 'eps' of module 'blocks.0.norm' changed"),
    ],
)
def test_a_changed_attribute_is_named(act: Any, text: str) -> None:
    kind, seen = change(act)
    assert kind == "attribute"
    assert seen is not None and seen.startswith(text)


def replace_dict(net: Any) -> None:
    net.blocks[0].__dict__ = dict(vars(net.blocks[0]))


def reorder(net: Any) -> None:
    first = net.head._modules.pop("first")
    net.head._modules["first"] = first


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (set_attribute("blocks.1", "act", nn.ReLU()), "submodule 'blocks.1.act' was replaced"),
        (set_attribute("blocks.1", "act", nn.Tanh()), "submodule 'blocks.1.act' changed from a ReLU to a Tanh"),
        (set_attribute("blocks.1.fc", "extra", nn.ReLU()), "submodule 'blocks.1.fc.extra' was added"),
        (lambda net: delattr(net.blocks[0], "act"), "submodule 'blocks.0.act' was removed"),
        (lambda net: net.blocks.append(nn.ReLU()), "submodule 'blocks.2' was added"),
        (reorder, "order of what is inside, of module 'head' changed"),
        (lambda net: net.head.first.register_forward_hook(nothing), "forward hook "),
        (lambda net: net.head.first.register_forward_pre_hook(nothing, with_kwargs=True), "forward pre-hook "),
        (lambda net: net.head.first.register_parameter("bias", None), "parameter 'head.first.bias' changed from a"),
        (lambda net: setattr(net.head[0], "forward", MethodType(nothing, net)), "attribute 'forward' of module 'head."),
        (lambda net: setattr(net.head[1], "__class__", nn.ReLU), "class of module 'head.second' changed from Tanh to"),
        (replace_dict, "'__dict__' of module 'blocks.0' was replaced"),
        (lambda net: setattr(net.blocks[0], "_modules", {}), "attribute '_modules' of module 'blocks.0' was replaced"),
        (lambda net: parametrizations.weight_norm(net.blocks[0].fc), "class of module 'blocks.0.fc' changed from"),
    ],
)
def test_another_structure_is_named(act: Any, text: str) -> None:
    kind, seen = change(act)
    assert kind == "structure"
    assert seen is not None and seen.startswith(text)


def test_a_removed_hook_is_seen(net: Any) -> None:
    handle = net.blocks[0].register_forward_hook(nothing)
    watch = ModuleWatch([net])
    handle.remove()
    assert watch.look() == f"forward hook {handle.id} of module 'blocks.0' was removed"


@pytest.mark.parametrize("register", [register_module_forward_hook, register_module_forward_pre_hook])
def test_a_hook_for_all_modules_is_seen(register: Any, net: Any) -> None:
    watch = ModuleWatch([net])
    handle = register(nothing)
    try:
        assert watch.kind() == "structure"
        assert str(watch.look()).endswith(f"hook {handle.id} of all modules was added")
    finally:
        handle.remove()
    assert watch.look() is None


def test_backward_hooks_do_not_matter(net: Any) -> None:
    watch = ModuleWatch([net])
    net.head.first.register_full_backward_hook(nothing)
    net.head.first.register_state_dict_pre_hook(nothing)
    assert watch.look() is None


def test_a_method_replaced_in_a_class_is_seen(net: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watch = ModuleWatch([net])
    with monkeypatch.context() as patch:
        patch.setattr(Block, "forward", lambda self, x: x)
        assert (watch.kind(), watch.look()) == ("structure", "'forward' of class Block was replaced")
    assert watch.look() is None
    monkeypatch.setattr(Block, "gain", 2.0)
    assert (watch.kind(), watch.look()) == ("attribute", "'gain' of class Block changed from 1.0 to 2.0")


def test_tracing_that_patches_every_module_for_a_while_is_no_change(net: Any) -> None:
    watch = ModuleWatch([net])
    torch.fx.symbolic_trace(net.head)
    torch.export.export(net, (draw(3, 4),), strict=False)
    copy.deepcopy(net)
    assert watch.look() is None


@pytest.mark.parametrize(
    ("act", "kind", "text"),
    [
        (lambda net: net.train(), "training", "train mode of the model was switched on"),
        (lambda net: net.blocks[0].norm.train(), "training", "train mode of module 'blocks.0.norm' was switched on"),
        (lambda net: net.eval(), "none", None),
        (lambda net: net.train().eval(), "none", None),
        (lambda net: net.requires_grad_(False), "none", None),
        (lambda net: net(draw(2, 4)), "none", None),
        (lambda net: net.to("cpu"), "none", None),
        (lambda net: net.double(), "weights", "buffer 'blocks.0.norm.running_mean' was replaced"),
        (set_attribute("blocks.1", "temp", float("1.0")), "none", None),
        (set_attribute("blocks.1", "sizes", (4, 4)), "none", None),
        (set_attribute("blocks.1", "names", ["a", "b"]), "none", None),
    ],
)
def test_modes_and_what_is_no_change(act: Any, kind: str, text: str | None) -> None:
    seen = change(act)
    assert seen[0] == kind
    assert seen[1] is None if text is None else str(seen[1]).startswith(text)


def test_train_names_a_few_modules_and_counts_the_others(net: Any) -> None:
    watch = ModuleWatch([net])
    net.train()
    assert str(watch.look()).endswith(f"; and {len(list(net.modules())) - 3} more")


def swap(net: Any) -> None:
    torch.utils.swap_tensors(net.head.first.weight, nn.Parameter(torch.ones(4, 4)))


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (lambda net: setattr(net.head.first, "weight", nn.Parameter(torch.ones(4, 4))), "was replaced"),
        (lambda net: net.load_state_dict(build(Net).state_dict(), assign=True), "was replaced"),
        (lambda net: net.to("meta"), "was replaced"),
        (swap, "was swapped for another tensor"),
    ],
)
def test_another_tensor_as_weight_is_seen(act: Any, text: str) -> None:
    kind, seen = change(act)
    assert kind == "weights"
    assert text in str(seen)


class LowRank(nn.Module):
    """An adapter beside a linear layer, in its place."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.down, self.up = nn.Linear(4, 1, bias=False), nn.Linear(1, 4, bias=False)
        self.active = True

    def forward(self, x: Tensor) -> Tensor:
        return self.base(x) + self.up(self.down(x)) if self.active else self.base(x)


def test_adapters_and_parametrizations_are_seen_and_then_watched(net: Any) -> None:
    watch = ModuleWatch([net])
    net.head.first = build(lambda: LowRank(net.head.first))
    assert watch.look() == "submodule 'head.first' changed from a Linear to a LowRank"
    watch.rebase()
    net.head.first.active = False
    assert watch.look() == "attribute 'active' of module 'head.first' changed from True to False"
    watch.rebase()
    net.head.first.up.weight = nn.Parameter(torch.ones(4, 1))
    assert watch.look() == "parameter 'head.first.up.weight' was replaced"
    watch.rebase()
    fc = net.blocks[0].fc
    parametrize.register_parametrization(fc, "weight", nn.Identity())
    assert watch.kind() == "structure"
    watch.rebase()
    parametrize.remove_parametrizations(fc, "weight")
    assert watch.kind() == "structure"


# What modules change when they are called.


class Restless(nn.Module):
    """Writes to itself in forward: each of these is found in some model."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what, self.calls, self.length, self.doing = what, 0, 0, None
        self.table: Tensor | None = None
        self.cache: dict[int, Tensor] = {}
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        if self.what == "counter":
            self.calls += 1
        elif self.what == "length":
            self.length = x.shape[-1]
        elif self.what == "scratch":
            self.doing = x
            self.doing = None
        elif self.what == "lazy" and self.table is None:
            self.table = torch.ones(1)
        elif self.what == "cache":
            self.cache[x.shape[-1]] = x
        elif self.what == "buffer":
            self.last = x[:, :1]
        return x


@pytest.mark.parametrize("what", ["nothing", "counter", "length", "scratch", "lazy", "cache", "buffer"])
def test_what_runs_change_is_volatile_from_the_second_time_on(what: str) -> None:
    model = Restless(what).eval()
    watch = ModuleWatch([model])
    seen = []
    for length in (3, 4, 5, 6):
        model(draw(1, length))
        seen.append(watch.rebase_after_run(lambda name, items: True))
    name = {
        "counter": "attribute 'calls' of the model",
        "length": "attribute 'length' of the model",
        "cache": "attribute 'cache' of the model",
        "buffer": "buffer 'last'",
    }.get(what)
    assert watch.volatile_names == ([] if name is None else [name])
    assert [text is not None for text in seen] == [name is not None or what == "lazy", name is not None, False, False]
    model(draw(1, 7))
    assert watch.look() is None
    model.what = "other"
    assert watch.look() == f"attribute 'what' of the model changed from {what!r} to 'other'"


def test_what_a_volatile_attribute_held_is_not_kept() -> None:
    model = Restless("buffer")
    watch = ModuleWatch([model])
    for _ in range(2):
        model(draw(1, 3))
        watch.rebase_after_run(lambda name, items: True)
    held = weakref.ref(model.last)
    model(draw(1, 3))
    gc.collect()
    assert held() is None


def test_an_attribute_that_changes_for_ever_ends_up_volatile(net: Any) -> None:
    watch = ModuleWatch([net])
    changes = 0
    for step in range(20):
        net.config.scale = float(step + 2)
        changes += watch.look() is not None
        watch.rebase()
    assert changes == 8
    assert watch.volatile_names == ["attribute 'config.scale' of the model"]


def test_an_owners_change_between_runs_is_not_taken_for_the_runs(net: Any) -> None:
    watch = ModuleWatch([net])
    for temp in (2.0, 3.0, 4.0):
        net.blocks[0].temp = temp
        assert watch.look() is not None
        watch.rebase()
        net(draw(2, 4))
        assert watch.rebase_after_run(lambda name, items: True) is None
    assert watch.volatile_names == []


def test_replaced_parts_are_let_go_once_the_change_is_accepted(net: Any) -> None:
    watch = ModuleWatch([net])
    act = weakref.ref(net.blocks[0].act)
    net.blocks[0].act = nn.ReLU()
    watch.rebase()
    gc.collect()
    assert act() is None


def test_what_leaves_no_trace(net: Any) -> None:
    net.deep = SimpleNamespace(inner=SimpleNamespace(value=1))
    watch = ModuleWatch([net])
    net.deep.inner.value = 2  # deeper than one level
    net.blocks[0].names.append("c")  # inside a list
    assert watch.look() is None


def test_scripts_and_other_objects_are_ignored() -> None:
    watch = ModuleWatch([torch.jit.script(build(lambda: nn.Linear(2, 2))), 3, None])
    assert watch.look() is None


def test_no_python_code_runs_while_a_state_is_accepted(net: Any) -> None:
    """Other threads would come in between, and what they change would be accepted unseen."""
    watch = ModuleWatch([net])
    net.blocks[0].temp = 7.0
    ran: list[str] = []

    def note(frame: FrameType, event: str, arg: object) -> None:
        if event == "call":
            ran.append(frame.f_code.co_name)

    before = sys.getprofile()
    sys.setprofile(note)
    watch.rebase()
    sys.setprofile(before)
    assert ran == []
    assert watch.look() is None
