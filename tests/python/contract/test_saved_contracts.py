"""batch= by hand, and what explain() says, saved and passed back: no probing, the same results."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from bad_models import Masked, Noted, Switched, batches_together, outcome, together
from support import assert_close, build, draw, draws, eager
from torch import nn

import torchpool

Tensor = torch.Tensor


def _layer() -> nn.Module:
    return nn.Linear(4, 3)


# --- batch= by hand ---------------------------------------------------------------------------------------------------


class Turned(nn.Module):
    """[4, B] to [3, B]: the rows are in dim 1."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x.T).T


def test_the_batch_dim_of_an_input_can_be_stated(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Turned), batch={"x": 1}, runtime=runtime)
    predict(draw(4, 1))
    assert batches_together(predict, runtime, [(draw(4, 1 + i % 2, seed=i),) for i in range(5)]) == 1
    assert predict.explain().contracts[0].inputs[0].batch_dim == 1


def test_the_batch_dim_of_an_output_can_be_stated(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Turned), batch={"x": 1, "output": 1}, runtime=runtime)
    predict(draw(4, 1))
    assert batches_together(predict, runtime, [(draw(4, 1, seed=i),) for i in range(5)]) == 1


def test_a_negative_dim_counts_from_the_end(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(build(Turned), batch={"x": -1}, example=draw(4, 1), runtime=runtime)
    assert batches_together(predict, runtime, [(draw(4, 1, seed=i),) for i in range(5)]) == 1


def test_a_plain_callable_merges_when_batch_is_given(runtime: torchpool.Runtime) -> None:
    predict = torchpool.wrap(lambda x: x * 2, batch={"x": 0}, runtime=runtime)
    predict(draw(1, 4))
    assert batches_together(predict, runtime, [(x,) for x in draws(5, 1, 4)]) == 1


def test_a_plain_callable_runs_alone_and_unprobed_without_example_and_batch() -> None:
    runs: list[int] = []

    def double(x: Tensor) -> Tensor:
        runs.append(len(x))
        return x * 2

    predict = torchpool.wrap(double)
    assert_close(predict(draw(2, 4)), draw(2, 4) * 2)
    assert_close(predict.submit(draw(3, 4)).result(), draw(3, 4) * 2)
    assert runs == [2, 3]
    assert "a plain callable is not probed unless example= or batch= is given" in str(predict.explain())


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        ({"x": 0}, r"batch={'x': 0} fails the check"),
        ({"x": 1, "output": 0}, r"dim 0 of output 'output' was stated as batch"),
        ({"y": 0}, r"batch= names no input or output of the model: \['y'\] \(inputs: \['x'\], outputs: \['output'\]\)"),
        ({"x": 5}, r"batch={'x': 5}: the input has 2 dims"),
    ],
    ids=["not the batch", "wrong output dim", "unknown name", "no such dim"],
)
def test_a_stated_batch_that_is_wrong_is_a_value_error(batch: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        torchpool.wrap(build(Turned), batch=batch, example=draw(4, 2))
    predict = torchpool.wrap(build(Turned), batch=batch)
    with pytest.raises(ValueError, match=words):
        predict(draw(4, 2))


@pytest.mark.parametrize("batch", [{"x": "zero"}, {3: 0}])
def test_a_batch_that_maps_no_names_to_dims_is_a_value_error(batch: Any) -> None:
    with pytest.raises(ValueError, match="batch must map names to dims"):
        torchpool.wrap(build(Turned), batch=batch)


def test_a_batch_that_is_no_mapping_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="batch must be None, False, a mapping"):
        torchpool.wrap(build(Turned), batch=3)


def test_batch_for_an_optional_input_is_no_error_where_it_is_not_passed() -> None:
    class Optional(nn.Module):
        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return x if mask is None else x * mask

    predict = torchpool.wrap(Optional().eval(), batch={"x": 0, "mask": 0})
    x, mask = draws(2, 1, 4)
    assert_close(predict(x), x)
    assert_close(predict(x, mask), x * mask)


def test_batch_false_gives_exactly_the_models_own_calls(runtime: torchpool.Runtime) -> None:
    runs: list[int] = []
    model = Noted(build(_layer), runs.append)
    predict = torchpool.wrap(model.eval(), batch=False, example=draw(1, 4), runtime=runtime)
    xs = draws(4, 2, 4)
    for x, y in zip(xs, together(predict, runtime, [(x,) for x in xs]), strict=True):
        assert torch.equal(y, eager(model.inner, x))
    assert runs == [2] * 4
    assert "merging is off (batch=False)" in str(predict.explain())


# --- saved and loaded -------------------------------------------------------------------------------------------------


def _saved(predict: torchpool.Predictor) -> dict[str, Any]:
    return json.loads(json.dumps(predict.explain().to_dict()))


def test_an_explanation_through_json_skips_probing(runtime: torchpool.Runtime) -> None:
    runs: list[int] = []
    model = Noted(build(_layer), runs.append).eval()
    saved = _saved(torchpool.wrap(model, example=draw(1, 4), backend="python"))
    assert len(runs) > 8, "probing runs the model some times"
    runs.clear()
    predict = torchpool.wrap(model, batch=saved, backend="python", runtime=runtime)
    assert runs == []
    predict(draw(1, 4))
    # To see what results hold beside tensors, whether context variables count (twice), and for the call.
    assert runs in ([1] * 3, [1] * 4)
    assert batches_together(predict, runtime, [(x,) for x in draws(5, 1, 4)]) == 1
    assert predict.explain().contracts == torchpool.Explanation.from_dict(saved).contracts
    assert predict.explain().max_batch == saved["max_batch"]


def test_an_explanation_may_be_passed_as_it_is(runtime: torchpool.Runtime) -> None:
    explanation = torchpool.wrap(build(_layer), example=draw(1, 4)).explain()
    for batch in (explanation, explanation.contracts[0], explanation.to_dict()):
        predict = torchpool.wrap(build(_layer), batch=batch, runtime=runtime)
        predict(draw(1, 4))
        assert batches_together(predict, runtime, [(x,) for x in draws(5, 1, 4)]) == 1


def test_a_saved_contract_keeps_its_padding(runtime: torchpool.Runtime) -> None:
    model = build(Masked)
    saved = _saved(torchpool.wrap(model, example=(draw(1, 9, 4), torch.ones(1, 9))))
    predict = torchpool.wrap(model, batch=saved, runtime=runtime)
    predict(draw(1, 5, 4), torch.ones(1, 5))
    calls = [(draw(1, 6 + i % 3, 4, seed=i), torch.ones(1, 6 + i % 3)) for i in range(6)]
    assert batches_together(predict, runtime, calls) == 1


def test_a_saved_contract_of_a_model_that_runs_alone_is_kept() -> None:
    runs: list[int] = []
    model = Noted(nn.Sequential(nn.Flatten(0), nn.Softmax(0)), runs.append).eval()
    saved = _saved(torchpool.wrap(model, example=draw(2, 1)))
    assert [contract["mode"] for contract in saved["contracts"]] == ["alone"]
    runs.clear()
    predict = torchpool.wrap(model, batch=saved)
    assert_close(predict(draw(2, 1)), eager(model.inner, draw(2, 1)))
    assert runs == [2]


class LeakyWhenTold(nn.Module):
    """Its rows are independent unless it is told to center them."""

    def forward(self, x: Tensor, center: bool = False) -> Tensor:
        return x - x.mean() if center else x * 2


def test_a_saved_contract_holds_only_for_equal_values(runtime: torchpool.Runtime) -> None:
    model = LeakyWhenTold().eval()
    first = torchpool.wrap(model, example=(draw(1, 4), False))
    predict = torchpool.wrap(model, batch=_saved(first), runtime=runtime)
    predict(draw(1, 4), False)
    predict(draw(1, 4), True)
    calls = [(x, bool(i % 2)) for i, x in enumerate(draws(8, 1, 4))]
    assert batches_together(predict, runtime, calls) == 1 + 4  # those of the saved value share one


def test_a_saved_contract_meets_a_call_of_other_sizes(runtime: torchpool.Runtime) -> None:
    class Doubled(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2

    saved = _saved(torchpool.wrap(Doubled().eval(), example=draw(1, 4)))
    predict = torchpool.wrap(Doubled().eval(), batch=saved, runtime=runtime)
    for size in (7, 4, 9):
        assert_close(predict(draw(1, size)), draw(1, size) * 2)
    batches_together(predict, runtime, [(draw(1, 3 + i % 2, seed=i),) for i in range(6)])


def test_a_saved_contract_for_other_dtypes_is_not_used(runtime: torchpool.Runtime) -> None:
    saved = _saved(torchpool.wrap(build(Switched), example=draw(1, 4)))
    model = build(Switched).double()
    predict = torchpool.wrap(model, batch=saved, runtime=runtime)
    predict(draw(1, 4).double())
    assert batches_together(predict, runtime, [(x.double(),) for x in draws(4, 1, 4)]) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda saved: saved["contracts"][0].pop("inputs"), "missing \\['inputs'\\]"),
        (lambda saved: saved["contracts"][0].update(version=99), "contract version 99 is not known"),
        (lambda saved: saved["contracts"][0]["inputs"][0].update(dtype="float99"), "'float99' is no torch dtype"),
        (lambda saved: saved["contracts"][0].update(values=[["how"]]), "values"),
        (lambda saved: saved.pop("backend"), "not an explanation"),
    ],
)
def test_a_damaged_explanation_is_a_value_error(change: Any, words: str) -> None:
    saved = _saved(torchpool.wrap(build(_layer), example=draw(1, 4)))
    change(saved)
    with pytest.raises(ValueError, match=words):
        torchpool.wrap(build(_layer), batch=saved)


def test_refresh_learns_again() -> None:
    runs: list[int] = []
    model = Noted(build(_layer), runs.append).eval()
    predict = torchpool.wrap(model, batch=_saved(torchpool.wrap(model, example=draw(1, 4))))
    predict(draw(1, 4))
    runs.clear()
    predict.refresh()
    assert "nothing learned yet" in str(predict.explain())
    assert_close(predict(draw(1, 4)), eager(model.inner, draw(1, 4)))
    assert len(runs) > 8
    assert predict.explain().contracts[0].mode == "merge"


def test_a_saved_contract_still_gives_typed_errors() -> None:
    saved = _saved(torchpool.wrap(build(_layer), example=draw(1, 4)))
    predict = torchpool.wrap(build(_layer), batch=saved)
    predict(draw(1, 4))
    for bad, cls in ((draw(1, 5), ValueError), (draw(1, 4).double(), TypeError)):
        result = outcome(predict, bad)
        assert type(result) is cls and "input 'input' has" in str(result)


def test_a_saved_contract_does_not_let_train_mode_through(seeded: None) -> None:
    model = build(lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 3)))
    saved = _saved(torchpool.wrap(model, example=draw(1, 4)))
    predict = torchpool.wrap(model.train(), batch=saved)
    with pytest.raises(ValueError, match="model is in train mode"):
        predict(draw(2, 4))
    model.eval()
    assert_close(predict(draw(2, 4)), eager(model, draw(2, 4)))
