"""Taking nested values apart and putting them together: every container, in both directions."""

from __future__ import annotations

import collections
import dataclasses
import math
import pickle
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BatchEncoding
from transformers.modeling_outputs import BaseModelOutputWithPooling

from torchpool.call.tree import TreeSpec, flatten

A, B = torch.arange(3.0), torch.ones(2, 2)


class Pair(NamedTuple):
    left: Any
    right: Any


class StrictPair(Pair):
    """A named tuple whose constructor takes other arguments."""

    def __new__(cls, total: float) -> StrictPair:
        return tuple.__new__(cls, (total, total))


@dataclasses.dataclass(frozen=True)
class Frozen:
    value: Any
    doubled: Any = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "doubled", self.value * 2)


@dataclasses.dataclass(slots=True)
class Slotted:
    value: Any
    label: str = "x"


class Tagged(dict):  # type: ignore[type-arg]
    """A dict with an attribute beside its items."""


def swapped(obj: Any) -> Any:
    """The value rebuilt with copies of its leaves, so that a kept original would be seen."""
    leaves, spec = flatten(obj)
    return spec.rebuild([leaf + 1 for leaf in leaves])


def test_a_bare_tensor_is_its_own_leaf() -> None:
    leaves, spec = flatten(A)
    assert leaves == [A] and spec.is_single_tensor and spec.leaf_names == ("output",)
    assert spec.rebuild([B]) is B


@pytest.mark.parametrize(
    ("value", "names"),
    [
        ((A, B), ("0", "1")),
        ([A, [B]], ("0", "1[0]")),
        ({"logits": A, "hidden_states": (A, B)}, ("logits", "hidden_states[0]", "hidden_states[1]")),
        ({"a": {"b": A}}, ("a.b",)),
        (Pair(A, [B, 1]), ("left", "right[0]")),
        (Slotted(A), ("value",)),
        (None, ()),
        ((A, None, 2, "text"), ("0",)),
        (collections.OrderedDict(z=A, a=B), ("z", "a")),
    ],
    ids=lambda value: type(value).__name__,
)
def test_round_trip_keeps_type_structure_and_names(value: Any, names: tuple[str, ...]) -> None:
    leaves, spec = flatten(value)
    again = spec.rebuild(leaves)
    assert spec.leaf_names == names and type(again) is type(value)
    assert flatten(again)[1] == spec and all(a is b for a, b in zip(flatten(again)[0], leaves, strict=True))


def test_dicts_keep_insertion_order() -> None:
    assert list(swapped({"z": A, "a": B})) == ["z", "a"]
    assert flatten({"z": A, "a": B})[1] != flatten({"a": B, "z": A})[1]


def test_named_tuple_constructor_is_not_called() -> None:
    pair = swapped(StrictPair(A))  # type: ignore[arg-type]
    assert type(pair) is StrictPair and torch.equal(pair.left, A + 1) and torch.equal(pair.right, A + 1)


def test_return_types_of_torch() -> None:
    values, indices = swapped(torch.return_types.max((A, A.long())))
    assert torch.equal(values, A + 1) and torch.equal(indices, A.long() + 1)
    assert flatten(B.max(0))[1].leaf_names == ("values", "indices")


def test_frozen_dataclass_with_derived_field() -> None:
    original = Frozen(A)
    again = swapped(original)
    assert torch.equal(again.value, A + 1) and torch.equal(again.doubled, A * 2 + 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        again.value = B


def test_model_output_keeps_keys_attributes_and_none() -> None:
    output = swapped(BaseModelOutputWithPooling(last_hidden_state=A, pooler_output=B))
    assert type(output) is BaseModelOutputWithPooling and list(output) == [
        "last_hidden_state",
        "pooler_output",
    ]
    assert output["pooler_output"] is output.pooler_output and torch.equal(output.pooler_output, B + 1)
    assert output.attentions is None and output[0] is output.last_hidden_state
    assert len(output.to_tuple()) == 2


def test_batch_encoding() -> None:
    encoding = swapped(BatchEncoding({"input_ids": A, "attention_mask": B}))
    assert type(encoding) is BatchEncoding and torch.equal(encoding["input_ids"], A + 1)


def test_dict_subclasses_keep_what_lies_beside_their_items() -> None:
    tagged = Tagged(a=A)
    tagged.tag = B  # type: ignore[attr-defined]
    again = swapped(tagged)
    assert torch.equal(again["a"], A + 1) and torch.equal(again.tag, B + 1) and list(again) == ["a"]
    default = swapped(collections.defaultdict(list, a=A))
    assert default["missing"] == [] and torch.equal(default["a"], A + 1)


def test_constants_compare_by_type_and_value() -> None:
    def spec(value: Any) -> TreeSpec:
        return flatten((A, value))[1]

    assert spec(1) == spec(1) and spec(math.nan) == spec(float("nan")) and hash(spec("a")) == hash(spec("a"))
    assert spec(1) != spec(True) and spec(1) != spec(1.0) and spec(0.0) != spec(-0.0) and spec(None) != spec(0)
    assert spec({1: 2}) != spec({True: 2}) and spec([1]) != spec((1,)) and spec(torch.float32) != spec(torch.int8)


def test_objects_are_equal_only_to_themselves() -> None:
    thing, other = [object() for _ in range(2)]
    assert flatten((A, thing))[1] == flatten((B, thing))[1] != flatten((A, other))[1]
    assert flatten((A, thing))[1].opaque() == [("1", thing)]
    assert flatten((A, 1, "a"))[1].opaque() == [] and flatten((A, 1))[1].constants() == [("1", 1)]


def test_wrong_number_of_leaves_is_an_error() -> None:
    with pytest.raises(ValueError, match="expected 2 leaves, got 1"):
        flatten((A, B))[1].rebuild([A])


def test_specs_pickle() -> None:
    for value in (A, {"a": (A, math.nan)}, Pair(A, 1)):
        spec = flatten(value)[1]
        assert pickle.loads(pickle.dumps(spec)) == spec


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return a is b
    if type(a) is not type(b):
        return False
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, Slotted):
        return same(a.value, b.value) and a.label == b.label
    return a == b or (a != a and b != b)


atoms = st.one_of(st.builds(torch.zeros, st.just(1)), st.none(), st.booleans(), st.integers(), st.floats(), st.text())
trees = st.recursive(
    atoms,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.lists(inner, max_size=3).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=3), st.integers(0, 3)), inner, max_size=3),
        st.builds(Pair, inner, inner),
        st.builds(Slotted, inner, st.text(max_size=2)),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(trees)
def test_any_tree_survives_the_round_trip(tree: Any) -> None:
    leaves, spec = flatten(tree)
    again = spec.rebuild(leaves)
    assert same(again, tree) and len(spec.leaf_names) == len(leaves) == spec.num_leaves
    assert flatten(again)[1] == spec and hash(flatten(again)[1]) == hash(spec)
