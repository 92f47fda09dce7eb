"""The end of the interpreter and Ctrl-C, each in an interpreter of its own."""

from __future__ import annotations

from typing import Any

import pytest
from executor_support import run_program
from support import HANG, assert_clean

NUMBERS = "".join(f"{n}\n" for n in range(20))

WORK = """
opened = threading.Event()
executor = ThreadPoolExecutor(1)
executor.submit(opened.wait, HANG)
for n in range(20):
    executor.submit(print, n, flush=True)
"""


def test_what_waits_runs_when_the_program_ends(executor_class: Any) -> None:
    done = run_program(executor_class, WORK + "opened.set()", fresh=True)
    assert_clean(done)
    assert done.stdout == NUMBERS


def test_what_waits_in_a_dropped_executor_runs_when_the_program_ends(executor_class: Any) -> None:
    done = run_program(executor_class, WORK + "del executor\nopened.set()")
    assert_clean(done)
    assert done.stdout == NUMBERS


def test_what_waits_after_a_shutdown_without_waiting_runs_when_the_program_ends(executor_class: Any) -> None:
    done = run_program(executor_class, WORK + "executor.shutdown(wait=False)\nopened.set()")
    assert_clean(done)
    assert done.stdout == NUMBERS


def test_what_waits_runs_after_an_error_at_the_top_level(executor_class: Any) -> None:
    done = run_program(executor_class, WORK + "opened.set()\nraise ValueError('the own one')")
    assert (done.returncode, done.stdout) == (1, NUMBERS)
    assert done.stderr.startswith("Traceback (most recent call last)")
    assert done.stderr.endswith("ValueError: the own one\n")
    assert done.stderr.count("Traceback") == 1


def test_what_waits_runs_after_an_exit_with_a_code(executor_class: Any) -> None:
    done = run_program(executor_class, WORK + "opened.set()\nsys.exit(3)")
    assert (done.returncode, done.stdout, done.stderr) == (3, NUMBERS, "")


def test_callbacks_run_when_the_program_ends(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        WORK
        + """
for n in range(20):
    executor.submit(int, n).add_done_callback(lambda done: print("called", done.result(), flush=True))
opened.set()
""",
    )
    assert_clean(done)
    assert done.stdout == NUMBERS + "".join(f"called {n}\n" for n in range(20))


def test_work_is_done_before_exit_handlers_run(executor_class: Any) -> None:
    done = run_program(executor_class, "atexit.register(print, 'handler')" + WORK + "opened.set()")
    assert_clean(done)
    assert done.stdout == NUMBERS + "handler\n"


def test_a_program_with_idle_threads_ends(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        """
executor = ThreadPoolExecutor(3)
executor.own = executor
print(list(executor.map(abs, range(-3, 0))))
""",
    )
    assert_clean(done)
    assert done.stdout == "[3, 2, 1]\n"


def test_a_program_with_an_executor_that_was_never_used_ends(executor_class: Any) -> None:
    done = run_program(executor_class, "executor = ThreadPoolExecutor(3)\nprint('end')")
    assert_clean(done)
    assert done.stdout == "end\n"


def test_errors_of_tasks_that_nobody_asks_for_are_quiet(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        """
def task(error):
    raise error
executor = ThreadPoolExecutor(1)
for error in (ValueError(), SystemExit(3), KeyboardInterrupt()):
    executor.submit(task, error)
executor.submit(print, "end")
""",
    )
    assert_clean(done)
    assert done.stdout == "end\n"


def test_a_task_may_not_submit_once_the_interpreter_ends(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        """
def task():
    try:
        while True:
            executor.submit(int)
            threading.Event().wait(0.001)  # lets the main thread have the lock that submit() takes
    except RuntimeError as error:
        print(error)
executor = ThreadPoolExecutor(1)
executor.submit(task)
""",
    )
    assert_clean(done)
    assert done.stdout == "cannot schedule new futures after interpreter shutdown\n"


@pytest.mark.parametrize("made", ["before", "in the handler"])
def test_an_exit_handler_may_not_submit(executor_class: Any, made: str) -> None:
    done = run_program(
        executor_class,
        f"""
made = {made!r}
executor = ThreadPoolExecutor(1)
def handler():
    try:
        (executor if made == "before" else ThreadPoolExecutor(1)).submit(print, "ran")
    except RuntimeError as error:
        print(error)
atexit.register(handler)
""",
    )
    assert_clean(done)
    assert done.stdout == "cannot schedule new futures after interpreter shutdown\n"


def test_an_exit_handler_may_not_submit_to_an_executor_that_was_used(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        """
executor = ThreadPoolExecutor(1)
executor.submit(int).result()
def handler():
    try:
        executor.submit(print, "ran")
    except RuntimeError as error:
        print(error)
atexit.register(handler)
""",
    )
    assert_clean(done)
    assert done.stdout.startswith("cannot schedule new futures after")


def test_an_exit_handler_may_ask_for_results_and_shut_down(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        """
executor = ThreadPoolExecutor(1)
future = executor.submit(int, "7")
def handler():
    executor.shutdown()
    print(future.result(), concurrent.futures.wait([future]).done == {future})
atexit.register(handler)
""",
    )
    assert_clean(done)
    assert done.stdout == "7 True\n"


def test_a_thread_that_outlives_the_main_thread_gets_its_results(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        """
executor = ThreadPoolExecutor(1)
futures = [executor.submit(int, n) for n in range(1000)]
def work():
    threading.main_thread().join()
    print(sum(future.result() for future in futures))
threading.Thread(target=work).start()
""",
    )
    assert_clean(done)
    assert done.stdout == "499500\n"


def test_daemon_threads_that_wait_at_the_end_are_no_trouble(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        """
executor = ThreadPoolExecutor(1)
class Never(concurrent.futures.Future):
    pass
never = Never()
waits = threading.Semaphore(0)
def work():
    executor.submit(int).result()
    waits.release()
    concurrent.futures.wait([never])
for _ in range(3):
    threading.Thread(target=work, daemon=True).start()
for _ in range(3):
    waits.acquire()
print("end")
""",
    )
    assert_clean(done)
    assert done.stdout == "end\n"


# --- Ctrl-C -----------------------------------------------------------------------------------------------------------

INTERRUPTED = """
def interrupt(started):
    started.wait(HANG)
    threading.Event().wait(0.05)  # by then the main thread most likely waits
    os.kill(os.getpid(), signal.SIGINT)
def held():
    started, opened, executor = threading.Event(), threading.Event(), ThreadPoolExecutor(1)
    running = executor.submit(lambda: (started.set(), opened.wait(HANG)))
    pending = executor.submit(int, "7")
    threading.Thread(target=interrupt, args=(started,), daemon=True).start()
    return executor, opened, running, pending
"""

WAITS = {
    "result": "pending.result()",
    "result with a timeout": "pending.result(HANG)",
    "exception": "pending.exception()",
    "result of what runs": "running.result()",
    "wait": "concurrent.futures.wait([running, pending])",
    "as_completed": "next(concurrent.futures.as_completed([running, pending]))",
    "shutdown": "executor.shutdown()",
    "map": "next(executor.map(abs, [1]))",
}


@pytest.fixture
def interrupted(executor_class: Any) -> list[str]:
    """What a program says that is interrupted in each way of waiting, one after the other."""
    done = run_program(
        executor_class,
        INTERRUPTED
        # Not by exec(): an interrupt that leaves that is never forgotten, and becomes the exit code.
        + f"ways = {{{', '.join(f'{name!r}: lambda: {statement}' for name, statement in WAITS.items())}}}"
        + """
for name, way in ways.items():
    executor, opened, running, pending = held()
    try:
        way()
        print(name, "was not interrupted")
    except KeyboardInterrupt:
        print(name, "was interrupted", running.done())
    opened.set()
    print(name, "is usable", pending.result(HANG), flush=True)
    executor.shutdown()
""",
        timeout=2 * HANG,
    )
    assert_clean(done)
    lines: list[str] = done.stdout.splitlines()
    return lines


@pytest.mark.alone
def test_ctrl_c_raises_in_a_main_thread_that_waits_and_loses_no_work(interrupted: list[str]) -> None:
    expected = [(f"{name} was interrupted False", f"{name} is usable 7") for name in WAITS]
    assert interrupted == [line for lines in expected for line in lines]


@pytest.mark.alone
def test_what_waits_runs_after_an_interrupt_that_ends_the_program(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        INTERRUPTED
        + """
executor, opened, running, pending = held()
executor.submit(print, "ran", flush=True)
try:
    running.result()
finally:
    opened.set()
""",
    )
    assert (done.returncode, done.stdout) == (-2, "ran\n"), done.stderr
    assert done.stderr.endswith("KeyboardInterrupt\n")


@pytest.mark.alone
def test_a_signal_handler_that_does_not_raise_lets_the_wait_go_on(executor_class: Any) -> None:
    done = run_program(
        executor_class,
        INTERRUPTED
        + """
executor, opened, running, pending = held()
def handler(number, frame):
    print("handled", flush=True)
    opened.set()
signal.signal(signal.SIGINT, handler)
print(pending.result())
""",
    )
    assert_clean(done)
    assert done.stdout == "handled\n7\n"
