"""Values of programs survive being written as json; what has no form is named."""

from __future__ import annotations

import enum
import json
import math
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import draw

from torchpool.call import tree
from torchpool.capture import NotWritten, Reader, Writer
from torchpool.capture.program import Instruction, Slot


class Colour(enum.Enum):
    RED = 1


class Pair(NamedTuple):
    a: Any
    b: Any


@dataclass
class Holder:
    inside: Any


def again(value: Any) -> Any:
    writer = Writer()
    text = json.dumps(writer.write(value), allow_nan=False)
    return Reader(writer.tensors).read(json.loads(text))


PLAIN = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.complex_numbers(allow_nan=False),
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(st.text() | st.integers(), inner)
        | st.frozensets(st.integers() | st.text())
    ),
    max_leaves=20,
)


@given(PLAIN)
def test_plain_values_come_back(value: Any) -> None:
    found = again(value)
    assert found == value
    assert repr(found) == repr(value) or isinstance(value, dict | frozenset | list | tuple)


@pytest.mark.parametrize(
    "value",
    [
        *(torch.float32, torch.int64, torch.device("cpu"), torch.strided, torch.channels_last, torch.Size([2, 3])),
        *(range(1, 9, 2), ..., Colour.RED, Holder, math.inf, -math.inf, -0.0, True, 1, {1: 2, "1": 3}),
        Instruction("aten::add", "Tensor", (Slot(1), [Slot(2), 3]), {"alpha": 2.5}, (3,)),
    ],
)
def test_values_of_programs_come_back(value: Any) -> None:
    found = again(value)
    assert found == value
    assert type(found) is type(value)
    assert repr(found) == repr(value)


def test_no_number_comes_back_as_none() -> None:
    assert math.isnan(again(math.nan))


@pytest.mark.parametrize(
    "value",
    [
        {"a": draw(2), "b": [draw(1), (draw(1), 3.0)]},
        *(Pair(draw(1), 1), Holder({"x": draw(1)}), OrderedDict(a=draw(1)), torch.max(draw(2, 3), 1), draw(2)),
        {"colour": Colour.RED, "kind": Holder},
    ],
)
def test_structures_come_back(value: Any) -> None:
    leaves, spec = tree.flatten(value)
    found = again(spec)
    assert found == spec
    assert repr(found) == repr(spec)
    assert type(found.rebuild(leaves)) is type(value)


def test_a_tensor_is_written_once() -> None:
    writer = Writer()
    x = draw(2)
    assert writer.write([x, (x, draw(3))]) == [{"$tensor": 0}, {"$tuple": [{"$tensor": 0}, {"$tensor": 1}]}]


class _Local:
    pass


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (object(), "a value of type builtins.object is no plain value"),
        (tree.flatten({"a": _Local()})[1], "test_written._Local is no plain value"),
        (tree.flatten(defaultdict(lambda: 1))[1], "builtins.function|type function"),
        (draw(2).to_sparse(), "of layout torch.sparse_coo"),
        (torch.empty(2, device="meta"), "on meta"),
        (type("Unfound", (), {}), "Unfound is not found again by its name"),
    ],
)
def test_what_has_no_form_is_named(value: Any, text: str) -> None:
    with pytest.raises(NotWritten, match=text):
        Writer().write(value)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        ({"$tensor": 1}, "there is no tensor 1"),
        ({"$tensor": True}, "there is no tensor True"),
        ({"$dtype": "nn"}, "torch.nn is no dtype"),
        ({"$dtype": 3}, "malformed"),
        ({"$enum": ["builtins:int", "x"]}, "is no enum"),
        ({"$class": "os:path"}, "is no class"),
        ({"$float": "1"}, "malformed"),
        ({"a": 1, "b": 2}, "expected a value or a mapping of one entry"),
        (
            {"$tree": {"$tuple": ["list", {"$class": "builtins:int"}, {"$tuple": []}, {"$tuple": []}, 0]}},
            "cannot be of",
        ),
        (
            {"$tree": {"$tuple": ["list", {"$class": "builtins:list"}, {"$tuple": [0]}, {"$tuple": []}, 0]}},
            "as many labels as children",
        ),
        ({"$tree": {"$tuple": [1, 2]}}, "has five entries"),
    ],
)
def test_what_nobody_has_written_is_refused(data: Any, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Reader([draw(1)]).read(data)
