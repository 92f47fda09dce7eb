"""ex.submit(predictor, ...): what else runs in the middle of it, of the garbage collector or at Ctrl-C."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from typing import Any

import torch
from support import HANG, assert_all_close, assert_clean, row, run_python

import torchpool

TORCHPOOL_ONLY = True  # to the standard one a predictor is a function as any other

COLLECTS = """
import concurrent.futures, gc
from support import *
from stream_support import *

class Opaque:
    pass

class Doubles(torch.nn.Module):
    def forward(self, x, thing):
        return x * 2

def collecting(run, act):
    # Calls `act` at whatever makes an object in `run`.
    def at_collection(phase, info):
        if phase == "start":
            act()
    gc.collect()
    thresholds = gc.get_threshold()
    gc.callbacks.append(at_collection)
    gc.set_threshold(1)
    try:
        return run()
    finally:
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(at_collection)

executor = torchpool.ThreadPoolExecutor(1)
"""


def test_a_call_that_is_cancelled_while_its_request_is_made_is_not_sent() -> None:
    done = run_python(
        COLLECTS
        + """
predict = torchpool.wrap(Doubles().eval())
thing = Opaque()
assert_close(executor.submit(predict, row(1), thing).result(HANG), row(1) * 2)
drain(executor)
accepted = predict.stats()["accepted"]
group = executor._predictor_calls.group
future = collecting(lambda: executor.submit(predict, row(1), thing), group.cancel_waiting)
assert future.cancelled(), future
assert pending(executor) == 0
assert predict.stats()["accepted"] == accepted
executor.shutdown()
predict.close()
"""
    )
    assert_clean(done)


def test_a_future_that_goes_away_as_all_are_about_to_be_cancelled_harms_nothing() -> None:
    done = run_python(
        COLLECTS
        + """
held = Held(queue_size=1)
flooded = flood(held)
futures = [executor.submit(held.predict, row(n)) for n in range(8)]
def drop_one():
    if futures:
        futures.pop().cancel()
used_up = [[] for _ in range(1000)]  # a list that is reused is no occasion to collect
collecting(executor._predictor_calls.group.cancel_waiting, drop_one)
del used_up
assert pending(executor) == 0
held.gate.open()
concurrent.futures.wait(flooded, HANG)
executor.shutdown()
held.release()
"""
    )
    assert_clean(done)


# Of Doubled, by a name of the thread that torchpool does not know as one: a model that asks for it by the others runs
# where it is called.
makers: set[str] = set()
_WHO = "/proc/thread-self"


@dataclasses.dataclass
class Doubled:
    twice: torch.Tensor

    def __new__(cls, *args: Any) -> Doubled:
        makers.add(os.readlink(_WHO))
        return super().__new__(cls)


class GivesDoubled(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> Doubled:
        return Doubled(x * 2)


def test_the_thread_that_handles_signals_makes_no_results(make_executor: Any) -> None:
    """Ctrl-C on the way would become the outcome of the call."""
    assert threading.current_thread() is threading.main_thread()
    executor = make_executor(1)
    predict = torchpool.wrap(GivesDoubled().eval(), example=row())
    makers.clear()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(HANG)  # calls finish, and the resolver does not come by, while this thread submits
    try:
        futures = [executor.submit(predict, row(n)) for n in range(2000)]
        results = [future.result(HANG) for future in futures]
    finally:
        sys.setswitchinterval(interval)
    assert_all_close((result.twice for result in results), (row(n) * 2 for n in range(2000)))
    assert makers
    assert os.readlink(_WHO) not in makers
