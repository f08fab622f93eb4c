from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from genesis_sft.errors import InputError
from genesis_sft.evals.record import EvalRecord
from genesis_sft.evals.task_record import PartScore, TaskRecord
from genesis_sft.report import paired
from genesis_sft.report.changes import TaskChange
from genesis_sft.report.compare import compare
from tests.report.records import chat_answer, eval_record, held_out_record, task_record

# item 3 goes to wrong, items 4 to 8 go to right
BEFORE = [1.0, 1, 1, 1, 0, 0, 0, 0, 0, 0]
AFTER = [1.0, 1, 1, 0, 1, 1, 1, 1, 1, 0]


def one_task(before: TaskRecord, after: TaskRecord) -> TaskChange:
    return compare(eval_record(tasks=(before,)), eval_record(tasks=(after,))).tasks[0]


def test_a_benchmark_by_hand() -> None:
    change = one_task(task_record(BEFORE), task_record(AFTER))
    assert (change.before, change.after, change.difference) == pytest.approx((0.4, 0.8, 0.4))
    assert (change.to_right, change.to_wrong, change.n) == (5, 1, 10)
    # differences: five of +1, one of -1, four of 0; (6 - 10 * 0.16) / 9 / 10
    assert change.standard_error == pytest.approx(math.sqrt(4.4 / 90))
    assert change.before_standard_error == pytest.approx(math.sqrt(0.24 / 9))
    assert change.after_standard_error == pytest.approx(math.sqrt(0.16 / 9))
    assert change.p_value == pytest.approx(14 / 64)
    assert change.smallest_visible == pytest.approx(2.8 * math.sqrt(4.4 / 90))
    # 0.4 - 2 * 0.163 < 0.25 < 0.8 - 2 * 0.133
    assert (change.before_above_chance, change.after_above_chance) == (False, True)


def test_above_chance_means_two_standard_errors() -> None:
    # 6 of 10 has an error of 0.163: 0.273 are left after two errors, 0.110 after three
    six, five = [1.0] * 6 + [0.0] * 4, [1.0] * 5 + [0.0] * 5
    change = one_task(task_record(five), task_record(six))
    assert (change.before_above_chance, change.after_above_chance) == (False, True)


def test_items_are_paired_by_document_not_by_line() -> None:
    docs = [f"doc{index}" for index in range(10)]
    straight = one_task(task_record(BEFORE), task_record(AFTER))
    turned = one_task(task_record(BEFORE), task_record(AFTER[::-1], docs=docs[::-1]))
    assert turned == straight


def test_a_document_that_stands_twice_is_paired_twice() -> None:
    change = one_task(task_record([1.0, 0.0], docs=["same", "same"]), task_record([1.0, 1.0], docs=["same", "same"]))
    assert (change.n, change.to_right, change.to_wrong) == (2, 1, 0)


def test_few_flips_bound_from_below_what_could_have_been_seen() -> None:
    # nothing flipped: the standard error is 0, yet six flips of 24 are needed for 5 % in the exact test
    change = one_task(task_record([1.0, 0.0] * 12), task_record([1.0, 0.0] * 12))
    assert (change.standard_error, change.smallest_visible) == (0.0, 0.25)


def test_perplexity_is_compared_in_nats_per_word() -> None:
    change = one_task(task_record([-2.0, -4.0], metric="perplexity"), task_record([-1.0, -4.0], metric="perplexity"))
    assert (change.unit, change.before, change.after, change.difference) == ("nats per word", 3.0, 2.5, -0.5)
    assert change.standard_error == pytest.approx(0.5)  # differences -1 and 0: sd sqrt(0.5), over sqrt(2)
    assert change.gain == 0.5
    assert (change.to_right, change.to_wrong, change.before_above_chance) == (None, None, None)
    assert change.p_value is not None


def test_a_single_item_has_no_error_and_is_never_above_chance() -> None:
    change = one_task(task_record([1.0]), task_record([1.0]))
    assert (change.standard_error, change.smallest_visible, change.after_above_chance) == (None, None, False)
    assert change.p_value == 1.0


def test_held_out_loss_is_a_ratio_of_sums() -> None:
    before = eval_record(held_out=(held_out_record("a", [20, 60], [10, 30]), held_out_record("b", [30], [20])))
    after = eval_record(held_out=(held_out_record("a", [10, 54], [10, 30]), held_out_record("b", [30], [20])))
    comparison = compare(before, after)
    first = comparison.held_out[0]
    assert (first.before, first.after, first.difference) == pytest.approx((2.0, 1.6, -0.4))
    assert first.standard_error == pytest.approx(0.3)
    total = comparison.held_out_total
    assert total is not None
    assert (total.n_conversations, total.n_tokens) == (3, 60)
    assert (total.before, total.after, total.difference) == pytest.approx((110 / 60, 94 / 60, -16 / 60))


def test_stop_rate_by_hand() -> None:
    before = [chat_answer(name, ended=name in "ab", num_tokens=9) for name in "abcd"]
    after = [chat_answer(name, num_tokens=tokens) for name, tokens in zip("dcba", (1, 2, 4, 8), strict=True)]
    stop = compare(eval_record(chat=tuple(before)), eval_record(chat=tuple(after))).stop
    assert stop is not None
    assert (stop.before.count, stop.after.count, stop.to_ended, stop.to_not_ended) == (2, 4, 2, 0)
    assert (stop.after.low, stop.after.high) == pytest.approx((4 / 7.8416, 1.0))
    assert (stop.p_value, stop.before_median_tokens, stop.after_median_tokens) == (0.5, 9, 3)


def test_nothing_measured_is_an_empty_comparison() -> None:
    comparison = compare(eval_record(), eval_record())
    assert not any(comparison.to_json().values())
    assert comparison.table() == "Nothing was measured before and after."


def test_a_comparison_is_plain_json() -> None:
    record = eval_record(tasks=(task_record([1.0]),), chat=(chat_answer("a"),))
    json.dumps(compare(record, record).to_json(), allow_nan=False)


BASE = eval_record(
    tasks=(task_record([1.0, 0.0, 1.0], prompt_hashes=("p0", "p1", "p2"), target_hashes=("t0", "t1", "t2")),),
    plain_text=(held_out_record("sea", [9.0], [3]),),
    held_out=(held_out_record("mine", [2.0, 3.0], [4, 5]),),
    chat=(chat_answer("a"),),
)


@pytest.mark.parametrize(
    ("other", "names"),
    [
        (
            replace(BASE, tasks=()),
            "the one given as BEFORE asked piqa (3 items), the one given as AFTER asked no benchmark",
        ),
        (
            replace(BASE, tasks=(*BASE.tasks, task_record([1.0], task="mmlu"))),
            "BEFORE asked piqa (3 items), the one given as AFTER asked mmlu (1 item), piqa (3 items)",
        ),
        (replace(BASE, tasks=(task_record([1.0, 0.0, 1.0], metric="acc_norm"),)), "piqa (acc) stands only"),
        (
            replace(BASE, tasks=(task_record([1.0, 0.0, 1.0], surface="chat"),)),
            "asked piqa (3 items), the one given as AFTER asked piqa (chat) (3 items)",
        ),
        (
            replace(BASE, tasks=(task_record([1.0, 0.0, 1.0], num_fewshot=5),)),
            "asked piqa (3 items), the one given as AFTER asked piqa 5-shot (3 items)",
        ),
        (
            replace(BASE, tasks=(task_record([1.0, 0.0, 1.0], prompt_hashes=("p0", "other", "p2")),)),
            "the prompt of document doc1 of piqa (acc) has the hash p1 in BEFORE and other in AFTER",
        ),
        (
            replace(BASE, tasks=(task_record([1.0, 0.0, 1.0], target_hashes=("t0", "t1", "other")),)),
            "the right answer of document doc2 of piqa (acc) has the hash t2 in BEFORE and other in AFTER",
        ),
        (replace(BASE, plain_text=(held_out_record("other", [9.0], [3]),)), "passage of plain text sea stands only"),
        (
            replace(BASE, tasks=(task_record([1.0, 0.0]),)),
            "asked piqa (3 items), the one given as AFTER asked piqa (2 items)",
        ),
        (
            replace(BASE, tasks=(task_record([1.0, 0.0, 1.0], docs=["doc0", "doc1", "other"]),)),
            "a document of piqa (acc), doc2 stands only in the record given as BEFORE",
        ),
        (replace(BASE, held_out=(held_out_record("his", [2.0, 3.0], [4, 5]),)), "held-out source mine stands only"),
        (replace(BASE, held_out=(held_out_record("mine", [2.0, 3.0], [4, 6]),)), "held-out source mine has 2"),
        (replace(BASE, chat=(chat_answer("b"),)), "chat prompt a: "),
        (replace(BASE, chat=(chat_answer("a", messages=({"role": "user", "content": "Else?"},)),)), "chat prompt a: "),
        (replace(BASE, settings={"max_new_tokens": 64}), "the setting max_new_tokens has 256 in BEFORE and 64"),
    ],
)
def test_other_evaluations_are_refused_by_name(other: EvalRecord, names: str) -> None:
    with pytest.raises(InputError) as refused:
        compare(BASE, other)
    assert names in str(refused.value)
    assert refused.value.hint


def test_what_was_asked_is_compared_before_settings_and_hashes_are_shown_in_short() -> None:
    folders = [{"documents": {"piqa": digit * 64, "mmlu": "c" * 64}, "max_new_tokens": 256} for digit in "ab"]
    before, after = (replace(BASE, settings=one) for one in folders)
    with pytest.raises(InputError, match="asked piqa") as refused:
        compare(before, replace(after, tasks=()))
    assert "documents" not in str(refused.value)
    assert "--tasks, --limit and --surfaces" in str(refused.value.hint)
    with pytest.raises(InputError, match="max_new_tokens has 256 in BEFORE and 64 in AFTER"):
        compare(before, replace(after, settings=after.settings | {"max_new_tokens": 64}))
    with pytest.raises(InputError) as refused:
        compare(before, after)
    assert "the setting documents.piqa has aaaaaaaaaaaa… in BEFORE and bbbbbbbbbbbb… in AFTER" in str(refused.value)


def test_settings_that_change_no_outcome_may_differ() -> None:
    compare(BASE, replace(BASE, settings={"max_new_tokens": 256, "device": "cuda", "pass_tokens": 64}))


def test_a_damaged_record_is_refused() -> None:
    damaged = replace(BASE, tasks=(replace(BASE.tasks[0], doc_hashes=("doc0",)),))
    with pytest.raises(InputError, match="3 outcomes and 1 documents"):
        compare(damaged, BASE)


def test_an_empty_answer_does_not_count_as_ended() -> None:
    before = tuple(chat_answer(name) for name in "abc")
    after = (chat_answer("a", answer=" \n"), chat_answer("b", answer="", ended=False), chat_answer("c"))
    stop = compare(eval_record(chat=before), eval_record(chat=after)).stop
    assert stop is not None
    assert (stop.before.count, stop.after.count, stop.to_not_ended) == (3, 1, 2)
    assert (stop.before_empty, stop.after_empty) == (0, 2)


def test_another_number_of_threads_is_to_be_kept_in_mind() -> None:
    before, after = ({"max_new_tokens": 256, "threads": threads} for threads in (1, 2))
    comparison = compare(eval_record(settings=before), eval_record(settings=after))
    [note] = comparison.notes
    assert "threads 1 before training and threads 2 after" in note
    assert f"Keep in mind: {note}" in comparison.table()
    assert compare(eval_record(settings=before), eval_record(settings=before)).notes == ()


def test_records_without_hashes_of_prompts_are_compared_on_what_they_have() -> None:
    bare = replace(BASE, tasks=(task_record([1.0, 0.0, 1.0]),))
    assert compare(BASE, bare).tasks[0].n == compare(bare, BASE).tasks[0].n == 3


MMLU_DOCS = ("same", "a1", "same", "l1", "l2")
SUBJECTS = (PartScore("art", "humanities", 0, 0, 2), PartScore("law", "stem", 0, 0, 3))


def test_a_document_in_two_subjects_is_two_items_and_subjects_may_lie_in_another_order() -> None:
    before = task_record([1, 0, 0, 0, 0], docs=MMLU_DOCS, task="mmlu", subjects=SUBJECTS)
    straight = task_record([0, 0, 1, 0, 0], docs=MMLU_DOCS, task="mmlu", subjects=SUBJECTS)
    turned = task_record([1, 0, 0, 0, 0], docs=("same", "l1", "l2", "same", "a1"), task="mmlu", subjects=SUBJECTS[::-1])
    assert (one_task(before, straight).to_right, one_task(before, straight).to_wrong) == (1, 1)
    assert one_task(before, turned) == one_task(before, straight)


def test_mmlu_has_the_errors_of_its_subjects_and_its_groups() -> None:
    # cluster sums of (value - 0.4): before art 0.2, law -0.2: sqrt(2 * 0.08) / 5
    before = task_record([1, 0, 1, 0, 0], docs=MMLU_DOCS, task="mmlu", subjects=SUBJECTS)
    after = task_record([1, 1, 1, 1, 0], docs=MMLU_DOCS, task="mmlu", subjects=SUBJECTS)
    change = one_task(before, after)
    assert change.before_standard_error == pytest.approx(0.08)
    # differences sum to 1 of 2 and 1 of 3, on the whole 0.4: residuals 0.2 and -0.2
    assert change.standard_error == pytest.approx(0.08)
    assert change.p_value is not None
    assert change.p_value > 0.4  # two subjects: half of all signs are as far off
    assert [(one.name, one.n, one.before, one.after) for one in change.groups] == [
        ("humanities", 2, 0.5, 1.0),
        ("stem", 3, pytest.approx(1 / 3), pytest.approx(2 / 3)),
    ]
    assert [(one.low, one.high) for one in change.groups] == [(None, None)] * 2


def test_scores_of_one_surface_are_one_family() -> None:
    def scores(outcome: float) -> EvalRecord:
        return eval_record(
            tasks=(
                task_record([outcome] * 6, task="a"),  # six flips one way: 2 / 64
                task_record([0.0] * 6, task="b"),
                task_record([outcome] * 7, task="c", surface="chat"),
            )
        )

    a, b, c = compare(scores(0.0), scores(1.0)).tasks
    assert (a.p_value, a.p_holm) == (2 / 64, 4 / 64)
    assert (b.p_value, b.p_holm) == (1.0, 1.0)
    assert (c.p_value, c.p_holm, c.surface) == (2 / 128, 2 / 128, "chat")


def test_bits_per_byte_are_nats_over_ln_2_and_bytes() -> None:
    before = eval_record(held_out=(held_out_record("a", [math.log(2) * 40], [10], [20]),))
    after = eval_record(held_out=(held_out_record("a", [math.log(2) * 30], [10], [20]),))
    total = compare(before, after).held_out_total
    assert total is not None
    assert (total.before_bits_per_byte, total.after_bits_per_byte) == pytest.approx((2.0, 1.5))
    bare = eval_record(held_out=(held_out_record("a", [1.0], [10]),))
    [change] = compare(bare, bare).held_out
    assert change.before_bits_per_byte is None


def test_passages_of_plain_text_are_the_units_as_paragraphs_of_one_move_together() -> None:
    def passages(*losses: list[float]) -> EvalRecord:
        records = (held_out_record(f"p{number}", one, [10] * len(one)) for number, one in enumerate(losses))
        return eval_record(plain_text=tuple(records))

    before = passages(*([20.0, 20.0, 20.0] for _ in range(6)))
    shifts = (4.0, -2.0, 3.0, -1.0, 2.0, 1.0)
    after = passages(*([20.0 + shift] * 3 for shift in shifts))
    comparison = compare(before, after)
    total = comparison.plain_text_total
    assert total is not None
    expected = paired.compare_totals([60.0] * 6, [60 + 3 * shift for shift in shifts], [30] * 6)
    assert (total.n_conversations, total.n_tokens) == (6, 180)
    assert (total.standard_error, total.low, total.p_value) == (expected.standard_error, expected.low, expected.p_value)
    for one in comparison.plain_text:  # nothing can be told of a single passage
        assert (one.n_conversations, one.standard_error, one.low, one.high, one.p_value) == (1, None, None, None, None)


def test_bytes_of_plain_text_are_those_of_all_paragraphs() -> None:
    record = eval_record(plain_text=(held_out_record("sea", [math.log(2) * 30] * 2, [10, 10], [5, 25]),))
    total = compare(record, record).plain_text_total
    assert total is not None
    assert (total.before_bits_per_byte, total.after_bits_per_byte) == pytest.approx((2.0, 2.0))


def test_plain_text_is_compared_passage_by_passage_and_as_a_whole() -> None:
    before = eval_record(plain_text=(held_out_record("sea", [20, 60], [10, 30]), held_out_record("law", [30], [20])))
    after = eval_record(plain_text=(held_out_record("sea", [30, 66], [10, 30]), held_out_record("law", [30], [20])))
    comparison = compare(before, after)
    total = comparison.plain_text_total
    assert total is not None
    assert [one.source for one in comparison.plain_text] == ["sea", "law"]
    assert (total.n_conversations, total.difference) == (2, pytest.approx(16 / 60))
    assert (comparison.held_out, comparison.held_out_total) == ((), None)


def test_a_check_counts_only_answers_of_which_it_can_be_said() -> None:
    rule = ({"kind": "most_words", "count": 1},)
    before = (chat_answer("a", rules=rule, answer="Two words."), chat_answer("b", ended=False))
    after = (chat_answer("a", rules=rule, answer="One."), chat_answer("b"))
    rates = {rate.name: rate for rate in compare(eval_record(chat=before), eval_record(chat=after)).rates}
    obeys, ends = rates["obeys the instruction"], rates["ends its turn"]
    assert (obeys.before.count, obeys.after.count, obeys.after.n, obeys.to_yes, obeys.to_no) == (0, 1, 1, 1, 0)
    assert (ends.before.count, ends.after.count, ends.after.n, ends.better) == (1, 2, 2, "more")


def test_answers_to_instructions_are_no_part_of_the_stop_rate() -> None:
    rule = ({"kind": "most_words", "count": 1},)
    record = eval_record(chat=(chat_answer("a"), chat_answer("b", rules=rule, ended=False)))
    stop = compare(record, record).stop
    assert stop is not None
    assert (stop.after.count, stop.after.n) == (1, 1)


def test_another_programs_scores_are_compared_where_both_have_them() -> None:
    theirs = eval_record(
        settings={"made_by": "lm-evaluation-harness"},
        tasks=(task_record([1.0, 1.0, 1.0]), task_record([1.0], task="boolq")),
    )
    comparison = compare(BASE, theirs)
    assert [(one.task, one.to_right) for one in comparison.tasks] == [("piqa", 1)]
    assert comparison.held_out_total is None
    assert comparison.notes == ("Left out, as only one of the two evaluations has it in this form: boolq (acc).",)
    with pytest.raises(InputError, match="a benchmark score in common"):
        compare(BASE, replace(theirs, tasks=theirs.tasks[1:]))


def test_chat_scores_of_the_harness_are_not_compared_with_ours() -> None:
    ours = eval_record(tasks=(task_record([1.0], surface="chat"),))
    theirs = replace(ours, settings={"made_by": "lm-evaluation-harness"})
    assert len(compare(theirs, theirs).tasks) == 1
    with pytest.raises(InputError, match="a benchmark score in common"):
        compare(ours, theirs)
