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
        ("bard", "assistant"),
        ("GPT", "assistant"),
        ("Human", "user"),
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


def test_a_system_turn_without_text_is_dropped_and_any_other_is_refused():
    turns = [{"from": "system", "value": None}, {"from": "human", "value": "a"}]
    assert FORMATS["sharegpt"]({"conversations": turns}) == (Message("user", "a"),)
    with pytest.raises(BadRow, match="expected content of message 1 to be text, found null"):
        FORMATS["sharegpt"]({"conversations": [turns[1], {"from": "gpt", "value": None}]})


def test_tulu_rows_with_their_other_columns():
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    row = {"id": "oasst1_4", "messages": messages, "source": "ai2-adapt-dev/oasst1_converted"}
    assert FORMATS["messages"](row) == (Message("user", "a"), Message("assistant", "b"))


@pytest.mark.parametrize(
    ("fields", "train"),
    [
        ({"train": True}, True),
        ({"train": False}, False),
        ({"training": False}, False),
        ({"weight": 0}, False),
        ({"weight": 1}, True),
        ({"weight": 1.0}, True),
        ({"weight": 0, "train": False}, False),
        ({"weight": None, "train": None, "training": None}, None),
        ({"weight": None, "training": True}, True),
    ],
)
def test_a_turn_says_whether_it_is_trained_on(fields, train):
    for role, speaker in (("user", "human"), ("assistant", "gpt")):
        expected = (Message(role, "x", None, train),)
        assert FORMATS["messages"]({"messages": [{"role": role, "content": "x", **fields}]}) == expected
        assert FORMATS["sharegpt"]({"conversations": [{"from": speaker, "value": "x", **fields}]}) == expected


@pytest.mark.parametrize("field", ["reasoning", "reasoning_content", "thinking"])
def test_reasoning_has_three_names(field):
    turn = {"role": "assistant", "content": "4", "reasoning": "", "reasoning_content": None, field: "2+2"}
    assert FORMATS["messages"]({"messages": [turn]}) == (Message("assistant", "4", "2+2"),)


def test_columns_of_csv_are_those_of_alpaca_and_metamath():
    row = {"instruction": "a", "input": "", "output": "<think>r</think>b", "text": "c"}
    assert FORMATS["alpaca"](row) == (Message("user", "a"), Message("assistant", "b", "r"))


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
        (
            "messages",
            {"messages": [{"role": "tool", "content": "a"}]},
            "unknown role",
            "expected a role at message 0, found 'tool'; it is none of system, user, assistant",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "a", "train": 1}]},
            "wrong type",
            "expected train of message 0 to be true or false, found a number 1",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "a", "weight": True}]},
            "wrong type",
            "expected weight of message 0 to be 0 or 1, found true or false True",
        ),
        (
            "sharegpt",
            {"conversations": [{"from": "gpt", "value": "a", "weight": 0.5}]},
            "wrong type",
            "expected weight of message 0 to be 0 or 1, found a number 0.5",
        ),
        (
            "messages",
            {"messages": [{"role": "user", "content": "a", "weight": 0, "train": True}]},
            "contradicting fields",
            "expected train and weight of message 0 to say the same",
        ),
        (
            "messages",
            {"messages": [{"role": "assistant", "content": "a", "reasoning": ["b"]}]},
            "wrong type",
            "expected reasoning of message 0 to be text, found a list ['b']",
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


def test_a_message_holds_little_of_a_large_row():
    many = {f"key {number}" * 10: 0 for number in range(10_000)}
    deep = []
    for _ in range(900):
        deep = [deep]
    rows = [
        many,
        {"messages": [many]},
        {"messages": deep},
        {"messages": [{"role": deep, "content": "a"}]},
        {"messages": [{"role": "u" * 1_000_000, "content": "a"}]},
        {"messages": [{"role": "user", "content": {"text": "a" * 1_000_000}}]},
    ]
    for row in rows:
        for read in (FORMATS["messages"], detect_format):
            if read is FORMATS["messages"] or "messages" not in row:
                with pytest.raises(BadRow) as caught:
                    read(row)
                assert len(str(caught.value)) < 400
