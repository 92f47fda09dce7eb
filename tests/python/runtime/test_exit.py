"""Ctrl-C, interpreter exit, forks and dropped handles, each in an interpreter of its own."""

from __future__ import annotations

import pytest
from support import HANG, assert_clean, run_python

# A predictor with one worker; interrupt_when(condition) sends SIGINT from another thread once the main thread waits.
PRELUDE = """
import asyncio, atexit, concurrent.futures, gc, os, signal, sys, threading, traceback
from support import *

def interrupt_when(condition):
    def work():
        while not condition():
            threading.Event().wait(0.001)
        threading.Event().wait(0.02)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=work, daemon=True).start()

def waiting(count):
    return lambda: held.predict.stats()["waiting_rows"] >= count
"""

WAITS = {
    "call": "held.predict(row(1))",
    "call with a deadline": "held.predict.options(deadline=50)(row(1))",
    "future": "held.predict.submit(row(1)).result()",
    "map": "list(held.predict.map([row(1), row(2)]))",
    "unordered map": "list(held.predict.map([row(1), row(2)], ordered=False))",
    "wait": "concurrent.futures.wait([held.predict.submit(row(1))])",
    "coroutine": "asyncio.run(held.predict.acall(row(1)))",
    "close": "held.predict.submit(row(1)); held.predict.close()",
}


@pytest.fixture(scope="module")
def interrupted() -> list[str]:
    """What a program says that is interrupted in each way of waiting, one after the other."""
    done = run_python(
        PRELUDE
        + f"""
for name, statement in {WAITS!r}.items():
    held = Held()
    held.hold()
    interrupt_when(waiting(1))
    try:
        exec(statement)
        print(name, "was not interrupted")
    except KeyboardInterrupt:
        pass
    held.gate.open()
    if name != "close":
        assert_close(held.predict(row(3)), eager(held.model, row(3)))
        assert_close(list(held.predict.map([row(4)]))[0], eager(held.model, row(4)))
    held.predict.close()
    stats = held.predict.stats()
    assert stats["accepted"] == stats["resolved"], stats
    print(name, "is usable", flush=True)
""",
        timeout=2 * HANG,
        fresh=True,
    )
    return [*done.stdout.splitlines(), done.stderr]


@pytest.mark.parametrize("way", WAITS)
def test_ctrl_c_raises_in_a_waiting_main_thread_and_leaves_the_predictor_usable(
    way: str, interrupted: list[str]
) -> None:
    assert f"{way} is usable" in interrupted, interrupted
    assert f"{way} was not interrupted" not in interrupted
    assert interrupted[-1] == ""


def test_ctrl_c_reaches_a_main_thread_that_waits_for_room() -> None:
    done = run_python(
        PRELUDE
        + """
held = Held(queue_size=1)
held.hold()
first = held.predict.submit(row(1))
second_is_waiting = threading.Event()
interrupt_when(second_is_waiting.is_set)
try:
    second_is_waiting.set()
    held.predict.submit(row(2))
except KeyboardInterrupt:
    print("interrupted")
held.gate.open()
first.result()
held.predict.close()
assert held.gate.seen == [MARK, 1], held.gate.seen
"""
    )
    assert_clean(done)
    assert done.stdout == "interrupted\n"


def test_a_signal_handler_that_does_not_raise_lets_the_call_finish() -> None:
    done = run_python(
        PRELUDE
        + """
held = Held()
held.hold()
def handler(number, frame):
    print("handled", flush=True)
    held.gate.open()
signal.signal(signal.SIGINT, handler)
interrupt_when(waiting(1))
assert_close(held.predict(row(1)), eager(held.model, row(1)))
"""
    )
    assert_clean(done)
    assert done.stdout == "handled\n"


CALLERS = {
    "futures": "futures = [predict.submit(x) for _ in range(2000)]",
    "callbacks": "[predict.submit(x).add_done_callback(lambda done: done.exception()) for _ in range(500)]",
    "map": "results = predict.map(x for _ in range(100_000)); next(results)",
    # Not: daemon threads. Torch lets go of the interpreter's lock while it frees a tensor; a daemon thread that is
    # there when the interpreter goes away aborts the process, whether there is a predictor or not.
    "asyncio": """
async def main():
    tasks = [asyncio.create_task(predict.acall(x)) for _ in range(500)]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
asyncio.run(main())
""",
}


@pytest.mark.parametrize(("caller", "script"), [*((caller, False) for caller in CALLERS), ("futures", True)])
def test_the_interpreter_exits_with_work_in_flight(caller: str, script: bool) -> None:
    done = run_python(
        PRELUDE
        + f"""
import logging
logging.getLogger("torchpool").setLevel(logging.ERROR)  # scripts run alone, as a warning says
x = draw(1, 50, 10)
model = build(LSTMClassifier)
predict = torchpool.wrap(torch.jit.script(model) if {script} else model, example=x)
"""
        + CALLERS[caller]
        + "\nprint('end')"
    )
    assert (done.returncode, done.stdout) == (0, "end\n"), done.stderr
    assert done.stderr == ""


def test_the_interpreter_exits_while_a_thread_is_learning() -> None:
    done = run_python(
        PRELUDE
        + """
held = Held()
predict = torchpool.wrap(held.model)
threading.Thread(target=predict, args=(row(MARK),), daemon=True).start()
held.gate.wait_entered()
"""
    )
    assert_clean(done)


def test_an_error_at_the_top_level_ends_the_program_as_always() -> None:
    done = run_python(
        PRELUDE
        + """
predict = torchpool.wrap(build(LSTMClassifier), example=draw(1, 50, 10))
futures = [predict.submit(draw(1, 50, 10)) for _ in range(1000)]
raise ValueError("the program's own")
"""
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("ValueError: the program's own\n")
    assert done.stderr.count("Traceback") == 1


def test_threads_that_outlive_the_main_thread_are_served_to_their_end() -> None:
    done = run_python(
        PRELUDE
        + """
predict = torchpool.wrap(build(MarkerModule), example=row())
model = build(MarkerModule)
def work():
    threading.main_thread().join()
    assert_close([predict(row(n)) for n in range(100)], [eager(model, row(n)) for n in range(100)])
    assert predict.submit(row(1)).result().shape == (1, 3)
    print("served")
threading.Thread(target=work).start()
"""
    )
    assert_clean(done)
    assert done.stdout == "served\n"


def test_a_standard_executor_left_open_finishes_its_work_at_exit() -> None:
    done = run_python(
        "import atexit\natexit.register(lambda: print(sum(future.done() for future in futures)))\n"
        + PRELUDE
        + """
predict = torchpool.wrap(build(LSTMClassifier), example=draw(1, 50, 10))
executor = concurrent.futures.ThreadPoolExecutor(8)
futures = [executor.submit(predict, draw(1, 50, 10)) for _ in range(300)]
"""
    )
    assert_clean(done)
    assert done.stdout == "300\n"


def test_submitted_work_is_resolved_when_the_interpreter_has_exited() -> None:
    done = run_python(
        "import atexit\natexit.register(lambda: print(all(future.done() for future in futures), len(called)))\n"
        + PRELUDE
        + """
predict = torchpool.wrap(build(LSTMClassifier), example=draw(1, 50, 10))
called = []
futures = [predict.submit(draw(1, 50, 10)) for _ in range(500)]
for future in futures:
    future.add_done_callback(called.append)
""",
        fresh=True,
    )
    assert_clean(done)
    assert done.stdout == "True 500\n"


FORKED = """
child = os.fork()
if child == 0:
    assert_close(predict(row(2)), eager(model, row(2)))
    assert_close(predict.submit(row(3)).result(30), eager(model, row(3)))
    assert_close(list(predict.map(map(row, range(50)))), [eager(model, row(n)) for n in range(50)])
    sys.exit(0)
"""


@pytest.mark.parametrize("cores", [1, 2])
def test_a_forked_child_starts_afresh_and_the_parent_goes_on(cores: int) -> None:
    done = run_python(
        PRELUDE
        + f"torch.set_num_threads({cores})\n"
        + """
model = build(MarkerModule)
predict = torchpool.wrap(model, example=row())
predict.submit(row(1)).result(30)
"""
        + FORKED
        + """
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
assert_close(predict.submit(row(1)).result(30), eager(model, row(1)))
"""
    )
    assert_clean(done)


def test_a_fork_while_calls_run_and_wait_disturbs_neither_side() -> None:
    done = run_python(
        PRELUDE
        + """
held = Held()
model, predict = held.model, held.predict
running, queued = held.hold(), predict.submit(row(1))
"""
        + FORKED
        + """
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
held.gate.open()
assert_close(running.result(30), eager(model, row(MARK)))
assert_close(queued.result(30), eager(model, row(1)))
"""
    )
    assert_clean(done)


def test_a_predictor_closed_before_a_fork_stays_closed() -> None:
    done = run_python(
        PRELUDE
        + """
predict = torchpool.wrap(build(MarkerModule), example=row())
predict.close()
child = os.fork()
try:
    predict(row(1))
except torchpool.Closed:
    sys.exit(child and os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
sys.exit(1)
"""
    )
    assert_clean(done)


def test_forks_while_other_threads_call_disturb_neither_side() -> None:
    done = run_python(
        PRELUDE
        + """
model = build(MarkerModule)
predict = torchpool.wrap(model, example=row(), backend="python", prove="trust")
stop = threading.Event()
def loop():
    while not stop.is_set():
        predict(row(1))
        predict.submit(row(2)).result(30)
threads = [threading.Thread(target=loop, daemon=True) for _ in range(4)]
for thread in threads:
    thread.start()
for _ in range(5):
"""
        + FORKED.replace("\n", "\n    ")
        + """
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
stop.set()
for thread in threads:
    thread.join(30)
"""
    )
    assert_clean(done)


def test_the_last_handle_of_a_running_call_may_be_dropped() -> None:
    done = run_python(
        PRELUDE
        + """
held = Held()
pending = held.predict._core.submit((row(MARK),), {})
held.gate.wait_entered()
threading.Timer(0.05, held.gate.open).start()
del held.predict, pending
print(held.gate.seen)
"""
    )
    assert_clean(done)
    assert done.stdout == "[12345.0]\n"


def test_the_collector_may_free_a_predictor_and_its_runtime_on_their_own_worker() -> None:
    done = run_python(
        PRELUDE
        + """
class Collecting(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 3)
    def forward(self, x):
        if bool((x == MARK).any()):
            gate.pass_through()
            gc.collect()
        return self.linear(x)
gate = Gate()
predict = torchpool.wrap(build(Collecting), example=row(), runtime=torchpool.Runtime(1), prove="trust")
future = predict.submit(row(MARK))
gate.wait_entered()
cycle = [predict]
cycle.append(cycle)
gc.disable()
del predict, cycle
gate.open()
assert future.result(30).shape == (1, 3)
"""
    )
    assert_clean(done)
