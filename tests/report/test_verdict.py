from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from genesis_sft.report.compare import Comparison, HeldOutChange, StopChange, TaskChange
from genesis_sft.report.statistics import sign_test, wilson
from genesis_sft.report.verdict import Finding, headline, held_out_kind, judge, say_skipped, stop_kind, task_kind
from tests.report.records import task_change

EMPTY = Comparison(tasks=(), held_out=(), held_out_total=None, stop=None)
HELD_OUT = HeldOutChange("all sources", 40, 9000, before=2.0, after=1.8, difference=-0.2, standard_error=0.05)


def stop_change(before: int, after: int, n: int = 40, empty: int = 0) -> StopChange:
    to_ended, to_not_ended = max(0, after - before), max(0, before - after)
    p_value = sign_test(to_ended, to_not_ended)
    return StopChange(wilson(before, n), wilson(after, n), to_ended, to_not_ended, p_value, 256, 40, 0, empty)


def judged(**parts: Any) -> tuple[Finding, ...]:
    return judge(replace(EMPTY, **parts))


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "better"),
        ({"difference": -0.1}, "worse"),
        ({"difference": 0.041}, "better"),
        ({"difference": 0.04}, "open"),  # exactly two standard errors is no claim
        ({"difference": -0.039}, "open"),
        ({"p_value": 0.05}, "open"),
        ({"n": 9}, "open"),
        ({"n": 10}, "better"),
        ({"standard_error": None, "smallest_visible": None}, "open"),
        ({"before_above_chance": False, "after_above_chance": False}, "chance"),
        ({"before_above_chance": False}, "better"),
        ({"chance": None, "before_above_chance": None, "after_above_chance": None}, "better"),
    ],
)
def test_what_may_be_said_of_a_benchmark(fields: dict[str, Any], kind: str) -> None:
    assert task_kind(task_change(**fields)) == kind


def test_less_perplexity_is_better() -> None:
    nats = {"unit": "nats per word", "p_value": None, "chance": None, "before_above_chance": None}
    assert task_kind(task_change(difference=-0.1, after_above_chance=None, **nats)) == "better"
    assert task_kind(task_change(difference=0.1, after_above_chance=None, **nats)) == "worse"


def test_a_claim_names_values_error_and_flips() -> None:
    [finding] = judged(tasks=(task_change(),))
    assert finding.text == (
        "piqa (acc) rose from 40.0 % to 50.0 %: +10.0 ± 2.0 points (n = 1,000; 150 went to right, 50 to wrong)."
    )


def test_a_claim_says_when_chance_was_crossed() -> None:
    [rose] = judged(tasks=(task_change(before_above_chance=False),))
    [fell] = judged(tasks=(task_change(difference=-0.1, after_above_chance=False),))
    assert rose.text.endswith("Before, it was not above chance.")
    assert fell.text.endswith("It is no longer above chance.")


def test_what_cannot_be_told_says_what_could_have_been_seen() -> None:
    [finding] = judged(tasks=(task_change(n=24, difference=0.02, smallest_visible=0.25),))
    assert finding.kind == "open"
    assert finding.text.endswith("With 24 items only differences above 25.0 points could have been seen.")


def test_so_few_items_that_nothing_could_have_been_seen() -> None:
    [finding] = judged(tasks=(task_change(n=5, difference=0.02, smallest_visible=1.2),))
    assert finding.text.endswith("With 5 items no difference could have been seen.")


def test_a_benchmark_at_chance_says_nothing_even_where_it_moved() -> None:
    at_chance = task_change(before=0.2, after=0.26, before_above_chance=False, after_above_chance=False)
    [finding] = judged(tasks=(at_chance,))
    assert finding.kind == "chance"
    assert finding.text.endswith("it says nothing about this run.")


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({}, "better"),
        ({"difference": 0.2}, "worse"),
        ({"difference": -0.1}, "open"),
        ({"n_conversations": 9}, "open"),
        ({"standard_error": None}, "open"),
    ],
)
def test_what_may_be_said_of_held_out_loss(fields: dict[str, Any], kind: str) -> None:
    assert held_out_kind(replace(HELD_OUT, **fields)) == kind


def test_held_out_loss_is_said_in_nats() -> None:
    [finding] = judged(held_out_total=HELD_OUT)
    assert finding.text == (
        "Held-out loss fell from 2.000 to 1.800 nats per token: −0.200 ± 0.050 "
        "(40 conversations, 9,000 trained tokens)."
    )


def test_a_source_is_named_only_where_it_moved_against_the_total() -> None:
    with_it = replace(HELD_OUT, source="same")
    unclear = replace(HELD_OUT, source="unclear", difference=0.05)
    against = replace(HELD_OUT, source="against", after=2.2, difference=0.2)
    found = judged(held_out=(with_it, unclear, against), held_out_total=HELD_OUT)
    assert [(one.kind, one.subject) for one in found] == [("better", "held-out loss"), ("worse", "against")]


@pytest.mark.parametrize(
    ("before", "after", "kind"),
    [(3, 38, "better"), (38, 3, "worse"), (10, 10, "open"), (10, 15, "open"), (10, 16, "better")],
)
def test_the_stop_rate_needs_six_flips(before: int, after: int, kind: str) -> None:
    # 5 flips, all one way: p = 0.0625; 6: p = 0.031
    assert stop_kind(stop_change(before, after)) == kind


def test_a_model_that_does_not_stop_is_warned_of() -> None:
    assert [one.kind for one in judged(stop=stop_change(3, 10))] == ["warning", "better"]
    assert [one.kind for one in judged(stop=stop_change(3, 14))] == ["better"]  # 14 of 40: up to 0.505


def test_a_base_that_costs_nine_nats_a_word_is_warned_of() -> None:
    fields: dict[str, Any] = {"unit": "nats per word", "task": "lambada_openai", "metric": "perplexity"}
    published = task_change(before=math.log(3_360_048), **fields)
    [warning, _] = judged(tasks=(published,))
    assert warning.kind == "warning"
    assert "15.0 nats per word (perplexity 3,360,000)" in warning.text
    assert "warning" not in [one.kind for one in judged(tasks=(task_change(before=8.9, **fields),))]


def test_from_two_benchmarks_on_chance_is_mentioned() -> None:
    two = (task_change(), task_change(task="mmlu"))
    assert [one.kind for one in judged(tasks=two)] == ["better", "better", "note"]
    assert [one.kind for one in judged(tasks=two[:1])] == ["better"]


def test_the_published_table_is_read_with_care() -> None:
    # the table of the base model that this project was made for: winogrande below chance, piqa three errors above
    def published(task: str, value: float, n: int, chance: float) -> TaskChange:
        above = value - 2 * math.sqrt(value * (1 - value) / n) > chance
        return task_change(
            task=task, before=value, after=value, difference=0.0, n=n, chance=chance,
            before_above_chance=above, after_above_chance=above,
        )  # fmt: skip

    assert task_kind(published("winogrande", 0.4878, 1267, 0.5)) == "chance"
    assert task_kind(published("arc_easy", 0.2525, 2376, 0.25)) == "chance"
    assert task_kind(published("piqa", 0.5359, 1838, 0.5)) == "open"


def test_the_headline_counts_what_was_found() -> None:
    tasks = (
        task_change(),
        task_change(task="b", difference=-0.1),
        task_change(task="c", difference=0.01),
        task_change(task="d", before_above_chance=False, after_above_chance=False),
    )
    assert headline(judged(tasks=tasks, held_out_total=HELD_OUT)) == (
        "Of 5 measurements: 2 better, 1 worse, 1 cannot be told, 1 at chance, saying nothing."
    )
    assert headline(()) == "Nothing was measured before and after."


def test_a_model_that_says_nothing_is_warned_of_and_not_called_better() -> None:
    silent = judged(stop=stop_change(10, 0, empty=40))
    assert [(one.kind, one.subject) for one in silent] == [("warning", "empty answers"), ("worse", "stop rate")]
    assert silent[0].text.startswith("40 of 40 answers are empty after training, before 0.")
    assert [one.kind for one in judged(stop=stop_change(3, 36, empty=4))] == ["better"]  # exactly a tenth
    assert [one.kind for one in judged(stop=stop_change(3, 35, empty=5))] == ["warning", "better"]


def test_skipped_steps_are_warned_of() -> None:
    rows = [{"step": 1, "loss": 2.0, "skipped": False}, {"step": 2, "loss": None, "skipped": True}]
    text = say_skipped(rows)
    assert text.startswith("1 of 2 training steps were skipped (the first: step 2)")
    assert [(one.kind, one.text) for one in judge(EMPTY, text)] == [("warning", text)]
    assert say_skipped(rows[:1]) == ""
