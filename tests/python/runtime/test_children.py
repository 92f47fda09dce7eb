"""What a forked child has of its parent's predictors: what was learned, and nothing that waits for threads."""

from __future__ import annotations

import pytest
from support import assert_clean, run_python

PRELUDE = """
import concurrent.futures, os, signal, sys, threading
import torchpool.predictor.learner as learning
from torchpool.predictor import graphs
from support import *

def forked(work, seconds=50):
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        signal.alarm(seconds)
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stdout.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child's exit code is {code}"

def by_threads(predict, xs):
    with concurrent.futures.ThreadPoolExecutor(len(xs)) as pool:
        return list(pool.map(predict, xs, timeout=30))

model = build(lambda: torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)))
xs = [row(n) for n in range(8)]
want = [eager(model, x) for x in xs]
"""

NOTHING_ANEW = """
def refused(*args, **kwargs):
    raise AssertionError("it was learned before")
learning.find = graphs.build = refused
"""


def run(source: str) -> str:
    done = run_python(PRELUDE + source)
    assert_clean(done)
    return done.stdout


def test_threads_that_use_a_predictor_first_are_served() -> None:
    run("""
predict = torchpool.wrap(model, prove="trust", backend="python")
predict(xs[0])
predict.submit(xs[0]).result(30)
for _ in range(5):
    forked(lambda: assert_all_close(by_threads(predict, xs), want))
    forked(lambda: assert_all_close(by_threads(lambda x: predict.submit(x).result(), xs), want))
assert_all_close(by_threads(predict, xs), want)
""")


def test_a_child_serves_by_the_graph_of_its_parent_and_shares_its_packed_weights() -> None:
    run(f"""
predict = torchpool.wrap(model)
predict(xs[0])
assert predict.ready(50)
assert "served by graph" in str(predict.explain()) or "graph" in str(predict.explain())
before, count = str(predict.explain()), torchpool._core.packed_weights()
{NOTHING_ANEW}
def work():
    assert_all_close(by_threads(predict, xs), want)
    assert_all_close(predict.map(xs), want)
    assert predict.ready(0)
    assert str(predict.explain()).splitlines()[0] == before.splitlines()[0]
    assert predict._graphs.captured[0].backend is not None
    assert predict._learner.kinds.keys() == {{0}}
    assert torchpool._core.packed_weights() == count
forked(work)
forked(lambda: forked(work))
""")


def test_weights_that_change_after_the_fork_are_seen() -> None:
    run("""
predict = torchpool.wrap(model)
predict(xs[0])
assert predict.ready(50)
def work():
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    changed = [eager(model, x) for x in xs]
    assert_all_close(by_threads(predict, xs), changed)
    assert not torch.allclose(changed[0], want[0])
forked(work)
assert_all_close(by_threads(predict, xs), want)
""")


def test_a_module_that_changed_after_it_was_learned_is_learned_anew() -> None:
    run("""
class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.inner, self.factor = model, 1.0
    def forward(self, x):
        return self.inner(x) * self.factor
scaled = Scaled().eval()
predict = torchpool.wrap(scaled)
predict(xs[0])
assert predict.ready(50)
scaled.factor = 3.0
forked(lambda: assert_all_close(by_threads(predict, xs), [3 * y for y in want]))
def work():
    scaled.factor = 2.0
    assert_all_close(by_threads(predict, xs), [2 * y for y in want])
forked(work)
""")


def test_a_thread_that_has_used_all_cores_may_do_so_in_the_child() -> None:
    run("""
torch.set_num_threads(2)
large = torch.ones(1 << 20)
large.add(1).sum()
predict = torchpool.wrap(model, prove="trust", backend="python")
predict(xs[0])
def work():
    assert torch.get_num_threads() == 2
    assert float(large.add(1).sum()) == 2 << 20
    assert_all_close(map(predict, xs), want)
forked(work)
assert torch.get_num_threads() == 2
assert float(large.add(1).sum()) == 2 << 20
""")


def test_what_the_parent_has_in_flight_fails_in_the_child() -> None:
    out = run("""
held = Held()
parent = os.getpid()
running = held.hold()
queued, watched = held.predict.submit(row(1)), held.predict.submit(row(2))
watched._condition
watched.add_done_callback(lambda _: print("called back in the", "parent" if os.getpid() == parent else "child"))
results = held.predict.map([row(3)] * 100, buffersize=4)
def work():
    for future in (running, queued, watched):
        try:
            future.result(20)
        except torchpool.Closed as error:
            print(error)
    assert len(concurrent.futures.wait([running, queued, watched], 20).done) == 3
    try:
        next(results)
    except torchpool.Closed as error:
        print(error)
    held.gate.open()
    assert_close(held.predict.submit(row(1)).result(20), eager(held.model, row(1)))
forked(work)
held.gate.open()
for future, value in ((running, MARK), (queued, 1), (watched, 2)):
    assert_close(future.result(20), eager(held.model, row(value)))
assert_all_close(results, [eager(held.model, row(3))] * 100)
""")
    assert (
        out == "submitted before the fork: the call belongs to the parent process\n" * 4 + "called back in the parent\n"
    )


def test_a_predictor_that_a_child_only_drops_is_dropped_at_once() -> None:
    run("""
held = Held()
running, queued = held.hold(), held.predict.submit(row(1))
def work():
    global held, running, queued
    gate = held.gate
    del held.predict, running, queued
forked(work)
held.gate.open()
assert_close(queued.result(20), eager(held.model, row(1)))
""")


def test_a_runtime_that_was_closed_is_so_in_the_child() -> None:
    run("""
runtime = torchpool.Runtime(1)
predict = torchpool.wrap(model, runtime=runtime)
runtime.close()
def work():
    for call in (lambda: predict(xs[0]), lambda: torchpool.wrap(model, runtime=runtime)):
        try:
            call()
        except torchpool.Closed:
            continue
        raise AssertionError("it was opened again")
forked(work)
""")


@pytest.mark.parametrize("when", ["before", "inside"])
def test_an_update_of_the_weights_ends_in_the_child(when: str) -> None:
    run(f"""
other = torchpool.wrap(model, prove="trust", backend="python")
predict = torchpool.wrap(model, prove="trust", backend="python")
predict(xs[0]), other(xs[0])
def update():
    with predict.updating():
        with torch.no_grad():
            model[2].bias.add_(1)
    assert_all_close(by_threads(predict, xs), [y + 1 for y in want])
    assert_all_close(by_threads(other, xs), [y + 1 for y in want])
if {when!r} == "before":
    forked(update)
else:
    with predict.updating():
        forked(lambda: assert_all_close(by_threads(predict, xs), want))
    forked(update)
assert_all_close(by_threads(predict, xs), want)
""")


def test_a_child_of_one_thread_learns_once_its_calls_have_taken_their_time() -> None:
    run("""
from torchpool.predictor import patience
predict = torchpool.wrap(model, prove="trust", backend="python")
def work():
    assert_all_close(map(predict, xs), want)
    assert not predict._learner.kinds, "it has learned at once"
    predict._patience._left = 0.0
    assert_all_close(map(predict, xs), want)
    assert predict._learner.kinds
forked(work)
def work():
    assert_all_close(predict.map(xs), want)  # which is more than to call the module
    assert predict._learner.kinds
forked(work)
def work():
    predict(xs[0])
    assert_all_close(by_threads(predict, xs), want)
    assert predict._learner.kinds
forked(work)
""")


def test_a_patient_child_refuses_what_it_would_refuse_later() -> None:
    run("""
predict = torchpool.wrap(model, prove="trust", backend="python")
def work():
    x = row(1).requires_grad_()
    try:
        predict(x)
    except TypeError as error:
        assert "requires grad" in str(error)
    else:
        raise AssertionError("it was not refused")
forked(work)
def work():
    assert not predict(row(1)).requires_grad
    predict.close()
    try:
        predict(row(1))
    except torchpool.Closed:
        return
    raise AssertionError("it is open")
forked(work)
""")
