"""What holds for every test: it leaves torch's settings and random state as they were, and captures nothing unasked."""

from __future__ import annotations

import gc
import sys
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import interpreters
import pytest
import torch
from _pytest.config import create_terminal_writer
from executor_support import Gates, executor_named, join
from support import Gate, Held

import torchpool
import torchpool.capture.programs  # once here instead of in every process that captures: it takes a second
from torchpool.predictor import graphs, kinds, put_off


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--exhaustive", action="store_true", help="run all tests, their programs in fresh interpreters")


def pytest_configure(config: pytest.Config) -> None:
    interpreters.fresh_only = config.getoption("--exhaustive")


def pytest_sessionstart(session: pytest.Session) -> None:
    """A process of xdist has no terminal for the stacks that pytest-timeout shows: they go to stderr."""
    config = session.config
    if hasattr(config, "workerinput"):
        config.get_terminal_writer = lambda: create_terminal_writer(config, sys.__stderr__)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--exhaustive"):
        more = [item for item in items if item.get_closest_marker("exhaustive")]
        items[:] = [item for item in items if not item.get_closest_marker("exhaustive")]
        config.hook.pytest_deselected(items=more)


def pytest_collection_finish() -> None:
    """What was imported so far stays: the collector need not look at it again, which takes 0.3 s each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def seeded() -> None:
    """For a test that draws from torch's global random state; support.draw() does without."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _leaves_torch_alone(request: pytest.FixtureRequest) -> Iterator[None]:
    threads, grad, dtype = torch.get_num_threads(), torch.is_grad_enabled(), torch.get_default_dtype()
    random = torch.get_rng_state()
    yield
    now, same_random = torch.get_num_threads(), torch.equal(torch.get_rng_state(), random)
    torch.set_rng_state(random)
    assert now == threads, f"torch.get_num_threads() was {threads} and is {now}"
    assert torch.is_grad_enabled() is grad
    assert torch.get_default_dtype() is dtype
    if not {"seeded", "_seeded"} & set(request.fixturenames):
        assert same_random, (
            "torch's random state moved: build models with support.build(), inputs with support.draw(), "
            "or ask for the fixture `seeded`"
        )


@pytest.fixture(autouse=True)
def _captures_if_marked(request: pytest.FixtureRequest) -> Iterator[None]:
    """Only a test that is about graphs has any: a capture is a process that computes for a second, while the test goes
    on, and most tests are over before the graph is there. Without graphs there are no proofs: what is wrapped is then
    taken on trust, so that calls merge."""
    with pytest.MonkeyPatch.context() as patch:
        if not request.node.get_closest_marker("graphs"):
            patch.setitem(kinds.MERGING_UNPROVEN, "auto", "trust")
            patch.setattr(graphs.Capturer, "add", lambda own, job: None)
            patch.setattr(graphs.Graphs, "wait", _wait_in_vain)
        yield


def _wait_in_vain(own: graphs.Graphs, timeout: float | None) -> bool:
    raise AssertionError("graphs that a test waits for are captured if it has the mark `graphs`")


@pytest.fixture(autouse=True)
def _learns_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests are about what is learned, from a call or two; that calls are put off has tests of its own."""
    monkeypatch.setattr(put_off, "WORTH_SECONDS", 0.0)


@pytest.fixture
def runtime() -> Iterator[torchpool.Runtime]:
    """With one worker."""
    runtime = torchpool.Runtime(1)
    yield runtime
    runtime.close()


@pytest.fixture
def hold() -> Iterator[Callable[..., Held]]:
    """Makes predictors with a gate and a worker of their own; opens what is left closed."""
    made: list[Held] = []

    def make(**options: Any) -> Held:
        made.append(Held(**options))
        return made[-1]

    yield make
    for held in made:
        held.release()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """What a test says of our executor holds for the standard one too, but where its module has TORCHPOOL_ONLY, or the
    test itself names one of them."""
    named = any("executor_class" in mark.args[0] for mark in metafunc.definition.iter_markers("parametrize"))
    if "executor_class" in metafunc.fixturenames and not named:
        standard = pytest.param("standard", marks=pytest.mark.exhaustive)  # it is not ours to test each time
        only = getattr(metafunc.module, "TORCHPOOL_ONLY", False)
        classes = ["torchpool"] if only else [standard, "torchpool"]
        metafunc.parametrize("executor_class", classes, indirect=True)


@pytest.fixture
def executor_class(request: pytest.FixtureRequest) -> Any:
    return executor_named(request.param)


@pytest.fixture
def gates() -> Iterator[Gates]:
    gates = Gates()
    yield gates
    gates.open_all()


@pytest.fixture
def gate(gates: Gates) -> Gate:
    return gates()


@pytest.fixture
def make_executor(executor_class: Any, gates: Gates) -> Iterator[Callable[..., Any]]:
    """Makes executors, does not keep them alive, and ends those that are left, with all gates open."""
    made: list[weakref.ref[Any]] = []

    def make(*args: Any, **options: Any) -> Any:
        executor = executor_class(*args, **options)
        made.append(weakref.ref(executor))
        return executor

    yield make
    gates.open_all()
    for executor in [left for ref in made if (left := ref()) is not None]:
        executor.shutdown(wait=False, cancel_futures=True)
        join(list(executor._threads))


@pytest.fixture
def no_gc() -> Iterator[None]:
    """What is freed is freed by its reference count."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
