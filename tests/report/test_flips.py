from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.errors import InputError
from genesis_sft.report.flip_parts import html_flips
from genesis_sft.report.flips import find_flips, picked
from tests.report.records import task_change


def row(doc_id: int, right: bool, log_likelihoods: tuple[float, ...] = (-1.0, -2.0), **fields: Any) -> dict[str, Any]:
    values: dict[str, Any] = {
        "task": "piqa", "part": "piqa", "surface": "raw", "num_fewshot": 0, "doc_id": doc_id,
        "log_likelihoods": log_likelihoods, "outcomes": {"acc": float(right)}, "text": f"Question {doc_id}",
        "choices": ["Turn the lid.", "Turn."], "target": 0,
    }  # fmt: skip
    return values | fields


def test_flips_each_way_with_what_was_chosen() -> None:
    before = [row(0, False, (-3.0, -2.0)), row(1, True), row(2, True), row(3, True)]
    after = [row(2, True), row(3, False, (-5.0, -4.0)), row(1, False, (-3.0, -2.5)), row(0, True, (-1.0, -2.0))]
    [flips] = find_flips([task_change()], before, after)
    assert (flips.task, flips.to_right, flips.to_wrong) == ("piqa", 1, 2)
    [example] = flips.examples_to_right
    assert (example.doc_id, example.text, example.choices) == (0, "Question 0", ("Turn the lid.", "Turn."))
    assert (example.right, example.before, example.after) == (0, 1, 0)
    assert (example.log_likelihoods_before, example.log_likelihoods_after) == ((-3.0, -2.0), (-1.0, -2.0))
    assert [one.doc_id for one in flips.examples_to_wrong] == [1, 3]


def test_a_word_of_lambada_has_no_choices() -> None:
    word: dict[str, Any] = {"task": "lambada", "choices": [], "target": "ferry"}
    change = task_change(task="lambada")
    [flips] = find_flips([change], [row(0, False, (-3.0,), **word)], [row(0, True, (-0.5,), **word)])
    [example] = flips.examples_to_right
    assert (example.choices, example.right, example.before, example.after) == (("ferry",), 0, None, None)
    assert "<td>right</td>" in re.sub(r"<td[^>]*>", "<td>", html_flips([flips]))


def test_choices_that_read_the_same_are_told_apart_by_their_number() -> None:
    alike: dict[str, Any] = {"choices": ["Turn.", "Turn.", "Wait."], "target": 1}
    before, after = row(0, False, (-1.0, -2.0, -3.0), **alike), row(0, True, (-3.0, -1.0, -2.0), **alike)
    notes = re.findall(r"<td[^>]*>([^<]*)</td>\s*</tr>", html_flips(find_flips([task_change()], [before], [after])))
    assert notes == ["chosen before", "right, chosen after", ""]


@pytest.mark.parametrize("target", [-1, 2, "Turn."])
def test_a_right_answer_that_is_none_of_the_choices_is_refused(target: object) -> None:
    with pytest.raises(InputError, match=r"one that is damaged"):
        find_flips([task_change()], [row(0, False, target=target)], [row(0, True, target=target)])


def test_acc_norm_picks_by_log_likelihood_a_character() -> None:
    # -6 / 13 = -0.46, -4 / 5 = -0.8
    choices = ["Turn the lid.", "Turn."]
    assert picked((-6.0, -4.0), choices, "acc") == 1
    assert picked((-6.0, -4.0), choices, "acc_norm") == 0
    assert picked((-2.0, -2.0), ["a", "b"], "acc") == 0


def test_a_surface_has_its_own_flips_and_nats_have_none() -> None:
    chat = {"surface": "chat"}
    before, after = [row(0, False), row(0, True, **chat)], [row(0, True), row(0, True, **chat)]
    changes = [task_change(surface="chat"), task_change(), task_change(metric="perplexity", unit="nats per word")]
    assert [(one.surface, one.to_right) for one in find_flips(changes, before, after)] == [("raw", 1)]


def test_examples_are_spread_over_all_subjects() -> None:
    before = [row(number, False) for number in range(100)]
    after = [row(number, True) for number in range(100)]
    [flips] = find_flips([task_change()], before, after, examples=4)
    assert [one.doc_id for one in flips.examples_to_right] == [0, 25, 50, 75]
    assert flips.examples_to_wrong == ()


def test_rows_of_other_items_are_refused() -> None:
    with pytest.raises(InputError, match="an item 1 of piqa, raw, 0-shot, stands only in the record given as BEFORE"):
        find_flips([task_change()], [row(0, True), row(1, True)], [row(0, True)])


@settings(deadline=None)
@given(
    st.dictionaries(
        st.sampled_from(list(row(0, True))),
        st.none() | st.integers(-3, 9) | st.text(max_size=3) | st.lists(st.floats(), max_size=3),
        max_size=3,
    )
)
def test_damaged_rows_are_refused_as_such(fields: dict[str, Any]) -> None:
    with suppress(InputError):  # any other exception fails
        find_flips([task_change()], [row(0, False) | fields], [row(0, True) | fields])
