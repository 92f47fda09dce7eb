"""Processes that fork while an executor is in use, each in an interpreter of its own."""

from __future__ import annotations

from typing import Any

import pytest
from executor_support import run_program
from support import assert_clean

# The standard executor has no threads in the child and starts none where it counted idle ones: it hangs.
ours = pytest.mark.parametrize("executor_class", ["torchpool"], indirect=True)

PRELUDE = """
def forked(work):
    \"\"\"Runs it in a child; its exit code.\"\"\"
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            sys.stdout.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])

class Held:
    def __init__(self, executor):
        started, self.opened = threading.Event(), threading.Event()
        self.future = executor.submit(lambda: started.set() or self.opened.wait(HANG))
        started.wait(HANG)
"""


def output_of(executor_class: Any, source: str) -> str:
    done = run_program(executor_class, PRELUDE + source)
    assert_clean(done)
    output: str = done.stdout
    return output


# --- what the standard one can, too -----------------------------------------------------------------------------------


def test_a_future_that_was_done_can_be_read_in_the_child(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1)
future, failed = executor.submit(int, "7"), executor.submit(int, "x")
executor.shutdown()
print(forked(lambda: print(future.result(), failed.exception(), concurrent.futures.wait([future]).done == {future})))
"""
    assert output_of(executor_class, source) == "7 invalid literal for int() with base 10: 'x' True\n0\n"


def test_an_executor_that_was_not_used_before_the_fork_works_in_the_child(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(2)
print(forked(lambda: print(list(executor.map(abs, range(-3, 0))))))
print(list(executor.map(abs, range(-3, 0))))
"""
    assert output_of(executor_class, source) == "[3, 2, 1]\n0\n[3, 2, 1]\n"


def test_a_child_may_make_an_executor_of_its_own(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1)
held = Held(executor)
def work():
    with ThreadPoolExecutor(2) as own:
        print(list(own.map(abs, range(-3, 0))))
print(forked(work))
held.opened.set()
print(held.future.result(HANG))
"""
    assert output_of(executor_class, source) == "[3, 2, 1]\n0\nTrue\n"


def test_a_task_may_fork_a_child_that_ends_at_once(executor_class: Any) -> None:
    source = """
def task():
    child = os.fork()
    if child == 0:
        os._exit(7)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
executor = ThreadPoolExecutor(2)
print([executor.submit(task).result(HANG) for _ in range(3)], executor.submit(int, "5").result(HANG))
"""
    assert output_of(executor_class, source) == "[7, 7, 7] 5\n"


def test_an_executor_that_was_shut_down_is_so_in_the_child(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1)
executor.submit(int).result()
executor.shutdown()
def work():
    try:
        executor.submit(int)
    except RuntimeError as error:
        print(error)
print(forked(work))
"""
    assert output_of(executor_class, source) == "cannot schedule new futures after shutdown\n0\n"


def test_a_fork_leaves_the_parent_as_it_was(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1)
held = Held(executor)
pending = executor.submit(int, "7")
forked(int)
print(held.future.running(), pending.done(), len(executor._threads))
held.opened.set()
print(held.future.result(HANG), pending.result(HANG), executor.submit(int, "8").result(HANG))
"""
    assert output_of(executor_class, source) == "True False 1\nTrue 7 8\n"


# --- what only ours can -----------------------------------------------------------------------------------------------


@ours
@pytest.mark.parametrize("use", ["executor.submit(int).result()", "held = Held(executor)"], ids=["idle", "busy"])
def test_an_executor_in_use_starts_afresh_in_the_child(executor_class: Any, use: str) -> None:
    source = f"""
executor = ThreadPoolExecutor(1)
{use}
def work():
    print(executor.submit(int, "7").result(HANG))
    print(list(executor.map(abs, range(-3, 0))))
    print(len(executor._threads), executor.submit(threading.current_thread).result(HANG) in executor._threads)
    executor.shutdown()
print(forked(work))
{"held.opened.set()" if "held" in use else ""}
print(executor.submit(int, "8").result(HANG))
"""
    assert output_of(executor_class, source) == "7\n[3, 2, 1]\n1 True\n0\n8\n"


@ours
def test_what_the_parent_has_not_finished_fails_in_the_child(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1)
held = Held(executor)
pending = executor.submit(int, "7")
def work():
    for future in (held.future, pending):
        error = future.exception(HANG)
        print(isinstance(error, concurrent.futures.BrokenExecutor), type(error).__name__, "parent" in str(error))
    print(len(concurrent.futures.wait([held.future, pending], HANG).done))
print(forked(work))
held.opened.set()
print(held.future.result(HANG), pending.result(HANG))
"""
    line = "True BrokenThreadPool True\n"
    assert output_of(executor_class, source) == line * 2 + "2\n0\nTrue 7\n"


@ours
def test_what_waits_in_the_parent_does_not_run_in_the_child(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1)
held = Held(executor)
parent = os.getpid()
pending = executor.submit(lambda: print("ran in the parent" if os.getpid() == parent else "ran in the child"))
forked(lambda: (executor.submit(int).result(HANG), executor.shutdown()))
held.opened.set()
pending.result(HANG)
"""
    assert output_of(executor_class, source) == "ran in the parent\n"


@ours
def test_a_child_ends_as_any_program_with_its_work_done(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1)
held = Held(executor)
child = os.fork()
if child == 0:
    executor.submit(print, "of the child", flush=True)
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
held.opened.set()
"""
    assert output_of(executor_class, source) == "of the child\n3\n"


@ours
def test_a_child_that_does_not_use_the_executor_ends_as_any_program(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(2)
held = Held(executor)
pending = executor.submit(int, "7")
child = os.fork()
if child == 0:
    sys.exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
held.opened.set()
print(pending.result(HANG))
"""
    assert output_of(executor_class, source) == "3\n7\n"


@ours
def test_the_initializer_runs_again_in_the_child(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1, initializer=lambda: print("initialized", flush=True))
executor.submit(int).result()
forked(lambda: executor.submit(print, "ran").result(HANG))
"""
    assert output_of(executor_class, source) == "initialized\ninitialized\nran\n"


@ours
def test_a_child_of_a_child_starts_afresh_too(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(1)
executor.submit(int).result()
def work():
    print(executor.submit(int, "1").result(HANG))
    print(forked(lambda: print(executor.submit(int, "2").result(HANG))))
print(forked(work))
"""
    assert output_of(executor_class, source) == "1\n2\n0\n0\n"


@ours
def test_a_fork_in_a_task_leaves_the_child_a_usable_executor(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(2)
task = executor.submit(lambda: forked(lambda: print(executor.submit(int, "7").result(HANG))))
print(task.result(HANG))
"""
    assert output_of(executor_class, source) == "7\n0\n"


@ours
def test_forks_while_other_threads_submit_disturb_neither_side(executor_class: Any) -> None:
    source = """
executor = ThreadPoolExecutor(2)
stop = threading.Event()
def loop():
    while not stop.is_set():
        assert executor.submit(int, "7").result(HANG) == 7
threads = [threading.Thread(target=loop) for _ in range(3)]
for thread in threads:
    thread.start()
print([forked(lambda: executor.submit(int).result(HANG)) for _ in range(10)])
stop.set()
for thread in threads:
    thread.join(HANG)
"""
    assert output_of(executor_class, source) == f"{[0] * 10}\n"


@ours
def test_a_process_of_multiprocessing_may_use_the_executor(executor_class: Any) -> None:
    source = """
import multiprocessing
executor = ThreadPoolExecutor(1)
executor.submit(int).result()
def work():
    print(executor.submit(int, "7").result(HANG), flush=True)
process = multiprocessing.get_context("fork").Process(target=work)
process.start()
process.join(HANG)
print(process.exitcode)
"""
    assert output_of(executor_class, source) == "7\n0\n"
