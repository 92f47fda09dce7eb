"""Hooks are called in the order of their phases, whatever the order in which they came."""

from __future__ import annotations

import pytest
from support import assert_clean, run_python

from torchpool.runtime import lifecycle
from torchpool.runtime.lifecycle import Child, Exit, Lifecycle

# A lifecycle of its own, attached after the package's. Hooks are registered from the last phase to the first.
PRELUDE = """
import atexit, os, sys, threading
from torchpool.runtime.lifecycle import Child, Exit, Lifecycle

def say(*words):
    print(*words, flush=True)

cycle = Lifecycle()
for phase in reversed(Exit):
    cycle.at_exit(phase, lambda phase=phase: say("exit", phase.name))
for phase in reversed(Child):
    cycle.in_child(phase, lambda phase=phase: say("child", phase.name))
cycle.around_fork(lambda: say("before the fork"), lambda: say("in the parent"))
"""


def output_of(source: str) -> list[str]:
    done = run_python(PRELUDE + source)
    assert_clean(done)
    return done.stdout.splitlines()


def noting(seen: list[str], name: str) -> lifecycle.Hook:
    return lambda: seen.append(name)


# --- the order --------------------------------------------------------------------------------------------------------


def test_a_phase_calls_its_hooks_as_they_came_and_no_other_phases() -> None:
    cycle, seen = Lifecycle(), list[str]()
    for name in ("first", "second"):
        cycle.in_child(Child.FUTURES, noting(seen, name))
    cycle.in_child(Child.TIMERS, noting(seen, "timer"))
    cycle.at_exit(Exit.RUNTIMES, noting(seen, "exit"))
    cycle.forked(Child.FUTURES)
    assert seen == ["first", "second"]


def test_hooks_are_called_at_each_fork() -> None:
    cycle, seen = Lifecycle(), list[str]()
    cycle.in_child(Child.CAPTURES, noting(seen, "again"))
    cycle.forked(Child.CAPTURES)
    cycle.forked(Child.CAPTURES)
    assert seen == ["again", "again"]


def test_executors_end_before_threads_are_joined_and_the_rest_afterwards() -> None:
    cycle, seen = Lifecycle(), list[str]()
    for phase in reversed(Exit):
        cycle.at_exit(phase, noting(seen, phase.name))
    cycle.before_threads_are_joined()
    assert seen == ["EXECUTORS"]
    cycle.after_threads_were_joined()
    assert seen == ["EXECUTORS", "RUNTIMES", "CALLBACKS"]


def test_a_hook_that_is_interrupted_at_exit_ends_the_rest() -> None:
    cycle, seen = Lifecycle(), list[str]()

    def interrupted() -> None:
        raise KeyboardInterrupt

    cycle.at_exit(Exit.RUNTIMES, interrupted)
    cycle.at_exit(Exit.CALLBACKS, noting(seen, "callbacks"))
    with pytest.raises(KeyboardInterrupt):
        cycle.after_threads_were_joined()
    assert not seen


# --- in an interpreter that ends or forks -----------------------------------------------------------------------------


def test_the_interpreter_calls_them_in_order_when_it_ends() -> None:
    source = """
release = threading.Event()
atexit.register(say, "atexit, registered before")
cycle.attach()
atexit.register(say, "atexit, registered afterwards")
def work():
    release.wait()
    say("a thread ends")
threading.Thread(target=work).start()
cycle.at_exit(Exit.EXECUTORS, release.set)
"""
    assert output_of(source) == [
        "exit EXECUTORS",
        "a thread ends",
        "atexit, registered afterwards",
        "exit RUNTIMES",
        "exit CALLBACKS",
        "atexit, registered before",
    ]


def test_executors_are_told_before_the_standard_library_waits_for_its_own() -> None:
    source = """
import concurrent.futures
cycle.attach()
opened = threading.Event()
executor = concurrent.futures.ThreadPoolExecutor(1)
executor.submit(opened.wait)
cycle.at_exit(Exit.EXECUTORS, opened.set)  # else the standard library waits for ever
"""
    assert output_of(source) == ["exit EXECUTORS", "exit RUNTIMES", "exit CALLBACKS"]


def test_a_forked_child_calls_them_in_order_and_its_parent_does_not() -> None:
    source = """
cycle.attach()
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
say("parent")
os._exit(0)
"""
    output = output_of(source)
    assert output[0] == "before the fork"
    # The two processes say these at the same time.
    assert [line for line in output if line.startswith("child")] == [f"child {phase.name}" for phase in Child]
    assert [line for line in output[1:] if not line.startswith("child")] == ["in the parent", "parent"]


def test_where_a_hook_raises_in_a_child_the_other_phases_are_called_all_the_same() -> None:
    source = """
def fail():
    raise ValueError("broken hook")
cycle = Lifecycle()
cycle.in_child(Child.TIMERS, fail)
cycle.in_child(Child.EXECUTORS, lambda: say("executors"))
cycle.attach()
child = os.fork()
if child == 0:
    os._exit(0)
os.waitpid(child, 0)
os._exit(0)
"""
    done = run_python(PRELUDE + source)
    assert done.stdout.splitlines() == ["executors"]
    assert "ValueError: broken hook" in done.stderr


# --- the package's own ------------------------------------------------------------------------------------------------


def test_each_part_of_the_package_has_its_phase() -> None:
    def modules(hooks: list[lifecycle.Hook]) -> list[str]:
        return [hook.__module__.removeprefix("torchpool.") for hook in hooks]

    process = lifecycle._process
    assert {phase.name: modules(hooks) for phase, hooks in process._at_exit.items()} == {
        "EXECUTORS": ["executor.executor"],
        "RUNTIMES": ["runtime.runtime"],
        "CALLBACKS": ["call.futures"],
    }
    assert {phase.name: modules(hooks) for phase, hooks in process._in_child.items()} == {
        "TIMERS": ["executor.timer"],
        "EXTENSION": ["runtime.runtime"],
        "FUTURES": ["call.futures"],
        "CAPTURES": ["predictor.updates", "predictor.graphs"],
        "RUNTIMES": ["runtime.runtime"],
        "PREDICTORS": ["predictor.lazy_weights", "predictor.predictor"],
        "EXECUTORS": ["executor.executor"],
    }
