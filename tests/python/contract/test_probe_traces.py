"""Probing beside other threads: what they write, bind or draw meanwhile stays, and what the probe did is put back."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy
import pytest
import torch
from support import HANG, build, draw
from torch import nn

from torchpool.contract.contract import Contract
from torchpool.contract.probe import probe
from torchpool.contract.probe.state import ModuleState

pytestmark = pytest.mark.usefixtures("seeded")


class Net(nn.Module):
    """What its forward writes of itself is given; other threads write the rest."""

    def __init__(self, write: Callable[[Any], Any] = lambda net: None) -> None:
        super().__init__()
        self.linear, self.write = nn.Linear(4, 3), write
        self.register_buffer("mean", torch.zeros(3))
        self.table = torch.zeros(3)
        self.scale, self.cache, self.last = 1.0, None, 0
        self.names: list[str] = []
        self.kept: dict[str, int] = {}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.write(self)
        return self.linear(x) + self.mean


def on_a_thread(work: Callable[[], Any]) -> None:
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(HANG)
    assert not thread.is_alive()


def probe_beside(net: Any, work: Callable[[int], Any], when: str) -> Contract:
    """Probes while another thread, which is there all the time, works "during" each run, right before the model's own
    code, or "late" in it."""
    runs = iter(range(1000))
    with ThreadPoolExecutor(1) as other:
        other.submit(lambda: None).result(HANG)

        def run(leaves: Sequence[torch.Tensor]) -> Any:
            if when == "during":
                other.submit(lambda: work(next(runs))).result(HANG)
            result = net(*leaves)
            if when == "late":
                other.submit(lambda: work(next(runs))).result(HANG)
            return result

        return probe(run, [[draw(2, 4)]], ["x"], module=net)


@torch.no_grad()
def _in_place(tensor: torch.Tensor, by: float) -> None:
    tensor.add_(by)


OTHERS: dict[str, tuple[Callable[[Any, int], Any], Callable[[Any], Any]]] = {
    "a step of an optimiser": (lambda net, run: _in_place(net.linear.weight, 0.5), lambda net: net.linear.weight.sum()),
    "a step that torch does not count": (
        lambda net, run: net.linear.bias.data.add_(0.5),
        lambda net: net.linear.bias.sum(),
    ),
    "a buffer": (lambda net, run: _in_place(net.mean, 1), lambda net: net.mean.sum()),
    "another buffer": (lambda net, run: setattr(net, "mean", torch.full((3,), run + 1.0)), lambda net: net.mean.sum()),
    "a tensor attribute": (lambda net, run: _in_place(net.table, 1), lambda net: net.table.sum()),
    "an attribute": (lambda net, run: setattr(net, "scale", run + 2.0), lambda net: net.scale),
    "a new attribute": (lambda net, run: setattr(net, "extra", run), lambda net: net.extra),
    "items of a list": (lambda net, run: net.names.append(str(run)), lambda net: list(net.names)),
    "items of a dict": (lambda net, run: net.kept.update({str(run): run}), lambda net: dict(net.kept)),
    "numbers of torch": (lambda net, run: torch.rand(3), lambda net: torch.get_rng_state().sum()),
    "numbers of Python": (lambda net, run: random.random(), lambda net: random.getstate()[1][-1]),
    "numbers of numpy": (lambda net, run: numpy.random.rand(), lambda net: int(numpy.random.get_state()[2])),
}


@pytest.mark.parametrize("when", ["during", "late"])
@pytest.mark.parametrize("name", OTHERS)
def test_what_other_threads_do_meanwhile_stays(name: str, when: str) -> None:
    net, seen = build(Net), list[Any]()
    change, look = OTHERS[name]

    def work(run: int) -> None:
        change(net, run)
        seen.append(look(net))

    probe_beside(net, work, when)
    assert seen and look(net) == seen[-1]


def _own_buffer(net: Any) -> None:
    net.mean += 1


def _own_new_buffer(net: Any) -> None:
    net.mean = net.mean + 1


def _own_cache(net: Any) -> None:
    net.cache = torch.ones(3)


def _own_items(net: Any) -> None:
    net.kept[str(len(net.kept))] = 1


def _own_new_attribute(net: Any) -> None:
    net.fresh = 3


OWN = [_own_buffer, _own_new_buffer, _own_cache, _own_items, _own_new_attribute]


@pytest.mark.parametrize("write", OWN)
def test_what_the_probe_did_is_put_back_beside_them(write: Callable[[Any], Any]) -> None:
    net: Any = build(lambda: Net(write))
    probe_beside(net, lambda run: setattr(net, "scale", run + 2.0), "during")
    assert not net.mean.any() and net.cache is None and net.kept == {} and not hasattr(net, "fresh")
    assert net.scale >= 2.0


def test_what_others_wrote_over_the_probes_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    net: Any = build(lambda: Net(_own_buffer))
    probe_beside(net, lambda run: net.mean.fill_(100), "late")
    assert net.mean.tolist() == [100, 100, 100]
    net = build(lambda: Net(_own_cache))
    begin = ModuleState.begin_run

    def after_others(state: ModuleState) -> None:
        on_a_thread(lambda: setattr(net, "cache", "theirs") if net.cache is not None else None)
        begin(state)

    monkeypatch.setattr(ModuleState, "begin_run", after_others)
    probe_beside(net, lambda run: None, "during")
    assert net.cache == "theirs"


def test_what_others_wrote_between_two_of_the_probes_writes_is_what_stays() -> None:
    def touch(net: Any) -> None:
        net.mean.add_(1).sub_(1)  # of no consequence, so that probing goes on

    net: Any = build(lambda: Net(touch))
    probe_beside(net, lambda run: _in_place(net.mean, 1) if run == 1 else None, "during")
    assert net.mean.tolist() == [1, 1, 1]


def test_writes_are_seen_through_views_and_batch_norm() -> None:
    def through_a_view(net: Any) -> None:
        net.mean[:1].add_(1)

    net: Any = build(lambda: Net(through_a_view))
    contract = probe_beside(net, lambda run: None, "during")
    assert contract.serial and "buffer mean changed by 1" in (contract.reason or "") and not net.mean.any()
    norm = nn.BatchNorm1d(4).train()
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    assert probe(lambda leaves: norm(*leaves), [[draw(3, 4)]], ["x"], module=norm).serial
    assert all(torch.equal(before[name], value) for name, value in norm.state_dict().items())


def test_a_draw_is_stopped_wherever_it_is() -> None:
    """Only batches draw; the model catches exceptions; a script draws."""

    class Late(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand(4) if len(x) > 2 else x

    class Catching(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            try:
                return x + torch.rand(4)
            except BaseException:
                return x

    class Scripted(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.rand_like(x)

    for net in (Late().eval(), Catching().eval(), torch.jit.script(Scripted().eval())):
        before = torch.get_rng_state()
        contract = probe(lambda leaves, net=net: net(*leaves), [[draw(1, 4)]], ["x"], module=net)
        assert contract.serial and "draws random numbers" in (contract.reason or ""), contract
        assert torch.equal(before, torch.get_rng_state())


def test_a_run_that_was_not_watched_is_made_again_where_a_generator_moved() -> None:
    """Beside a thread that draws all the time every run is watched in the end, and none is blamed for it."""
    net = build(Net)
    contract = probe_beside(net, lambda run: torch.rand(1), "during")
    assert contract.mode == "merge", contract.reason
