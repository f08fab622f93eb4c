"""A conversation is checked once, when it is built, and its JSON line gives it back exactly."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.conversations.conversation import Conversation, Message, check_prompt, make_message
from genesis_sft.conversations.faults import BadRow

USER, ANSWER = Message("user", "hi"), Message("assistant", "hello")


@pytest.mark.parametrize(
    ("messages", "reason", "message"),
    [
        ((), "no messages", "expected messages of user and assistant, found none"),
        (
            (Message("system", "s"),),
            "no messages",
            "expected messages of user and assistant, found only a system message",
        ),
        ((USER,), "ends with user", "expected the last message to be the assistant's, found 'user'"),
        ((USER, ANSWER, USER), "ends with user", "expected the last message to be the assistant's, found 'user'"),
        (
            (ANSWER,),
            "turns do not alternate",
            "expected user and assistant in turn, user first; found 'assistant' at message 0",
        ),
        (
            (USER, ANSWER, ANSWER),
            "turns do not alternate",
            "expected user and assistant in turn, user first; found 'assistant' at message 2",
        ),
        (
            (USER, Message("system", "s"), ANSWER),
            "system not first",
            "expected a system message only as the first, found it at 1",
        ),
        (
            (USER, Message("assistant", " \n")),
            "empty content",
            "expected text in message 1 (assistant), found ' \\n'",
        ),
        ((Message("user", ""), ANSWER), "empty content", "expected text in message 0 (user), found ''"),
        (
            (Message("user", "a", "because"), ANSWER),
            "reasoning not on assistant",
            "expected reasoning only on assistant messages, found it on message 0 (user)",
        ),
        (
            (USER, Message("assistant", "a", " ")),
            "empty reasoning",
            "expected text or nothing as reasoning of message 1, found white space",
        ),
        (
            (Message("user", "ab\ud83d"), ANSWER),
            "lone surrogate",
            "expected Unicode text in message 0 (user), found half of a surrogate pair (U+D83D) at character 2",
        ),
        (
            (USER, Message("assistant", "a", "\udc00")),
            "lone surrogate",
            "expected Unicode text in message 1 (assistant), found half of a surrogate pair (U+DC00) at character 0",
        ),
    ],
)
def test_what_is_no_conversation_is_refused_with_what_was_expected_and_found(messages, reason, message):
    with pytest.raises(BadRow) as caught:
        Conversation(messages)
    assert (caught.value.reason, str(caught.value)) == (reason, message)


def test_nul_and_white_space_of_a_user_are_text():
    conversation = Conversation((Message("user", " \x00"), ANSWER))
    assert Conversation.from_json(conversation.to_json()) == conversation


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("<think>2+2</think>4", Message("assistant", "4", "2+2")),
        ("<think>\n2+2\n</think>\n\n4", Message("assistant", "4", "2+2")),
        ("<think>\n\n</think>\n\n4", Message("assistant", "4")),
        ("<think>a</think>b<think>c</think>", Message("assistant", "b<think>c</think>", "a")),
        ("so <think>a</think>b", Message("assistant", "so <think>a</think>b")),
        ("<think>never closed", Message("assistant", "<think>never closed")),
    ],
)
def test_only_think_at_the_start_of_an_assistant_message_is_reasoning(content, expected):
    assert make_message("assistant", content, turn=1) == expected
    assert make_message("user", content, turn=0) == Message("user", content)


def test_empty_think_leaves_neither_reasoning_nor_its_literal():
    for empty in ("<think></think>", "<think>\n\n</think>\n\n", "<think> </think>\r\n"):
        assert make_message("assistant", f"{empty}4", turn=1) == Message("assistant", "4")


def test_texts_are_kept_as_they_are():
    text = "\r\n e\u0301 \ufb01 <|im_end|> \x00\u200b\ufeff\n\n"
    assert make_message("user", text, turn=0).content == text
    assert make_message("assistant", text, " r ", turn=1) == Message("assistant", text, " r ")


def test_a_system_message_without_text_is_an_empty_one():
    assert make_message("system", None, turn=0) == Message("system", "")
    with pytest.raises(BadRow, match="expected content of message 0 to be text, found null"):
        make_message("user", None, turn=0)


def test_a_whole_book_of_white_space_is_not_repeated_in_the_message():
    with pytest.raises(BadRow) as caught:
        Conversation((USER, Message("assistant", " " * 1_000_000)))
    assert len(str(caught.value)) < 120


def test_reasoning_of_its_own_field_leaves_the_content_as_it_is():
    message = make_message("assistant", "<think>a</think>b", "c", turn=1)
    assert message == Message("assistant", "<think>a</think>b", "c")


def test_an_answer_that_is_all_reasoning_is_no_answer():
    with pytest.raises(BadRow, match="expected text in message 1"):
        Conversation((USER, make_message("assistant", "<think>a</think>\n", turn=1)))


def test_a_prompt_ends_with_the_user_and_may_hold_empty_answers():
    check_prompt((USER, Message("assistant", ""), USER))
    with pytest.raises(BadRow, match="expected the last message to be the user's, found 'assistant'"):
        check_prompt((USER, ANSWER))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1)
answers = texts.filter(str.strip)


@given(
    st.lists(
        st.tuples(texts, answers, st.none() | answers, st.sampled_from([None, True, False])), min_size=1, max_size=4
    ),
    st.none() | answers,
    st.integers(0),
)
def test_the_json_line_gives_the_conversation_back_exactly(exchanges, system, row):
    messages = [Message("system", system, train=False)] if system else []
    for question, answer, reasoning, train in exchanges:
        messages += [Message("user", question), Message("assistant", answer, reasoning, train)]
    conversation = Conversation(tuple(messages), source="s", row=row)
    line = conversation.to_json()
    assert "\n" not in line
    assert Conversation.from_json(line.encode().decode()) == conversation


def test_conversations_load_neither_torch_nor_transformers():
    code = (
        "import sys, genesis_sft.conversations.clean, genesis_sft.conversations.identity;"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'datasets', 'pyarrow')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
