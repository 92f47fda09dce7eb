"""Maps over what is read at once: items like the one before go by a shorter way, to the same results."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import assert_all_close, assert_close, build, draw, draws, eager, run_threads
from torch import Tensor, nn

import torchpool

pytestmark = pytest.mark.graphs


class Scores(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.linear(x.float())
        return y, y.argmax(-1)


@pytest.fixture(scope="module")
def predict() -> Iterable[torchpool.Predictor]:
    with torchpool.wrap(build(Scores), name="scores") as predictor:
        predictor(draw(1, 4))
        assert predictor.ready()
        yield predictor


# What differs from the item before in each way that counts.
ITEMS = {
    "one row": draw(1, 4),
    "another": draw(1, 4, seed=1),
    "rows": draw(3, 4),
    "no batch dim": draw(4),
    "double": draw(1, 4).double(),
    "integers": torch.ones(1, 4, dtype=torch.int64),
    "strides": draw(4, 1).T,
    "parameter": nn.Parameter(draw(1, 4), requires_grad=False),
    "large": draw(20_000, 4),
    "empty": draw(0, 4),
    "conjugate": torch.complex(draw(1, 4), draw(1, 4)).conj().real,
}


@settings(deadline=None, max_examples=60)
@given(st.lists(st.sampled_from(sorted(ITEMS)), max_size=12), st.booleans())
def test_any_mixture_gives_each_call_its_own_result(predict: torchpool.Predictor, names: list[str], many: bool) -> None:
    xs = [ITEMS[name] for name in names for _ in range(40 if many else 1) if name not in ("large",) or not many]
    expected = [eager(predict.model, x) for x in xs]
    assert_all_close(predict.map(xs), expected)
    assert_all_close(predict.map(tuple(xs)), expected)
    assert_all_close(predict.options(priority=1).map(xs), expected)


@pytest.mark.parametrize("bad", [draw(1, 5), "text", None, draw(1, 4).requires_grad_()])
def test_a_bad_item_hurts_only_itself(predict: torchpool.Predictor, bad: Any) -> None:
    xs = [*draws(60, 1, 4), bad, *draws(60, 1, 4)]
    results = list(predict.map(xs, return_exceptions=True))
    assert isinstance(results[60], Exception)
    expected = [eager(predict.model, x) for x in draws(60, 1, 4)]
    assert_all_close(results[:60], expected)
    assert_all_close(results[61:], expected)
    taken = []
    with pytest.raises(type(results[60])) as raised:
        for result in predict.map(xs):
            taken.append(result)
    assert_all_close(taken, expected)
    assert str(raised.value) == str(results[60])


def test_what_is_written_after_the_call_does_not_reach_it(predict: torchpool.Predictor) -> None:
    xs = draws(50, 1, 4)
    expected = [eager(predict.model, x) for x in xs]
    results = predict.map(xs)
    for x in xs:
        x.zero_()
    assert_all_close(results, expected)


def test_a_list_is_read_as_far_as_it_goes(predict: torchpool.Predictor) -> None:
    xs = draws(3, 1, 4)
    results = predict.map(xs, buffersize=2)
    xs += draws(2, 1, 4)  # what the list has by the time that it is read
    assert len(list(results)) == 5
    assert len(results) == 0
    with pytest.raises(StopIteration):
        next(results)


def test_rows_of_a_tensor_are_calls(predict: torchpool.Predictor) -> None:
    rows = draw(150, 4)
    assert_all_close(predict.map(rows), [eager(predict.model, row) for row in rows])
    assert_all_close(predict.map(rows.numpy()), [eager(predict.model, row) for row in rows])


def test_threads_may_share_one_map(predict: torchpool.Predictor) -> None:
    xs = draws(400, 1, 4)
    results = predict.map(xs)
    taken = run_threads(4, lambda _: list(results))
    got = sorted(float(y.sum()) for part in taken for y, _ in part)
    assert len(got) == 400
    assert_close(torch.tensor(got), torch.tensor(sorted(float(eager(predict.model, x)[0].sum()) for x in xs)))


def test_a_change_of_the_model_between_two_fills_is_seen() -> None:
    model = build(Scores)
    with torchpool.wrap(model) as predict:
        predict(draw(1, 4))
        assert predict.ready()
        xs = draws(40, 1, 4)
        before = [eager(model, x) for x in xs]
        results = predict.map(xs, buffersize=8)
        got = [next(results)]
        with predict.updating(), torch.no_grad():
            model.linear.weight.mul_(2.0)
        after = [eager(model, x) for x in xs]
        got += results
        assert_close(got[0], before[0])
        assert_all_close(got[8:], after[8:])  # submitted later
        for result, old, new in zip(got[1:8], before[1:8], after[1:8], strict=True):
            assert any(torch.allclose(result[0], one[0]) for one in (old, new))


def test_closing_the_predictor_ends_the_map() -> None:
    predict = torchpool.wrap(build(Scores))
    predict(draw(1, 4))
    assert predict.ready()
    results = predict.map(draws(1000, 1, 4), buffersize=4)
    next(results)
    predict.close()
    with pytest.raises(torchpool.Closed):
        list(results)


def test_a_map_that_is_dropped_lets_go_of_all(predict: torchpool.Predictor) -> None:
    class Holder(list[Tensor]):
        pass

    xs = Holder(draws(100, 1, 4))
    results = predict.map(xs)
    next(results)
    results.me = results  # type: ignore[attr-defined]
    gone = weakref.ref(results)
    del results
    gc.collect()
    assert gone() is None


def test_an_update_ends_before_later_items_are_submitted(predict: torchpool.Predictor) -> None:
    with predict.updating(), pytest.raises(RuntimeError, match="updating"):
        list(predict.map(draws(3, 1, 4)))
