"""Rows as data sets really have them become messages; rows that are not say what is wrong with them."""

import pytest

from genesis_sft.conversations.conversation import Message
from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.formats import FORMATS, detect_format

SMOLTALK = {
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Soy or oat milk?"},
        {"role": "assistant", "content": "Soy has more protein.", "reasoning_content": "They want one."},
    ],
    "source": "smol-magpie-ultra",
}
OPENHERMES = {
    "conversations": [{"from": "human", "value": "How many leaves?"}, {"from": "gpt", "value": "196."}],
    "source": "airoboros2.2",
    "category": "general",
    "system_prompt": "",
    "hash": None,
}
ALPACA = {"instruction": "Area of a rectangle.", "input": "width: 5, height: 8", "output": "40"}
METAMATH = {"query": "2+2?", "response": "The answer is: 4", "type": "GSM_Rephrased", "original_question": "1+1?"}


def test_messages():
    assert FORMATS["messages"](SMOLTALK) == (
        Message("system", "Be brief."),
        Message("user", "Soy or oat milk?"),
        Message("assistant", "Soy has more protein.", "They want one."),
    )


def test_an_empty_system_message_is_dropped_in_messages_and_sharegpt():
    messages = [{"role": "system", "content": " "}, {"role": "user", "content": "a"}]
    turns = [{"from": "system", "value": ""}, {"from": "human", "value": "a"}]
    assert FORMATS["messages"]({"messages": messages}) == (Message("user", "a"),)
    assert FORMATS["sharegpt"]({"conversations": turns}) == (Message("user", "a"),)


def test_sharegpt_with_every_speaker():
    assert FORMATS["sharegpt"](OPENHERMES) == (Message("user", "How many leaves?"), Message("assistant", "196."))
    for name, role in [
        ("human", "user"),
        ("user", "user"),
        ("gpt", "assistant"),
        ("assistant", "assistant"),
        ("chatgpt", "assistant"),
        ("model", "assistant"),
        ("bing", "assistant"),
        ("system", "system"),
    ]:
        assert FORMATS["sharegpt"]({"conversations": [{"from": name, "value": "x"}]}) == (Message(role, "x"),)


def test_openhermes_system_prompt_counts_only_where_no_turn_is_the_systems():
    with_prompt = OPENHERMES | {"system_prompt": "You are a poet."}
    assert FORMATS["sharegpt"](with_prompt)[0] == Message("system", "You are a poet.")
    turns = [{"from": "system", "value": "You are a cook."}, *OPENHERMES["conversations"]]
    messages = FORMATS["sharegpt"](with_prompt | {"conversations": turns})
    assert [message.role for message in messages] == ["system", "user", "assistant"]
    assert messages[0].content == "You are a cook."


@pytest.mark.parametrize("empty", [{"input": ""}, {"input": "  "}, {"input": None}, {}])
def test_alpaca_puts_the_input_after_a_blank_line_where_there_is_one(empty):
    question = "Area of a rectangle."
    assert FORMATS["alpaca"](ALPACA)[0] == Message("user", f"{question}\n\nwidth: 5, height: 8")
    row = {"instruction": question, "output": "40", **empty}
    assert FORMATS["alpaca"](row) == (Message("user", question), Message("assistant", "40"))


def test_metamath():
    assert FORMATS["metamath"](METAMATH) == (Message("user", "2+2?"), Message("assistant", "The answer is: 4"))


def test_the_format_is_told_by_the_keys():
    rows = (SMOLTALK, OPENHERMES, ALPACA, METAMATH)
    assert [detect_format(row) for row in rows] == ["messages", "sharegpt", "alpaca", "metamath"]
    with pytest.raises(BadRow) as caught:
        detect_format({"prompt": "a", "completion": "b"})
    assert str(caught.value) == (
        "expected the keys of a known format: messages (messages); conversations (sharegpt); "
        "instruction and output (alpaca); query and response (metamath); found the keys: completion, prompt"
    )


@pytest.mark.parametrize(
    ("name", "row", "reason", "message"),
    [
        ("messages", {"text": "a"}, "no messages", "expected the field 'messages', found 'text'"),
        ("messages", {"messages": "a"}, "wrong type", "expected messages to be a list, found text 'a'"),
        ("messages", {"messages": None}, "wrong type", "expected messages to be a list, found null"),
        (
            "messages",
            {"messages": ["a"]},
            "wrong type",
            "expected message 0 to be an object with role and content, found text 'a'",
        ),
        ("messages", {"messages": [{"role": "user"}]}, "no content", "expected the field 'content', found 'role'"),
        (
            "messages",
            {"messages": [{"role": "user", "content": 7}]},
            "wrong type",
            "expected content of message 0 to be text, found a number 7",
        ),
        (
            "messages",
            {"messages": [{"role": "assitant", "content": "a"}]},
            "unknown role",
            "expected a role at message 0, found 'assitant'; did you mean 'assistant'?",
        ),
        (
            "messages",
            {"messages": [{"role": 3, "content": "a"}]},
            "unknown role",
            "expected a role at message 0, found 3; it is none of system, user, assistant",
        ),
        (
            "messages",
            {"messages": [{"role": ["user"], "content": "a"}]},
            "unknown role",
            "expected a role at message 0, found ['user']; did you mean 'user'?",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "humn", "value": "a"}]},
            "unknown role",
            "expected a role at message 0, found 'humn'; did you mean 'human'?",
        ),
        (
            "sharegpt",
            {"conversations": [{"role": "user", "content": "a"}]},
            "no from",
            "expected the field 'from', found 'role', 'content'",
        ),
        ("alpaca", {"instruction": "a"}, "no output", "expected the field 'output', found 'instruction'"),
        (
            "alpaca",
            {"instruction": ["a"], "output": "b"},
            "wrong type",
            "expected instruction to be text, found a list ['a']",
        ),
        (
            "metamath",
            {"query": "a", "response": None},
            "wrong type",
            "expected content of message 1 to be text, found null",
        ),
    ],
)
def test_a_bad_row_says_what_was_expected_and_what_was_found(name, row, reason, message):
    with pytest.raises(BadRow) as caught:
        FORMATS[name](row)
    assert (caught.value.reason, str(caught.value)) == (reason, message)
