from __future__ import annotations

import copy
import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.report.differing import Difference, differing_lines, differing_values

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(JSON)
def test_equal_values_do_not_differ(value: Any) -> None:
    assert list(differing_values("f", value, copy.deepcopy(value))) == []


@given(JSON, JSON)
def test_values_whose_json_is_another_differ(one: Any, other: Any) -> None:
    same = json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
    if not same and one != other:
        assert list(differing_values("f", one, other))


def test_each_field_is_named_with_both_values() -> None:
    found = {"a": [1, {"b": 2}], "c": "x", "only": True}
    expected = {"a": [1, {"b": 3}], "c": "x", "missing": None}
    assert list(differing_values("f.json", found, expected)) == [
        Difference("f.json", "a.1.b", "2", "3"),
        Difference("f.json", "missing", "nothing", "null"),
        Difference("f.json", "only", "true", "nothing"),
    ]


def test_a_number_is_not_the_truth_value_that_equals_it() -> None:
    assert list(differing_values("f", [1], [True]))
    assert list(differing_values("f", [1], [1.0]))
    assert not list(differing_values("f", [1], [1.0], close=True))


def test_close_numbers_are_the_same_only_where_that_is_asked() -> None:
    assert list(differing_values("f", 0.1 + 0.2, 0.3))
    assert not list(differing_values("f", 0.1 + 0.2, 0.3, close=True))
    assert list(differing_values("f", 0.3001, 0.3, close=True))


def test_the_first_line_that_differs_is_named_around_the_place() -> None:
    long = "x" * 500
    assert list(differing_lines("f", "a\nb\nc", "a\nB\nd")) == [Difference("f", "line 2", '"b"', '"B"')]
    (one,) = differing_lines("f", f"{long}1{long}", f"{long}2{long}")
    assert one.found.startswith('"xxxxx')
    assert one.found.lstrip('"x')[0] == "1"
    (one,) = differing_lines("f", "a", "a\nb")
    assert one == Difference("f", "line 2", "nothing", '"b"')
