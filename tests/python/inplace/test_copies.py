"""Copies, pickles and files of an accelerated module are those of the plain one."""

from __future__ import annotations

import copy
import io
import pickle
from typing import Any

import pytest
import torch
from inplace_support import Classifier, classifier, serve_once, x
from support import assert_clean, assert_close, build, eager, run_python
from torch import nn

import torchpool


class WithArguments(Classifier):
    """Is made with an argument, and pickled so."""

    def __new__(cls, *args: Any) -> WithArguments:
        assert len(args) <= 1
        return super().__new__(cls)

    def __init__(self, tag: str = "a") -> None:
        super().__init__()
        self.tag = tag

    def __getnewargs__(self) -> tuple[str]:
        return (self.tag,)


class OwnReduce(Classifier):
    def __reduce__(self) -> Any:
        return (type(self), (), self.__dict__)


class OwnDeepCopy(Classifier):
    def __deepcopy__(self, memo: Any) -> OwnDeepCopy:
        made = type(self)()
        made.load_state_dict(self.state_dict())
        return made.eval()


@pytest.mark.parametrize("cls", [Classifier, WithArguments, OwnReduce])
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.usefixtures("seeded")  # one of the classes makes its weights anew, to be overwritten
def test_it_is_pickled_as_the_plain_module(cls: type[nn.Module], protocol: int) -> None:
    if cls is WithArguments and protocol < 2:
        pytest.skip("what __getnewargs__ gives is for protocol 2 on")
    model = torchpool.accelerate(build(cls))
    expected = serve_once(model, x())
    data = pickle.dumps(model, protocol)
    assert b"torchpool" not in data
    again = pickle.loads(data)
    assert type(again) is cls
    assert_close(eager(again, x()), expected)


def test_a_file_of_it_is_one_of_the_plain_module() -> None:
    model = torchpool.accelerate(classifier())
    expected = serve_once(model, x())
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert type(again) is Classifier
    assert_close(eager(again, x()), expected)


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy])
@pytest.mark.parametrize("cls", [Classifier, WithArguments, OwnReduce])
@pytest.mark.usefixtures("seeded")  # one of the classes makes its weights anew, to be overwritten
def test_a_copy_is_plain(make: Any, cls: type[nn.Module]) -> None:
    model = torchpool.accelerate(build(cls))
    expected = serve_once(model, x())
    again = make(model)
    assert type(again) is cls
    assert (again.inner is model.inner) is (make is copy.copy)
    assert_close(eager(again, x()), expected)
    holder = make(nn.Sequential(model))
    assert type(holder[0]) is (type(model) if make is copy.copy else cls)
    assert_close(eager(holder, x()), expected)


def test_a_copy_that_its_class_makes_itself_is_not_served_and_may_be_accelerated() -> None:
    model = torchpool.accelerate(build(OwnDeepCopy))
    expected = serve_once(model, x())
    with torch.random.fork_rng(devices=[]):
        again = copy.deepcopy(model)
    served = torchpool.predictor_of(model).stats()["accepted"]
    again.outer.bias.data.add_(1)
    assert_close(eager(again, x()), expected + 1)
    assert torchpool.predictor_of(model).stats()["accepted"] == served
    assert type(pickle.loads(pickle.dumps(again))) is OwnDeepCopy
    torchpool.accelerate(again)
    assert_close(serve_once(again, x()), expected + 1)
    assert type(torchpool.restore(again)) is OwnDeepCopy


def test_its_predictor_is_pickled_too() -> None:
    model = torchpool.accelerate(classifier())
    expected = serve_once(model, x())
    again = pickle.loads(pickle.dumps(torchpool.predictor_of(model)))
    assert type(again.model) is Classifier
    assert_close(again(x()), expected)


def test_a_file_is_read_where_torchpool_is_not() -> None:
    program = """
import io, pickle, sys, torch
from torch import nn
import torchpool
data = pickle.dumps(torchpool.accelerate(nn.Linear(10, 3).eval()))
for name in [name for name in sys.modules if name.startswith("torchpool")]:
    sys.modules[name] = None
print(type(pickle.loads(data)).__name__)
"""
    done = run_python(program)
    assert_clean(done)
    assert done.stdout == "Linear\n"
