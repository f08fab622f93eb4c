from dataclasses import replace

import pytest

from genesis_sft.evals.record import ChatAnswer, EvalRecord, HeldOutRecord
from genesis_sft.evals.table import interval_of
from genesis_sft.evals.task_record import PartScore, TaskRecord

PIQA = TaskRecord("piqa", "acc", 0.54, 0.0116, 1838, 0.5, (), ())
STEM = PartScore("stem", "stem", 0.275, 0.01, 3153)
MMLU = TaskRecord("mmlu", "acc", 0.2567, 0.005, 14042, 0.25, (), (), subjects=(STEM,), groups=(STEM,))
LAMBADA = TaskRecord("lambada_oneline", "perplexity", 50.0, 10.0, 60, None, (), ())


def test_every_score_has_its_interval_chance_and_a_note_when_it_says_nothing():
    """Intervals by hand: 0.2567 +- 1.96 * 0.005; 50 / e^0.392 and 50 * e^0.392; Wilson's of 993 of 1838."""
    assert EvalRecord("f", {}, {}, (PIQA, MMLU, LAMBADA)).table().split("\n") == [
        "task             metric       value     95 % interval  chance      n",
        "piqa             acc         0.5400  0.5174 to 0.5629  0.5000   1838",
        "mmlu             acc         0.2567  0.2469 to 0.2665  0.2500  14042  not above chance",
        "  stem           acc         0.2750  0.2554 to 0.2946  0.2500   3153",
        "lambada_oneline  perplexity      50       33.79 to 74       -     60",
        "not above chance: mmlu. Guessing may score as much: this score says nothing about this model.",
    ]


def test_surfaces_stand_apart_and_raw_comes_first():
    chat = replace(PIQA, surface="chat", num_fewshot=2)
    winogrande = replace(PIQA, task="winogrande", surface="chat")
    lines = EvalRecord("f", {}, {}, (chat, winogrande, PIQA)).table().split("\n")
    assert [line.split("  ")[0] for line in lines] == [
        "raw: as plain text",
        "task",
        "piqa",
        "",
        "chat: as a conversation (not to be compared with raw)",
        "task",
        "piqa 2-shot",
        "winogrande",
        "note: on the chat surface winogrande asks an assistant to go on with the user's text: a change there says "
        "little",
    ]


def test_the_other_parts_follow():
    answer = ChatAnswer("owl", (), "me", None, ended=True, num_tokens=3, sample=False, written="me<|im_end|>")
    told = replace(answer, rules=({"kind": "most_words", "count": 3},))
    record = EvalRecord(
        "f",
        {},
        {},
        tasks=(replace(PIQA, num_truncated=2),),
        held_out=(HeldOutRecord("sums", 1.5, 0.25, 1234, 2, (), (), ()),),
        chat=(answer, replace(answer, ended=False), told),
        plain_text=(
            HeldOutRecord("a", 2.0, 0.0, 10, 2, (0, 1), (13.0, 7.0), (6, 4)),  # paragraphs, which move together
            HeldOutRecord("b", 1.0, 0.0, 30, 1, (0,), (30.0,), (30,)),
        ),
    )
    lines = record.table().split("\n")
    assert lines[2:6] == [
        "note: 2 requests were longer than the model's context and lost their beginning",
        "held-out sums: 1.5000 ± 0.2500 nats/token (2 conversations, 1,234 trained tokens)",
        # 50 nats over 40 tokens; residuals 7.5 and -7.5: sqrt(2 / 1 * 2 * 7.5^2) / 40
        "plain text: 1.2500 ± 0.3750 nats/token (2 passages, 40 tokens)",
        "chat prompts answered to the end: 1 of 2 (95 % interval 9% to 91%)",
    ]
    assert "chat answers, ends its turn (more is better): 2 of 3 (95 % interval 21% to 94%)" in lines
    assert any(line.startswith("chat answers, obeys the instruction (more is better): 1 of 1") for line in lines)
    assert EvalRecord("f", {}, {}).table() == ""


def test_one_of_a_kind_is_said_in_the_singular():
    one = HeldOutRecord("sums", 1.5, 0.0, 1, 1, (0,), (1.5,), (1,))
    lines = EvalRecord("f", {}, {}, held_out=(one,), plain_text=(one,)).table().split("\n")
    assert [line.partition("token ")[2] for line in lines] == [
        "(1 conversation, 1 trained token)",
        "(1 passage, 1 token)",
    ]


def test_an_interval_of_mmlu_holds_the_spread_between_subjects():
    low, high = interval_of(MMLU)
    assert (low, high) == pytest.approx((0.2567 - 1.96 * 0.005, 0.2567 + 1.96 * 0.005))


def test_subjects_that_all_scored_the_same_leave_an_interval():
    low, high = interval_of(replace(MMLU, value=0.0, standard_error=0.0, n=6))
    assert (low, high) == pytest.approx((0.0, 1.96**2 / (6 + 1.96**2)))  # Wilson's of none of six
