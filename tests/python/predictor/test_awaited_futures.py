"""Of what `acall` gives, as a future: its callbacks, its state, its end."""

from __future__ import annotations

import asyncio
import collections.abc
import contextvars
import inspect
from typing import Any

import pytest
from asyncio_support import plainly, run, turns
from support import MARK, assert_all_close, assert_close, eager, row


def test_several_may_wait_for_one_call(hold: Any) -> None:
    held = hold()
    held.hold()

    async def main() -> list[Any]:
        call = held.predict.acall(row(1))
        waiting = [asyncio.create_task(plainly(call)) for _ in range(3)]
        await turns()
        held.gate.open()
        return [*await asyncio.gather(*waiting), await call]

    assert_all_close(run(main()), [eager(held.model, row(1))] * 4)


def test_callbacks_come_in_order_and_in_their_context(hold: Any) -> None:
    held = hold()
    held.hold()
    variable: contextvars.ContextVar[int] = contextvars.ContextVar("variable")
    seen: list[Any] = []

    async def main() -> None:
        call: Any = held.predict.acall(row(1))
        for n in range(3):
            variable.set(n)
            call.add_done_callback(lambda _, n=n: seen.append((n, variable.get())))
        variable.set(99)
        held.gate.open()
        await call
        await turns()
        call.add_done_callback(lambda _: seen.append("late"))
        await turns()

    run(main())
    assert seen == [(0, 0), (1, 1), (2, 2), "late"]


def test_callbacks_can_be_removed(hold: Any) -> None:
    held = hold()
    held.hold()
    seen: list[str] = []

    def first(_: Any) -> None:
        seen.append("first")

    def second(_: Any) -> None:
        seen.append("second")

    async def main() -> None:
        call: Any = held.predict.acall(row(1))
        for callback in (first, second, first):
            call.add_done_callback(callback)
        assert call.remove_done_callback(first) == 2
        assert call.remove_done_callback(first) == 0
        held.gate.open()
        await call
        await turns()

    run(main())
    assert seen == ["second"]


def test_a_callback_that_raises_is_reported_and_stops_nothing(hold: Any) -> None:
    held = hold()
    held.hold()
    reported: list[Any] = []

    def fail(_: Any) -> None:
        raise ZeroDivisionError

    async def main() -> list[Any]:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: reported.append(context["exception"]))
        calls: list[Any] = [held.predict.acall(row(n)) for n in range(5)]
        for call in calls:
            call.add_done_callback(fail)
        held.gate.open()
        return await asyncio.gather(*calls)

    assert_all_close(run(main()), (eager(held.model, row(n)) for n in range(5)))
    assert [type(error) for error in reported] == [ZeroDivisionError] * 5


def test_the_state_can_be_asked_for(hold: Any) -> None:
    held = hold()
    held.hold()

    async def main() -> None:
        call: Any = held.predict.acall(row(1))
        assert asyncio.isfuture(call)
        assert inspect.isawaitable(call)
        assert isinstance(call, collections.abc.Coroutine)
        assert not call.done()
        assert not call.cancelled()
        for ask in (call.result, call.exception):
            with pytest.raises(asyncio.InvalidStateError):
                ask()
        assert call.get_loop() is asyncio.get_running_loop()
        held.gate.open()
        await call
        assert call.done()
        assert call.exception() is None
        assert_close(call.result(), eager(held.model, row(1)))
        assert not call.cancel()

    run(main())


def test_a_cancelled_call_tells_why(hold: Any) -> None:
    held = hold()
    held.hold()

    async def main() -> None:
        call: Any = held.predict.acall(row(1))
        assert call.cancel("enough")
        assert call.cancelled()
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await call
        with pytest.raises(asyncio.CancelledError, match="enough"):
            call.exception()
        held.gate.open()

    run(main())


@pytest.mark.parametrize("end", ["close", "throw"])
def test_as_a_coroutine_it_can_be_ended(hold: Any, end: str) -> None:
    held = hold()
    held.hold()

    async def main() -> None:
        call = held.predict.acall(row(1))
        if end == "close":
            call.close()
        else:
            with pytest.raises(KeyError, match="thrown"):
                call.throw(KeyError("thrown"))
        held.gate.open()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(main())
    held.predict.close()
    assert held.gate.seen == [MARK]
