"""Each check on answers that do it and answers that do not, in several chat formats."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.evals.answer_checks import CHECKS
from genesis_sft.evals.record import ChatAnswer

END = "<|im_end|>"


def wrote(written: str, **fields: object) -> ChatAnswer:
    """An answer whose text is what was written, without the control tokens of ChatML."""
    answer = written.removesuffix(END)
    values = {"answer": answer, "reasoning": None, "ended": written.endswith(END), "num_tokens": 7, **fields}
    return ChatAnswer(id="p", messages=(), sample=False, written=written, **values)


def outcomes(answer: ChatAnswer) -> dict[str, bool | None]:
    return {name: check.holds(answer) for name, check in CHECKS.items()}


def test_a_good_answer_does_nothing_wrong():
    assert outcomes(wrote("Four strings, as a rule." + END)) == {
        "ends its turn": True,
        "is empty": False,
        "repeats itself": False,
        "speaks for the user": False,
        "leaks control text": False,
        "malformed <think>": False,
        "obeys the instruction": None,
    }
    assert [name for name, check in CHECKS.items() if check.better == "more"] == [
        "ends its turn",
        "obeys the instruction",
    ]
    assert all(name == check.name and check.text for name, check in CHECKS.items())


def test_an_answer_that_goes_on_and_one_without_text():
    assert outcomes(wrote("Four strings, as a"))["ends its turn"] is False
    assert outcomes(wrote(" \n" + END))["is empty"] is True
    assert outcomes(wrote(END))["is empty"] is True


def test_a_loop_in_the_answer_or_in_the_reasoning():
    loop = "I do not know. " * 8
    assert CHECKS["repeats itself"].holds(wrote(loop))
    assert CHECKS["repeats itself"].holds(wrote("<think>", answer="", reasoning=loop))


@pytest.mark.parametrize(
    "written",
    [
        "Four.\nUser: And five?",
        "Four.\n\nHuman: thanks",
        "USER: hi",
        "Four.\n### Human: more",
        "Four.\n**User:** more",
        "Four.\n**User**: more",
        "Four.<|im_end|>\n<|im_start|>user\nAnd five?",
        "Four.<|user|>\nmore",
        "Four.<|start_header_id|>user<|end_header_id|>",
        "Four.<start_of_turn>user\nmore",
    ],
)
def test_speaking_for_the_user(written):
    assert CHECKS["speaks for the user"].holds(wrote(written)) is True


@pytest.mark.parametrize(
    "written",
    [
        "Ask the user: why?",
        "The username:\nroot",
        "End user: a term",
        "Humans: a history",
        "user: root\npassword: hat",
        "- User: x",
    ],
)
def test_not_speaking_for_the_user(written):
    assert CHECKS["speaks for the user"].holds(wrote(written)) is False


@pytest.mark.parametrize(
    "written",
    [
        "Four.<|im_start|>assistant\nFive.<|im_end|>",
        "Four.<|im_end|><|im_end|>",
        "Four.<|im_end|> and so on",
        "Four.<|endoftext|>more",
        "Four. [INST] five [/INST]<|im_end|>",
        "<<SYS>>Be brief",
        "Four.</s>",
        "<s>Four.",
        "Four.<|eot_id|>x",
        "Four.<end_of_turn>\nx",
        "Four.<｜end▁of▁sentence｜>x",
        "### Instruction:\nAdd.\n### Response:\nFour.",
    ],
)
def test_leaking_control_text(written):
    assert CHECKS["leaks control text"].holds(wrote(written)) is True


@pytest.mark.parametrize(
    "written",
    [
        "Four.<|im_end|>",
        "let y = f <| g x |> h",
        "a <b> c </b> <s>old</s> new",
        "[INSTALL] if x < 3 || y > 4: <|>",
        "### Ingredients\n\n- salt",
        "<think>\nhm\n</think>\n\nFour.<|im_end|>",
    ],
)
def test_not_leaking_control_text(written):
    assert CHECKS["leaks control text"].holds(wrote(written)) is False


@pytest.mark.parametrize("last", ["<|im_end|>", "<|endoftext|>", "</s>", "<|eot_id|>", "<end_of_turn>", "<eos>"])
def test_the_token_that_ends_the_turn_is_no_leak_but_the_same_text_of_an_unended_answer_is(last):
    check = CHECKS["leaks control text"]
    assert check.holds(wrote("Four." + last, ended=True)) is False
    assert check.holds(wrote("Four." + last, ended=False)) is True
    assert check.holds(wrote("Four." + last + last, ended=True)) is True


@pytest.mark.parametrize(
    ("written", "malformed"),
    [
        ("Four.<|im_end|>", False),
        ("<think>\nhm\n</think>\n\nFour.<|im_end|>", False),
        ("\n<think></think>Four.", False),
        ("<think>\nhm, and then", True),
        ("hm\n</think>\n\nFour.<|im_end|>", True),
        ("<think>a<think>b</think></think>Four.<|im_end|>", True),
        ("<think>a</think>Four.<think>b</think>Five.<|im_end|>", True),
        ("Well. <think>a</think>Four.<|im_end|>", True),
        ("<think>a</think>\n<|im_end|>", True),
        ("</think>a<think>", True),
    ],
)
def test_malformed_think(written, malformed):
    assert CHECKS["malformed <think>"].holds(wrote(written)) is malformed


def test_a_record_that_does_not_say_what_was_written_is_not_judged_by_it():
    answer = wrote("", answer="Four.\nUser: five?", ended=True)
    found = outcomes(answer)
    assert found["leaks control text"] is found["malformed <think>"] is None
    assert found["speaks for the user"] is True


def test_obeying_is_asked_only_where_there_is_a_rule():
    rule = {"kind": "most_words", "count": 2}
    assert outcomes(wrote("aye aye" + END, rules=(rule,)))["obeys the instruction"] is True
    assert outcomes(wrote("aye aye aye" + END, rules=(rule,)))["obeys the instruction"] is False


PIECES = st.sampled_from(
    ["<think>", "</think>", "<|im_start|>", "user", "User:", "\n", END, "[INST]", "<|", "|>", "</s>", "a "]
)


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=60) | st.lists(PIECES, max_size=30).map("".join), st.booleans())
def test_every_check_answers_on_any_text(text, ended):
    for name, outcome in outcomes(wrote(text, ended=ended)).items():
        assert outcome in (True, False) or (outcome is None and name in ("obeys the instruction",)) or text == ""


@pytest.mark.parametrize("piece", ["<|", "<|a", "<think>", "\n \t#", "**", "[", "</s>", "User", "<｜", " "])
def test_every_check_reads_a_megabyte(piece):
    found = outcomes(wrote(piece * (1_000_000 // len(piece)) + "end", ended=False))
    assert found["leaks control text"] is (piece == "</s>")
    assert found["malformed <think>"] is (piece == "<think>")
