"""The scheduling policy on simulated time, and load by a schedule on real time."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from typing import Any

import pytest
import torchpool_lab
from benchmarks.scheduling import load
from benchmarks.scheduling.simulation import latencies, one_run, percentile, poisson, predictor, throughput
from support import HANG, MARK, POISON, MarkerModule, build, draw, row

import torchpool

Curve = dict[int, dict[int, dict[int, float]]]
CURVE: Curve = {
    1: {1: {1: 2e-3, 2: 3e-3, 4: 5e-3, 8: 9e-3, 16: 17e-3}},
    2: {1: {1: 1.5e-3, 2: 2e-3, 4: 3e-3, 8: 5e-3, 16: 9e-3}},
}
SUCCEEDED, EXPIRED, FAILED, REJECTED = range(4)  # an open loop's status of a call
POLICIES: dict[str, dict[str, Any]] = {
    "learned": {},
    "held": {"max_delay": 0.004},
    "fixed": {"fixed": (8, 0.003)},
    "fixed at once": {"fixed": (4, 0.0)},
}


def mixed(count: int, seed: int) -> list[tuple[float, int, int, int, int, float]]:
    """Calls of two predictors, of some rows and priorities, every third with a deadline."""
    return [
        (at, n % 2, 1 + n % 3, 0, n % 5 - 2, 0.02 if n % 3 == 0 else 0.0)
        for n, at in enumerate(poisson(900.0, count, seed))
    ]


def two(**options: Any) -> list[dict[str, Any]]:
    return [predictor(CURVE, **options), predictor(CURVE, weight=3.0, **options)]


# --- simulated time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_arguments_give_equal_results(policy: str) -> None:
    runs = [torchpool_lab.simulate(2, 1, two(**POLICIES[policy]), mixed(1000, 5)) for _ in range(3)]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0] != torchpool_lab.simulate(2, 1, two(**POLICIES[policy]), mixed(1000, 6))


@pytest.mark.parametrize("workers", [1, 2, 7])
@pytest.mark.parametrize("policy", POLICIES)
def test_every_call_has_an_outcome_and_every_row_a_batch(policy: str, workers: int) -> None:
    calls = [(at, which, rows, 0, 0, 0.0) for at, which, rows, *_ in mixed(600, 1)]
    found = torchpool_lab.simulate(workers, 1, two(**POLICIES[policy]), calls)
    assert [end for end, _, _ in found["outcomes"]] == ["succeeded"] * 600
    assert all(0 <= started < ended for _, started, ended in found["outcomes"])
    for which in (0, 1):
        rows = sum(size for of, _, _, _, _, size, _ in found["batches"] if of == which)
        assert rows == sum(call[2] for call in calls if call[1] == which)
    assert found["seconds"] >= max(call[0] for call in calls)


def test_a_worker_runs_one_batch_at_a_time() -> None:
    found = torchpool_lab.simulate(3, 1, two(), mixed(600, 2))
    assert {worker for _, worker, *_ in found["batches"]} <= {0, 1, 2}
    for number in range(3):
        spans = sorted(
            (start, start + took) for _, worker, _, start, took, _, _ in found["batches"] if worker == number
        )
        assert all(end <= start + 1e-9 for (_, end), (start, _) in pairwise(spans))


def test_a_lone_call_takes_what_the_curve_says() -> None:
    found = one_run(1, predictor(CURVE), [0.5])
    assert found["outcomes"] == [("succeeded", 0.0, pytest.approx(2e-3))]
    assert found["batches"] == [(0, 0, 1, pytest.approx(0.5), pytest.approx(2e-3), 1, 1)]
    assert found["seconds"] == pytest.approx(0.502)


@pytest.mark.parametrize("delay", [0.0, 0.01, 0.05])
def test_at_low_load_a_fixed_delay_is_the_least_of_a_latency(delay: float) -> None:
    arrivals = [float(n) for n in range(50)]  # one a second: nobody comes in time to fill a batch
    took = latencies(one_run(1, predictor(CURVE, fixed=(8, delay)), arrivals))
    assert percentile(took, 0.5) == pytest.approx(delay + 2e-3)
    assert min(took) >= delay


def test_a_longer_fixed_delay_makes_larger_batches_and_longer_waits() -> None:
    arrivals = poisson(200.0, 2000, 3)
    runs = [one_run(1, predictor(CURVE, fixed=(16, delay)), arrivals) for delay in (0.0, 0.02, 0.06)]
    medians = [percentile(latencies(run), 0.5) for run in runs]
    counts = [len(run["batches"]) for run in runs]
    assert medians == sorted(medians) and len(set(medians)) == 3
    assert counts == sorted(counts, reverse=True) and len(set(counts)) == 3


def test_without_a_delay_an_idle_worker_holds_nothing() -> None:
    took = latencies(one_run(1, predictor(CURVE), [float(n) for n in range(50)]))
    assert max(took) == pytest.approx(2e-3)


@pytest.mark.parametrize("policy", POLICIES)
def test_more_workers_do_not_lower_throughput(policy: str) -> None:
    rates = [throughput(workers, predictor(CURVE, **POLICIES[policy]), 2000) for workers in (1, 2, 4, 8)]
    assert rates == sorted(rates)
    assert rates[1] > 1.5 * rates[0]


@pytest.mark.parametrize("rows", [1, 3, 8])
def test_fixed_batches_have_at_most_their_rows(rows: int) -> None:
    found = one_run(2, predictor(CURVE, fixed=(rows, 0.0)), [0.0] * 100)
    assert max(size for *_, size, _ in found["batches"]) == rows


def test_learned_batches_never_exceed_the_most_that_is_allowed() -> None:
    found = one_run(1, predictor(CURVE) | {"max_rows": 5, "first_rows": 5}, [0.0] * 500)
    assert max(size for *_, size, _ in found["batches"]) == 5


def test_a_call_ends_at_its_deadline_at_the_latest() -> None:
    found = one_run(1, predictor(CURVE), poisson(2000.0, 1000, 4), deadline=0.03)
    ends = Counter(end for end, _, _ in found["outcomes"])
    assert ends["succeeded"] + ends["expired"] == 1000
    assert min(ends["succeeded"], ends["expired"]) > 0  # more comes than one worker can do
    assert all(ended <= 0.03 + 1e-9 for _, _, ended in found["outcomes"])


def test_calls_beyond_the_queue_are_rejected() -> None:
    found = one_run(1, predictor(CURVE, fixed=(1, 0.0)) | {"queue_rows": 10}, [0.0] * 50)
    ends = Counter(end for end, _, _ in found["outcomes"])
    assert ends == {"succeeded": 11, "rejected": 39}  # ten wait while one runs


def test_higher_priorities_go_first() -> None:
    calls = [(0.0, 0, 1, 0, 0, 0.0), *((1e-4, 0, 1, 0, priority, 0.0) for priority in (0, 2, 1, 3))]
    found = torchpool_lab.simulate(1, 1, [predictor(CURVE, fixed=(1, 0.0))], calls)
    started = [started for _, started, _ in found["outcomes"]][1:]
    assert sorted(range(4), key=lambda n: started[n]) == [3, 1, 2, 0]


def test_workers_time_is_shared_by_weight() -> None:
    calls = [(0.0, n % 2, 1, 0, 0, 0.0) for n in range(2000)]
    given = [predictor(CURVE, fixed=(4, 0.0), weight=weight) for weight in (1.0, 3.0)]
    found = torchpool_lab.simulate(1, 1, given, calls)
    first_half = found["batches"][: len(found["batches"]) // 2]
    counts = Counter(which for which, *_ in first_half)
    assert counts[1] / counts[0] == pytest.approx(3.0, rel=0.1)
    assert Counter(end for end, _, _ in found["outcomes"]) == {"succeeded": 2000}


def test_no_calls_take_no_time() -> None:
    assert torchpool_lab.simulate(1, 1, [predictor(CURVE)], []) == {"outcomes": [], "batches": [], "seconds": 0.0}


@pytest.mark.parametrize(
    ("workers", "cores", "given", "call", "words"),
    [
        (0, 1, {}, (0.0, 0, 1, 0, 0, 0.0), "at least one worker and core"),
        (1, 1, {"weight": 0.0}, (0.0, 0, 1, 0, 0, 0.0), "weight must be"),
        (1, 1, {"weight": float("nan")}, (0.0, 0, 1, 0, 0, 0.0), "weight must be"),
        (1, 1, {"fixed": (0, 0.0)}, (0.0, 0, 1, 0, 0, 0.0), "fixed must be"),
        (1, 1, {"max_delay": -1.0}, (0.0, 0, 1, 0, 0, 0.0), "max_delay must be"),
        (1, 1, {}, (0.0, 0, 0, 0, 0, 0.0), "at least one row"),
        (1, 1, {}, (float("nan"), 0, 1, 0, 0, 0.0), "in order of their arrivals"),
        (1, 1, {}, (-1.0, 0, 1, 0, 0, 0.0), "in order of their arrivals"),
        (1, 1, {}, (0.0, 0, 1, 0, 0, -1.0), "deadline must be"),
        (-1, 1, {}, (0.0, 0, 1, 0, 0, 0.0), "at least one worker and core"),
        (1, 0, {}, (0.0, 0, 1, 0, 0, 0.0), "at least one worker and core"),
        (1, 1, {}, (0.0, 1, 1, 0, 0, 0.0), "a call names a predictor that is not there"),
        (1, 1, {"cost": {}}, (0.0, 0, 1, 0, 0, 0.0), "a cost curve needs at least one point"),
        (1, 1, {"cost": {1: {}}}, (0.0, 0, 1, 0, 0, 0.0), "a cost curve needs at least one length"),
        (1, 1, {"cost": {1: {1: {}}}}, (0.0, 0, 1, 0, 0, 0.0), "a cost curve needs at least one point at each length"),
    ],
)
def test_a_simulation_that_makes_no_sense_is_refused(
    workers: int, cores: int, given: dict[str, Any], call: tuple[float, int, int, int, int, float], words: str
) -> None:
    with pytest.raises(ValueError, match=words):
        torchpool_lab.simulate(workers, cores, [predictor(CURVE) | given], [call])


def test_what_is_missing_or_of_another_type_is_refused() -> None:
    with pytest.raises(KeyError, match="max_rows"):
        torchpool_lab.simulate(1, 1, [{"cost": CURVE}], [])
    for calls in ([(0.0, 0)], [(0.0, -1, 1, 0, 0, 0.0)], ["call"], None):
        with pytest.raises(TypeError):
            torchpool_lab.simulate(1, 1, [predictor(CURVE)], calls)


# --- real time --------------------------------------------------------------------------------------------------------


@pytest.fixture
def loaded(runtime: torchpool.Runtime) -> load.Loaded:
    predict = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, backend="python")
    return load.Loaded(predict, [((row(n),), None) for n in range(3)])


def assert_agrees(loaded: load.Loaded, found: dict[str, Any], count: int) -> Counter[int]:
    """What the loop says of its calls is what the predictor's counts say."""
    assert len(found["latency"]) == len(found["late"]) == len(found["status"]) == count
    statuses = Counter(found["status"])
    stats = loaded.predict.stats()
    assert stats["accepted"] == stats["resolved"]
    assert (stats["succeeded"], stats["failed"]) == (statuses[SUCCEEDED], statuses[FAILED])
    assert set(statuses) <= {SUCCEEDED, EXPIRED, FAILED, REJECTED}
    return statuses


def test_the_same_seed_gives_the_same_arrivals() -> None:
    assert load.poisson(1000.0, 0.5, 1) == load.poisson(1000.0, 0.5, 1) != load.poisson(1000.0, 0.5, 2)
    assert poisson(1000.0, 500, 1) == poisson(1000.0, 500, 1) != poisson(1000.0, 500, 2)
    arrivals = load.poisson(1000.0, 0.5, 1)
    assert arrivals == sorted(arrivals) and arrivals[0] > 0 and arrivals[-1] < 0.5


def test_every_arrival_is_answered(loaded: load.Loaded) -> None:
    arrivals = load.poisson(2000.0, 0.1, 1)
    found = loaded.run(arrivals)
    assert assert_agrees(loaded, found, len(arrivals)) == {SUCCEEDED: len(arrivals)}
    assert all(0 <= late <= latency for late, latency in zip(found["late"], found["latency"], strict=True))
    assert found["seconds"] >= arrivals[-1]
    assert found["generator_cpu_seconds"] > 0


def test_no_arrivals_are_no_calls(loaded: load.Loaded) -> None:
    assert assert_agrees(loaded, loaded.run([]), 0) == {}


def test_calls_of_a_model_that_raises_count_as_failed(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, backend="python")
    loaded = load.Loaded(predict, [((row(POISON),), None), ((row(1),), None)])
    found = loaded.run([0.0] * 40)
    assert assert_agrees(loaded, found, 40) == {SUCCEEDED: 20, FAILED: 20}
    assert found["status"] == [FAILED, SUCCEEDED] * 20


@pytest.mark.parametrize("deadline", [-1.0, 0.0, 1e-9])
def test_a_deadline_that_has_passed_ends_every_call(loaded: load.Loaded, deadline: float) -> None:
    found = loaded.run([0.0] * 20, deadline=deadline)
    assert assert_agrees(loaded, found, 20) == {EXPIRED: 20}


def test_a_deadline_that_is_met_changes_nothing(loaded: load.Loaded) -> None:
    assert assert_agrees(loaded, loaded.run([0.0] * 20, deadline=HANG, priority=3), 20) == {SUCCEEDED: 20}


def test_a_deadline_ends_calls_behind_a_held_worker(hold: Any) -> None:
    held = hold()
    running = held.hold()
    found = load.Loaded(held.predict, [((row(1),), None)]).run([0.0] * 10, deadline=0.5)
    assert found["status"] == [EXPIRED] * 10
    assert min(found["latency"]) >= 0.5
    held.gate.open()
    running.result(HANG)
    held.predict.close()
    assert held.gate.seen == [MARK]
    assert held.predict.stats()["expired"] == 10


def test_what_finds_the_queue_full_is_rejected(hold: Any) -> None:
    held = hold(queue_size=4)
    held.hold()
    found = load.Loaded(held.predict, [((row(1),), None)]).run([0.0] * 10, deadline=0.5)
    assert found["status"] == [EXPIRED] * 4 + [REJECTED] * 6
    assert [latency == -1 for latency in found["latency"]] == [False] * 4 + [True] * 6


def test_a_blocking_loop_waits_for_room(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, queue_size=2, backend="python")
    loaded = load.Loaded(predict, [((row(1),), None)])
    assert assert_agrees(loaded, loaded.run([0.0] * 100, block=True), 100) == {SUCCEEDED: 100}


def test_a_loop_that_makes_no_sense_is_refused(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, backend="python")
    alone = torchpool.wrap(build(MarkerModule), example=row(), runtime=runtime, batch=False)
    with pytest.raises(ValueError, match="open_loop needs at least one call"):
        torchpool_lab.open_loop(predict._core, [], [0.0])
    with pytest.raises(ValueError, match="open_loop takes calls that share batches"):
        torchpool_lab.open_loop(alone._core, [((row(1),), None)], [0.0])
    with pytest.raises(ValueError, match="open_loop takes calls that share batches"):
        torchpool_lab.open_loop(predict._core, [((draw(1, 5),), None)], [0.0])
    with pytest.raises(TypeError):
        torchpool_lab.open_loop(predict._core, [((row(1),), None)], ["soon"])
    assert predict.stats()["accepted"] == alone.stats()["accepted"] == 0


def test_a_loop_on_a_closed_predictor_raises(loaded: load.Loaded) -> None:
    loaded.predict.close()
    with pytest.raises(torchpool.Closed, match="is closed"):
        loaded.run([0.0])
