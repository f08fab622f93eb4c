"""Scores without the benchmark items that stand in the training data, beside those with them."""

from dataclasses import replace

import pytest

from genesis_sft.errors import InputError
from genesis_sft.evals.task_record import PartScore
from genesis_sft.report.clean_subset import clean_subset_table, compare_untouched
from tests.report.records import eval_record, task_record


def samples(task, part, *docs):
    return [{"task": task, "part": part, "doc_id": number, "doc_hash": doc} for number, doc in enumerate(docs)]


ANATOMY, LAW = samples("mmlu", "mmlu_anatomy", "a0", "a1", "a2"), samples("mmlu", "mmlu_law", "l0", "l1", "l2")
DOCS = ("a0", "a1", "a2", "l0", "l1", "l2")


def records(**fields):
    before = eval_record(tasks=(task_record((1, 0, 0, 1, 0, 0), docs=DOCS, task="mmlu", **fields),))
    after = eval_record(tasks=(task_record((1, 0, 0, 1, 1, 1), docs=DOCS, task="mmlu", **fields),))
    return before, after


def test_touched_items_are_left_out_of_both_scores_by_subject():
    (change,) = compare_untouched(*records(), ANATOMY + LAW, {"mmlu_law": [1], "mmlu_anatomy": [1], "piqa": [0]})
    assert change.num_touched == 2  # a1 and l1
    assert (change.whole.n, change.whole.before, change.whole.difference) == (6, 2 / 6, pytest.approx(2 / 6))
    assert change.clean is not None
    assert (change.clean.n, change.clean.before, change.clean.after) == (4, 0.5, 0.75)


def test_the_lines_may_lie_in_another_order_after():
    before, _ = records()
    turned = task_record((1, 1, 1, 0, 0, 1), docs=DOCS[::-1], task="mmlu")
    (change,) = compare_untouched(before, eval_record(tasks=(turned,)), ANATOMY + LAW, {"mmlu_law": [1, 2]})
    assert change.clean is not None
    assert (change.clean.before, change.clean.after) == (0.5, 0.5)


def test_a_benchmark_without_touched_items_is_not_shown():
    assert compare_untouched(*records(), ANATOMY + LAW, {"piqa": [0, 1]}) == ()
    assert compare_untouched(*records(), ANATOMY + LAW, {"mmlu_law": [3]}) == ()  # not among those asked


def test_chance_is_that_of_the_other_items():
    before, after = records(num_choices=(2, 2, 2, 4, 4, 4), chance=0.375)
    (change,) = compare_untouched(before, after, ANATOMY + LAW, {"mmlu_anatomy": [0, 1, 2]})
    assert change.clean is not None
    assert change.clean.chance == 0.25


def test_subjects_and_hashes_of_what_is_left_stay_with_their_items():
    subjects = (PartScore("anatomy", "stem", 0.0, 0.0, 3), PartScore("law", "humanities", 0.0, 0.0, 3))
    hashes = {"prompt_hashes": tuple(f"p-{doc}" for doc in DOCS), "target_hashes": tuple(f"t-{doc}" for doc in DOCS)}
    before, after = records(subjects=subjects, **hashes)
    (change,) = compare_untouched(before, after, ANATOMY + LAW, {"mmlu_law": [0, 1], "mmlu_anatomy": [1]})
    assert change.clean is not None
    assert [(one.name, one.n, one.before, one.after) for one in change.clean.groups] == [
        ("stem", 2, 0.5, 0.5),
        ("humanities", 1, 0.0, 1.0),
    ]
    # a1 goes: had its prompt's hash stayed, a2 would have it on one side only
    turned = replace(after, tasks=(replace(after.tasks[0], prompt_hashes=("p-a0", "x", *hashes["prompt_hashes"][2:])),))
    with pytest.raises(InputError, match="the prompt of document anatomy/a1"):
        compare_untouched(before, turned, ANATOMY + LAW, {"mmlu_anatomy": [1]})


def test_the_table_has_all_items_beside_the_others_and_a_dash_where_none_are_left():
    before = eval_record(
        tasks=(
            task_record((1, 0, 0, 1), docs=("p0", "p1", "p2", "p3")),
            task_record((-1.0, -3.0), docs=("x0", "x1"), task="lambada", metric="perplexity"),
            task_record((0, 1), docs=("h0", "h1"), task="hellaswag"),
        )
    )
    asked = [
        *samples("piqa", "piqa", "p0", "p1", "p2", "p3"),
        *samples("lambada", "lambada_openai", "x0", "x1"),
        *samples("hellaswag", "hellaswag", "h0", "h1"),
    ]
    touched = {"piqa": [0], "lambada_openai": [1], "hellaswag": [0, 1]}
    table = clean_subset_table(compare_untouched(before, before, asked, touched))
    # without flips Tango's interval of n items reaches to 3.8416 / (n + 3.8416); of three items 56.2 %, of four 49.0 %
    assert table.rows == (
        (
            *("piqa", "acc", "4", "1", "50.0 %", "50.0 %", "0.0 (−49.0 to 49.0) points"),
            *("33.3 %", "33.3 %", "0.0 (−56.2 to 56.2) points"),
        ),
        (
            *("lambada", "perplexity", "2", "1", "7.39", "7.39", "0.000 (0.000 to 0.000) nats"),
            *("2.72", "2.72", "0.000 nats"),
        ),
        ("hellaswag", "acc", "2", "2", "50.0 %", "50.0 %", "0.0 (−65.8 to 65.8) points", "–", "–", "–"),
    )
    assert len(table.columns) == len(table.align) == 10
