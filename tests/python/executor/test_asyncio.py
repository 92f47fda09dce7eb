"""Event loops that use an executor: run_in_executor, the default executor, to_thread and wrapped futures."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextvars
import logging
import threading
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from executor_support import Refused, fail
from support import HANG, Gate


@pytest.fixture(params=[False, True], ids=["plain", "debug"])
def run(request: pytest.FixtureRequest) -> Callable[[Coroutine[Any, Any, Any]], Any]:
    """asyncio.run, which takes no longer than a hang; also with the loop's own checks."""
    return lambda main: asyncio.run(asyncio.wait_for(main, HANG), debug=request.param)


def test_a_loop_runs_a_function_in_it(make_executor: Any, run: Any) -> None:
    executor = make_executor(1)

    async def main() -> Any:
        return await asyncio.get_running_loop().run_in_executor(executor, divmod, 7, 2)

    assert run(main()) == (3, 1)


def test_the_function_runs_on_a_thread_of_the_executor(make_executor: Any, run: Any) -> None:
    executor = make_executor(1)

    async def main() -> Any:
        return await asyncio.get_running_loop().run_in_executor(executor, threading.current_thread)

    assert {run(main())} == set(executor._threads)


def test_the_loop_goes_on_while_the_function_runs(make_executor: Any, run: Any, gate: Gate) -> None:
    executor = make_executor(1)

    async def main() -> Any:
        future = asyncio.get_running_loop().run_in_executor(executor, gate.pass_through)
        await asyncio.sleep(0)
        assert not future.done()
        gate.open()
        return await future

    assert run(main()) is None


def test_many_functions_are_gathered_in_order(make_executor: Any, run: Any) -> None:
    executor = make_executor(4)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        return await asyncio.gather(*(loop.run_in_executor(executor, abs, -n) for n in range(300)))

    assert run(main()) == list(range(300))


def test_an_exception_reaches_who_awaits(make_executor: Any, run: Any) -> None:
    executor, error = make_executor(1), Refused()

    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(executor, fail, error)

    with pytest.raises(Refused) as raised:
        run(main())
    assert raised.value is error


def test_gather_gives_exceptions_in_their_places(make_executor: Any, run: Any) -> None:
    executor, error = make_executor(2), Refused()

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        calls = [loop.run_in_executor(executor, fail, error), loop.run_in_executor(executor, int, "7")]
        return await asyncio.gather(*calls, return_exceptions=True)

    assert run(main()) == [error, 7]


def test_an_executor_that_is_shut_down_refuses_the_loop(make_executor: Any, run: Any) -> None:
    executor = make_executor(1)
    executor.shutdown()

    async def main() -> None:
        await asyncio.get_running_loop().run_in_executor(executor, int)

    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        run(main())


# --- the default executor ---------------------------------------------------------------------------------------------


def test_it_may_be_a_loops_default_executor(make_executor: Any, run: Any) -> None:
    executor = make_executor(1)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        return await loop.run_in_executor(None, threading.current_thread)

    assert {run(main())} == set(executor._threads)


def test_to_thread_uses_the_default_executor(make_executor: Any, run: Any) -> None:
    executor = make_executor(1)

    async def main() -> Any:
        asyncio.get_running_loop().set_default_executor(executor)
        return await asyncio.to_thread(lambda x, *, y: (threading.current_thread(), x, y), 1, y=2)

    worker, *arguments = run(main())
    assert {worker} == set(executor._threads)
    assert arguments == [1, 2]


def test_to_thread_takes_the_context_along(make_executor: Any, run: Any) -> None:
    executor, variable = make_executor(1), contextvars.ContextVar("variable", default="default")

    async def main() -> Any:
        asyncio.get_running_loop().set_default_executor(executor)
        variable.set("of the coroutine")
        return await asyncio.to_thread(variable.get)

    assert run(main()) == "of the coroutine"


def test_the_end_of_the_loop_shuts_its_default_executor_down(make_executor: Any, run: Any) -> None:
    executor = make_executor(1)

    async def main() -> None:
        asyncio.get_running_loop().set_default_executor(executor)
        await asyncio.to_thread(int)

    run(main())
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)


def test_a_loop_can_wait_for_its_default_executor_to_end(make_executor: Any, run: Any, gate: Gate) -> None:
    executor = make_executor(1)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(executor)
        future = loop.run_in_executor(None, gate.pass_through)
        threads = list(executor._threads)
        gate.open()
        await loop.shutdown_default_executor()
        assert [thread.is_alive() for thread in threads] == [False]
        return await future

    assert run(main()) is None


# --- cancelling -------------------------------------------------------------------------------------------------------


def test_cancelling_what_wraps_a_pending_task_cancels_the_task(make_executor: Any, run: Any, gate: Gate) -> None:
    executor, ran = make_executor(1), []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        running = loop.run_in_executor(executor, gate.pass_through)
        pending = loop.run_in_executor(executor, ran.append, 1)
        pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await pending
        await asyncio.sleep(0)  # the loop cancels the task in its next round
        gate.open()
        await running

    run(main())
    executor.shutdown()
    assert ran == []


def test_cancelling_what_wraps_a_running_task_leaves_the_task(make_executor: Any, run: Any, gate: Gate) -> None:
    executor = make_executor(1)
    running = executor.submit(lambda: gate.pass_through() or 7)
    gate.wait_entered()

    async def main() -> None:
        wrapped = asyncio.wrap_future(running)
        wrapped.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    run(main())
    gate.open()
    assert running.result(HANG) == 7


def test_cancelling_the_task_cancels_what_wraps_it(make_executor: Any, run: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    pending = executor.submit(int)

    async def main() -> None:
        wrapped = asyncio.wrap_future(pending)
        assert pending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await wrapped

    run(main())


def test_a_coroutine_that_is_cancelled_cancels_its_pending_task(make_executor: Any, run: Any, gate: Gate) -> None:
    executor = make_executor(1)
    executor.submit(gate.pass_through)
    gate.wait_entered()
    pending = executor.submit(int)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.wrap_future(pending), 0.01)
        await asyncio.sleep(0)

    run(main())
    assert pending.cancelled()


# --- wrapped futures --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("finished", [True, False])
def test_a_future_can_be_awaited_when_wrapped(make_executor: Any, run: Any, gate: Gate, finished: bool) -> None:
    future = make_executor(1).submit(lambda: gate.pass_through() or 7)
    gate.wait_entered()
    if finished:
        gate.open()
        future.result(HANG)

    async def main() -> Any:
        wrapped = asyncio.wrap_future(future)
        await asyncio.sleep(0)
        gate.open()
        return await wrapped

    assert run(main()) == 7


def test_a_future_may_be_wrapped_in_two_loops(make_executor: Any, run: Any, gate: Gate) -> None:
    future = make_executor(1).submit(lambda: gate.pass_through() or 7)

    async def main() -> Any:
        wrapped = asyncio.wrap_future(future)
        gate.open()
        return await wrapped

    with concurrent.futures.ThreadPoolExecutor(2) as loops:
        assert [loop.result(HANG) for loop in [loops.submit(run, main()) for _ in range(2)]] == [7, 7]


def test_wrapped_futures_are_given_as_they_finish(make_executor: Any, run: Any) -> None:
    executor = make_executor(2)

    async def main() -> Any:
        wrapped = [asyncio.wrap_future(executor.submit(abs, -n)) for n in range(50)]
        return [await future for future in asyncio.as_completed(wrapped)]

    assert sorted(run(main())) == list(range(50))


def test_a_task_may_hand_a_coroutine_to_the_loop(make_executor: Any, run: Any) -> None:
    executor = make_executor(1)

    async def inner() -> int:
        return 7

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        task = lambda: asyncio.run_coroutine_threadsafe(inner(), loop).result(HANG)  # noqa: E731
        return await loop.run_in_executor(executor, task)

    assert run(main()) == 7


def test_a_loop_that_has_ended_before_the_task_is_no_error(
    make_executor: Any, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    executor = make_executor(1)
    future = executor.submit(lambda: gate.pass_through() or 7)

    async def main() -> None:
        asyncio.wrap_future(future)

    with caplog.at_level(logging.ERROR):
        asyncio.run(main())
        gate.open()
        executor.shutdown()
    assert future.result(0) == 7
    assert caplog.records == []
