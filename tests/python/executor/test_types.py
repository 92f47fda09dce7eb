"""What the class is to those who look at it: signatures, documentation, subclasses, pickling, attributes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import copy
import inspect
import pickle
from typing import Any

import pytest
from executor_support import STANDARD
from support import HANG

import torchpool

TORCHPOOL_ONLY = True  # compared with the standard one within the tests


METHODS = ["submit", "map", "shutdown", "resize", "options", "every", "stats", "__init__", "__enter__", "__exit__"]


@pytest.mark.parametrize("name", METHODS)
def test_methods_have_a_signature(executor_class: Any, name: str) -> None:
    assert "self" in inspect.signature(getattr(executor_class, name)).parameters


@pytest.mark.parametrize("name", ["submit", "map", "shutdown"])
def test_methods_take_what_the_standards_take(executor_class: Any, name: str) -> None:
    own = inspect.signature(getattr(executor_class, name)).parameters
    for parameter in inspect.signature(getattr(STANDARD, name)).parameters.values():
        assert (own[parameter.name].kind, own[parameter.name].default) == (parameter.kind, parameter.default)


def test_the_constructor_takes_what_the_standards_takes(executor_class: Any) -> None:
    own = list(inspect.signature(executor_class).parameters.values())
    standard = list(inspect.signature(STANDARD).parameters.values())
    assert [(p.name, p.default, p.kind) for p in own[: len(standard)]] == [
        (p.name, p.default, p.kind) for p in standard
    ]
    assert {parameter.kind for parameter in own[len(standard) :]} == {inspect.Parameter.KEYWORD_ONLY}


def test_a_bound_submit_has_a_signature_without_self(make_executor: Any) -> None:
    assert str(inspect.signature(make_executor(1).submit)) == "(fn, /, *args, **kwargs)"


@pytest.mark.parametrize("name", ["submit", "map", "shutdown", "resize", "options", "every", "stats"])
def test_methods_have_a_documentation_of_their_own(executor_class: Any, name: str) -> None:
    assert getattr(executor_class, name).__doc__
    assert getattr(executor_class, name).__qualname__.endswith(name)


def test_the_class_has_a_documentation(executor_class: Any) -> None:
    assert "overlap" in executor_class.__doc__
    assert executor_class.__name__ == "ThreadPoolExecutor"


@pytest.mark.parametrize("name", ["result", "exception", "done", "cancel", "running", "cancelled", "add_done_callback"])
def test_a_futures_methods_have_a_documentation(make_executor: Any, name: str) -> None:
    future = make_executor(1).submit(int)
    assert getattr(type(future), name).__doc__
    assert isinstance(future, concurrent.futures.Future)


@pytest.mark.parametrize("name", ["result", "exception"])
def test_what_waits_has_the_standards_signature(make_executor: Any, name: str) -> None:
    future = make_executor(1).submit(int)
    assert str(inspect.signature(getattr(future, name))) == "(timeout=None)"


def test_repr_names_it(make_executor: Any) -> None:
    assert repr(make_executor(3, thread_name_prefix="mine")) == "<torchpool.ThreadPoolExecutor mine max_workers=3>"


def test_repr_of_a_view_names_its_options(make_executor: Any) -> None:
    view = make_executor(3, thread_name_prefix="mine").options(priority=2, deadline=1.5)
    assert repr(view) == "<<torchpool.ThreadPoolExecutor mine max_workers=3> at priority=2, deadline=1.5>"


# --- subclasses -------------------------------------------------------------------------------------------------------


def test_a_subclass_may_have_a_constructor_of_its_own() -> None:
    class Named(torchpool.ThreadPoolExecutor):
        def __init__(self, name: str) -> None:
            super().__init__(1, thread_name_prefix=name, overlap=2)
            self.name = name

    with Named("mine") as executor:
        assert executor.submit(abs, -1).result(HANG) == 1
        assert executor.name == "mine"


class Careless(torchpool.ThreadPoolExecutor):
    def __init__(self) -> None:
        """Calls no other."""


def test_a_subclass_that_forgets_the_constructor_is_told_by_submit() -> None:
    with pytest.raises(RuntimeError, match=r"^Careless\.__init__\(\) was not called$|super\(\).__init__"):
        Careless().submit(int)


def test_an_object_that_was_never_constructed_is_told_by_submit(executor_class: Any) -> None:
    with pytest.raises(RuntimeError, match=r"__init__\(\) was not called"):
        executor_class.__new__(executor_class).submit(int)


USES = {
    "map": lambda executor: executor.map(abs, [1]),
    "shutdown": lambda executor: executor.shutdown(),
    "stats": lambda executor: executor.stats(),
    "repr": repr,
}


@pytest.mark.parametrize("use", USES)
def test_an_object_that_was_never_constructed_raises_and_does_not_crash(use: str) -> None:
    with pytest.raises((RuntimeError, AttributeError)):
        USES[use](Careless())


@pytest.mark.parametrize("other", [3, None, "executor", STANDARD(1)], ids=lambda other: type(other).__name__)
def test_submit_takes_executors_of_its_class_only(executor_class: Any, other: Any) -> None:
    with pytest.raises(TypeError):
        executor_class.submit(other, int)


def test_a_subclass_may_have_slots() -> None:
    class Slotted(torchpool.ThreadPoolExecutor):
        __slots__ = ("mine",)

    with Slotted(1) as executor:
        executor.mine = 3
        assert executor.submit(abs, -1).result(HANG) == 1
        assert executor.mine == 3


def test_a_subclass_may_have_several_bases() -> None:
    class Mixin:
        def twice(self, n: int) -> int:
            return self.submit(lambda: 2 * n).result(HANG)  # type: ignore[attr-defined,no-any-return]

    class Mixed(Mixin, torchpool.ThreadPoolExecutor):
        pass

    with Mixed(1) as executor:
        assert executor.twice(4) == 8


def test_a_subclass_may_submit_in_its_own_way() -> None:
    class Logged(torchpool.ThreadPoolExecutor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            self.submitted = [*getattr(self, "submitted", []), fn]
            return super().submit(fn, *args, **kwargs)

    with Logged(1) as executor:
        assert executor.submit(abs, -1).result(HANG) == 1
        assert list(executor.map(abs, [-2, -3])) == [2, 3]
        assert executor.submitted == [abs] * 3


def test_an_instance_may_have_a_submit_of_its_own(make_executor: Any) -> None:
    executor = make_executor(1)
    submitted: list[Any] = []
    original = executor.submit
    executor.submit = lambda fn, *args: submitted.append(fn) or original(fn, *args)
    assert list(executor.map(abs, [-2, -3])) == [2, 3]
    assert submitted == [abs] * 2


def test_it_may_have_attributes(make_executor: Any) -> None:
    executor = make_executor(1)
    executor.mine = 3
    assert executor.mine == 3


# --- copies -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickling_fails_as_the_standards_does(make_executor: Any, protocol: int) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(STANDARD(1), protocol)
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(make_executor(1), protocol)


def test_copying_deeply_fails_as_the_standards_does(make_executor: Any) -> None:
    with pytest.raises(TypeError):
        copy.deepcopy(STANDARD(1))
    with pytest.raises(TypeError):
        copy.deepcopy(make_executor(1))


def test_pickling_a_future_fails_as_the_standards_does(make_executor: Any) -> None:
    with pytest.raises(TypeError, match="pickle"):
        pickle.dumps(make_executor(1).submit(int))


# --- attributes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["_work_queue", "_idle_semaphore"])
def test_the_standards_own_queue_is_missing(make_executor: Any, name: str) -> None:
    assert not hasattr(make_executor(1), name)


@pytest.mark.parametrize(
    "name", ["_max_workers", "_threads", "_broken", "_shutdown", "_shutdown_lock", "_thread_name_prefix"]
)
def test_what_else_the_standard_has_is_there(make_executor: Any, name: str) -> None:
    executor, standard = make_executor(2, "mine"), STANDARD(2, "mine")
    own = getattr(executor, name)
    assert type(own) is type(getattr(standard, name))
    assert own == getattr(standard, name) or name == "_shutdown_lock"


@pytest.mark.parametrize("name", ["_max_workers", "_broken", "_shutdown"])
def test_what_is_native_cannot_be_set(make_executor: Any, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(make_executor(1), name, 3)


def test_an_event_loop_takes_it_as_its_default(executor_class: Any) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor_class(1))
        return await asyncio.to_thread(abs, -3)

    assert asyncio.run(main()) == 3


def test_it_is_in_the_packages_names() -> None:
    assert "ThreadPoolExecutor" in torchpool.__all__
    assert issubclass(torchpool.QueueFull, Exception)
