"""What holds for every test: it leaves torch's settings and random state as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from support import Held

import torchpool
import torchpool.capture_programs  # once here instead of in every process that captures: it takes a second


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
