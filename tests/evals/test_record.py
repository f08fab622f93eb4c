import json
from dataclasses import replace

import pytest

from genesis_sft.errors import InputError
from genesis_sft.evals.record import ChatAnswer, EvalRecord, HeldOutRecord, PartTime
from genesis_sft.evals.task_record import FirstRequest, PartScore, TaskRecord

TASK = TaskRecord(
    task="mmlu",
    metric="acc",
    value=1 / 3,
    standard_error=0.1 + 0.2,  # 0.30000000000000004
    n=3,
    chance=0.25,
    items=(1.0, 0.0, 0.0),
    doc_hashes=("a", "b", "a"),
    num_choices=(4, 4, 4),
    num_truncated=1,
    first_request=FirstRequest((1, 2), ("<s>", "Ġ\N{SNOWMAN}"), 7),
    subjects=(PartScore("anatomy", "stem", 0.5, 0.5, 2), PartScore("law", "humanities", 0.0, 0.0, 1)),
    groups=(PartScore("stem", "stem", 0.5, 0.5, 2),),
)
PERPLEXITY = TaskRecord(
    "lambada_oneline", "perplexity", 20.085, 1.0, 2, None, (-2.9999999999999996, -3.1e-17), ("c", "d")
)
ANSWER = ChatAnswer(
    "owl", ({"role": "user", "content": "Who?\u2028"},), "me", None, ended=True, num_tokens=3, sample=True
)
RECORD = EvalRecord(
    model="f" * 64,
    settings={"data": "package", "tasks": [{"task": "mmlu", "limit": None}]},
    versions={"lm-eval": "0.4.13"},
    tasks=(TASK, PERPLEXITY),
    held_out=(HeldOutRecord("sums", 1.5, 0.25, 4, 2, (7, 9), (2.0, 4.0), (1, 3)),),
    chat=(ANSWER,),
    times={"mmlu": PartTime(1.5, 300)},
)


def test_a_record_comes_back_exactly(tmp_path):
    RECORD.save(tmp_path)
    assert EvalRecord.open(tmp_path) == RECORD
    assert EvalRecord.open(tmp_path / "record.json") == RECORD


def test_items_stand_on_one_line_so_that_a_record_can_be_read(tmp_path):
    RECORD.save(tmp_path)
    text = (tmp_path / "record.json").read_text()
    assert '      "items": [1.0, 0.0, 0.0],\n' in text
    assert json.loads(text) == json.loads(json.dumps(RECORD.to_json()))


def test_no_record_damaged_record_and_other_version_are_told_apart(tmp_path):
    with pytest.raises(InputError, match=r"expected an evaluation record at .*No such file"):
        EvalRecord.open(tmp_path / "nothing")
    (tmp_path / "record.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        EvalRecord.open(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps(RECORD.to_json() | {"tasks": [{"task": "mmlu"}]}))
    with pytest.raises(InputError, match="damaged"):
        EvalRecord.open(tmp_path)
    (tmp_path / "record.json").write_text(json.dumps(RECORD.to_json() | {"version": 99}))
    with pytest.raises(InputError, match=r"version 2 in .*, found 99"):
        EvalRecord.open(tmp_path)


def test_above_chance_needs_more_than_two_standard_errors():
    def with_value(value):
        return TaskRecord("piqa", "acc", value, 0.0625, 60, 0.5, (), ()).above_chance

    assert with_value(0.625) is False  # exactly two
    assert with_value(0.63) is True
    assert with_value(0.3) is False
    assert PERPLEXITY.above_chance is None


def test_a_single_right_item_is_not_above_chance():
    one = TaskRecord("piqa", "acc", 1.0, 0.0, 1, 0.5, (1.0,), ("a",))
    assert one.above_chance is False
    assert replace(one, n=20, items=(1.0,) * 20).above_chance is True


def test_stop_rate_counts_answers_that_ended_and_say_something():
    silent, cut = replace(ANSWER, answer=" \n"), replace(ANSWER, ended=False)
    rate = replace(RECORD, chat=(ANSWER, silent, cut, ANSWER)).stop_rate
    assert (rate.value, rate.n) == (0.5, 4)
    assert EvalRecord("f", {}, {}).stop_rate is None


def test_summary_is_one_line():
    assert RECORD.summary() == "mmlu 0.333, sums 1.500 nats/token, 1 of 1 chat prompts answered to the end in 1.5 s"
    assert EvalRecord("f", {}, {}).summary() == "nothing measured in 0.0 s"


def change(values, path, value):
    *parents, last = path
    for step in parents:
        values = values[step]
    values[last] = value


@pytest.mark.parametrize(
    ("path", "value", "says"),
    [
        (("tasks", 0, "items"), [1.0, 0.0, "NaN"], "finite"),
        (("tasks", 0, "items"), [1.0, 0.0, 1e308], "finite"),
        (("tasks", 0, "items"), [1.0, 0.0, 2.0], "0 or 1"),
        (("tasks", 0, "items"), [1.0, 0.0, 0.5], "0 or 1"),
        (("tasks", 1, "items"), [-1.0, 5.0], "log-likelihoods"),
        (("tasks", 0, "n"), -3, "as many outcomes"),
        (("tasks", 0, "doc_hashes"), ["a"], "as many outcomes"),
        (("held_out", 0, "tokens"), [0, 4], "trained tokens in every"),
        (("held_out", 0, "n_tokens"), 0, "add up"),
        (("held_out", 0, "losses"), [2.0], "every conversation"),
        (("held_out", 0, "losses"), [2.0, float("inf")], "finite"),
        (("chat", 0, "num_tokens"), -1, "number of tokens"),
        (("chat", 0, "messages"), [{"role": "user"}], "role and content"),
        (("settings", "seed"), 10**400, "finite"),
    ],
)
def test_a_record_that_no_evaluation_wrote_is_refused(tmp_path, path, value, says):
    values = json.loads(json.dumps(RECORD.to_json()))
    change(values, path, value)
    (tmp_path / "record.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=f"damaged one: .*{says}"):
        EvalRecord.open(tmp_path)


PASSAGE = HeldOutRecord("tides", 1.5, 0.25, 4, 2, (0, 1), (2.0, 4.0), (1, 3))


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"tasks": (TASK, PERPLEXITY, TASK)}, r"every score once, found mmlu \(acc\)"),
        ({"held_out": RECORD.held_out * 2}, "every held-out source once, found sums"),
        ({"plain_text": (PASSAGE, PASSAGE)}, "every passage once, found tides"),
        ({"chat": (ANSWER, replace(ANSWER, answer="you"))}, "every chat prompt once, found owl"),
    ],
)
def test_what_stands_twice_is_refused_as_it_is_found_by_its_name(tmp_path, changed, says):
    replace(RECORD, **changed).save(tmp_path)
    with pytest.raises(InputError, match=f"damaged one: .*{says}"):
        EvalRecord.open(tmp_path)


def test_what_differs_in_how_it_was_asked_stands_beside_the_other(tmp_path):
    of_chat, with_shots = replace(TASK, surface="chat"), replace(TASK, num_fewshot=5)
    other_prompt = replace(ANSWER, messages=({"role": "user", "content": "Where?"},))
    record = replace(
        RECORD,
        tasks=(TASK, of_chat, with_shots, replace(TASK, metric="acc_norm")),
        plain_text=(replace(PASSAGE, source="sums"),),
        chat=(ANSWER, other_prompt),
    )
    record.save(tmp_path)
    assert EvalRecord.open(tmp_path) == record


def test_json_that_is_too_deep_is_a_damaged_record(tmp_path):
    (tmp_path / "record.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match="damaged"):
        EvalRecord.open(tmp_path)
