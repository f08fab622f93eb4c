"""Masks token by token, on a byte-level and a SentencePiece-like tokenizer; the expected lists are written by hand."""

import copy

import pytest
from tokenizers import pre_tokenizers

from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.conversations.faults import BadRow
from genesis_sft.errors import ModelError
from genesis_sft.tokens.chatml import Answer, ChatMLEncoder
from tests.tokens.helpers import CONTROL, losing_line_breaks, marked, talk, with_control_tokens


@pytest.fixture(scope="module")
def byte_level(tiny_tokenizer):
    return with_control_tokens(tiny_tokenizer)


@pytest.fixture(scope="module")
def sentencepiece(tiny_sentencepiece_tokenizer):
    return with_control_tokens(tiny_sentencepiece_tokenizer)


@pytest.fixture(scope="module")
def no_breaks(sentencepiece):
    return losing_line_breaks(sentencepiece)


START, END = "<|im_start|>", "<|im_end|>"
SYSTEM = [START, "sy", "st", "em", "Ċ"]
USER = [START, "us", "er", "Ċ"]
ASSISTANT = [START, "a", "ss", "ist", "ant", "Ċ"]
SP_SYSTEM = [START, "system", "\n"]
SP_USER = [START, "us", "er", "\n"]
SP_ASSISTANT = [START, "a", "ss", "ist", "a", "nt", "\n"]


def test_multi_turn_with_system_trains_answers_and_ends_of_turn(byte_level):
    encoded = ChatMLEncoder(byte_level).encode(talk("why", "no hat", "7", "yes", system="no"))
    assert marked(byte_level, encoded) == [
        *SYSTEM, "no", END, "Ċ",
        *USER, "w", "h", "y", END, "Ċ",
        *ASSISTANT, "+no", "+Ġh", "+at", f"+{END}", "Ċ",
        *USER, "7", END, "Ċ",
        *ASSISTANT, "+yes", f"+{END}", "Ċ",
    ]  # fmt: skip
    # positions counted along the lists above
    assert encoded.trained == [(23, 27), (41, 43)]
    assert encoded.num_trained == 6


def test_multi_turn_on_the_sentencepiece_like_tokenizer_has_no_stray_spaces(sentencepiece):
    encoded = ChatMLEncoder(sentencepiece).encode(talk("why", "no hat", "7", "yes", system="no"))
    assert marked(sentencepiece, encoded) == [
        *SP_SYSTEM, "no", END, "\n",
        *SP_USER, "w", "h", "y", END, "\n",
        *SP_ASSISTANT, "+no", "+▁hat", f"+{END}", "\n",
        *SP_USER, "7", END, "\n",
        *SP_ASSISTANT, "+y", "+es", f"+{END}", "\n",
    ]  # fmt: skip


def test_a_line_break_that_becomes_a_space_belongs_to_the_content_behind_it(no_breaks):
    encoded = ChatMLEncoder(no_breaks).encode(talk("why", "no hat", "7", "yes", system="no"))
    user, assistant = SP_USER[:-1], SP_ASSISTANT[:-1]
    assert marked(no_breaks, encoded) == [
        START, "system", "▁", "no", END,
        *user, "▁", "w", "h", "y", END,
        *assistant, "+▁", "+no", "+▁hat", f"+{END}",
        *user, "▁", "7", END,
        *assistant, "+▁", "+y", "+es", f"+{END}",
    ]  # fmt: skip
    # positions counted along the lists above
    assert encoded.trained == [(19, 23), (35, 39)]
    encoded = ChatMLEncoder(no_breaks, train_on=("assistant",)).encode(talk("7", ("be", "no")))
    assert marked(no_breaks, encoded) == [
        *user, "▁", "7", END, *assistant, "<think>", "+▁b", "+e", "</think>", "+▁", "+no", END,
    ]  # fmt: skip


def test_without_line_breaks_a_prompt_ends_where_the_answer_begins(no_breaks):
    encoder = ChatMLEncoder(no_breaks)
    conversation = talk("7", ("be", "no"), "why", "yes", system="no")
    whole = encoder.encode(conversation)
    prompt = encoder.encode_prompt(conversation.messages[:-1])
    assert prompt == whole.input_ids[: whole.trained[-1][0]]
    assert no_breaks.convert_ids_to_tokens(prompt)[-5:] == SP_ASSISTANT[1:-1]
    shorter = encoder.encode(talk("7", ("be", "no"), system="no")).input_ids
    assert whole.input_ids[: encoder.message_ends(whole.input_ids)[2]] == shorter


def test_assistant_only_masks_every_control_token(byte_level, sentencepiece):
    encoded = ChatMLEncoder(byte_level, train_on=("assistant",)).encode(talk("7", "no"))
    assert marked(byte_level, encoded) == [*USER, "7", END, "Ċ", *ASSISTANT, "+no", END, "Ċ"]
    encoded = ChatMLEncoder(sentencepiece, train_on=("assistant",)).encode(talk("7", "no"))
    assert marked(sentencepiece, encoded) == [*SP_USER, "7", END, "\n", *SP_ASSISTANT, "+no", END, "\n"]


def test_reasoning_is_trained_with_its_marks_when_the_end_of_turn_is(byte_level):
    encoded = ChatMLEncoder(byte_level).encode(talk("7", ("be", "no")))
    assert marked(byte_level, encoded) == [
        *USER, "7", END, "Ċ",
        *ASSISTANT, "+<think>", "+Ċ", "+b", "+e", "+Ċ", "+</think>", "+Ċ", "+Ċ", "+no", f"+{END}", "Ċ",
    ]  # fmt: skip
    assert encoded.trained == [(13, 23)]


def test_reasoning_under_assistant_only_masks_its_marks(byte_level, sentencepiece):
    encoded = ChatMLEncoder(byte_level, train_on=("assistant",)).encode(talk("7", ("be", "no")))
    assert marked(byte_level, encoded) == [
        *USER, "7", END, "Ċ",
        *ASSISTANT, "<think>", "+Ċ", "+b", "+e", "+Ċ", "</think>", "+Ċ", "+Ċ", "+no", END, "Ċ",
    ]  # fmt: skip
    assert encoded.trained == [(14, 18), (19, 22)]
    encoded = ChatMLEncoder(sentencepiece, train_on=("assistant",)).encode(talk("7", ("be", "no")))
    assert marked(sentencepiece, encoded) == [
        *SP_USER, "7", END, "\n",
        *SP_ASSISTANT, "<think>", "+\n", "+b", "+e", "+\n", "</think>", "+\n\n", "+no", END, "\n",
    ]  # fmt: skip


def test_stripped_reasoning_leaves_the_plain_answer(byte_level):
    encoder = ChatMLEncoder(byte_level, reasoning="strip")
    assert encoder.encode(talk("7", ("be", "no"))) == encoder.encode(talk("7", "no"))


def test_stripped_reasoning_is_not_in_the_ids(byte_level, no_breaks):
    encoded = ChatMLEncoder(byte_level, reasoning="strip").encode(talk("7", ("be", "no")))
    assert marked(byte_level, encoded) == [*USER, "7", END, "Ċ", *ASSISTANT, "+no", f"+{END}", "Ċ"]
    encoded = ChatMLEncoder(no_breaks, reasoning="strip").encode(talk("7", ("be", "no")))
    assert marked(no_breaks, encoded) == [
        *SP_USER[:-1], "▁", "7", END, *SP_ASSISTANT[:-1], "+▁", "+no", f"+{END}",
    ]  # fmt: skip


def test_empty_reasoning_stands_before_every_answer_whatever_its_reasoning_was(byte_level, sentencepiece, no_breaks):
    encoded = ChatMLEncoder(byte_level, reasoning="empty").encode(talk("7", ("be", "no"), "why", "yes"))
    thought = ["+<think>", "+Ċ", "+Ċ", "+</think>", "+Ċ", "+Ċ"]
    assert marked(byte_level, encoded) == [
        *USER, "7", END, "Ċ", *ASSISTANT, *thought, "+no", f"+{END}", "Ċ",
        *USER, "w", "h", "y", END, "Ċ", *ASSISTANT, *thought, "+yes", f"+{END}", "Ċ",
    ]  # fmt: skip
    encoder = ChatMLEncoder(byte_level, train_on=("assistant",), reasoning="empty")
    assert marked(byte_level, encoder.encode(talk("7", "no"))) == [
        *USER, "7", END, "Ċ", *ASSISTANT, "<think>", "+Ċ", "+Ċ", "</think>", "+Ċ", "+Ċ", "+no", END, "Ċ",
    ]  # fmt: skip
    encoded = ChatMLEncoder(sentencepiece, reasoning="empty").encode(talk("7", "no"))
    assert marked(sentencepiece, encoded) == [
        *SP_USER, "7", END, "\n", *SP_ASSISTANT, "+<think>", "+\n\n", "+</think>", "+\n\n", "+no", f"+{END}", "\n",
    ]  # fmt: skip
    encoded = ChatMLEncoder(no_breaks, reasoning="empty").encode(talk("7", "no"))
    assert marked(no_breaks, encoded) == [
        *SP_USER[:-1], "▁", "7", END, *SP_ASSISTANT[:-1], "+<think>", "+</think>", "+▁", "+no", f"+{END}",
    ]  # fmt: skip


def test_a_prompt_shows_earlier_answers_with_empty_reasoning_and_ends_on_the_plain_header(byte_level):
    encoder = ChatMLEncoder(byte_level, reasoning="empty")
    messages = talk("7", "no", "why", "yes").messages[:-1]
    assert byte_level.convert_ids_to_tokens(encoder.encode_prompt(messages)) == [
        *USER, "7", END, "Ċ", *ASSISTANT, "<think>", "Ċ", "Ċ", "</think>", "Ċ", "Ċ", "no", END, "Ċ",
        *USER, "w", "h", "y", END, "Ċ", *ASSISTANT,
    ]  # fmt: skip


def told(**train):
    """System "no", user "7", assistant "be" thought and "no" said; each may be told whether it is trained."""
    return Conversation(
        (
            Message("system", "no", train=train.get("system")),
            Message("user", "7", train=train.get("user")),
            Message("assistant", "no", "be", train=train.get("assistant")),
        )
    )


SYSTEM_TURN = [["no"], [END]]
USER_TURN = [["7"], [END]]
TURN = [["<think>"], ["Ċ", "b", "e", "Ċ"], ["</think>"], ["Ċ", "Ċ", "no"], [END]]


@pytest.mark.parametrize("ends", [True, False], ids=["end of turn", "assistant only"])
@pytest.mark.parametrize(
    ("train", "trained"),
    [
        ({}, "a"),
        ({"assistant": True}, "a"),
        ({"assistant": False}, ""),
        ({"user": True}, "ua"),
        ({"user": False}, "a"),
        ({"system": True}, "sa"),
        ({"system": False}, "a"),
        ({"system": True, "user": True, "assistant": False}, "su"),
    ],
)
def test_a_message_may_override_whether_its_turn_is_trained_but_never_its_header(byte_level, train, trained, ends):
    encoder = ChatMLEncoder(byte_level, ("assistant", "end_of_turn") if ends else ("assistant",))
    expected = []
    for role, header, turn in (("s", SYSTEM, SYSTEM_TURN), ("u", USER, USER_TURN), ("a", ASSISTANT, TURN)):
        expected += header
        for part in turn:
            is_control = part[0] in CONTROL
            plus = "+" if role in trained and (ends or not is_control) else ""
            expected += [f"{plus}{token}" for token in part]
        expected.append("Ċ")
    encoded = encoder.encode(told(**train))
    assert marked(byte_level, encoded) == expected
    assert (encoded.trained == []) == (trained == "")


def test_overrides_hold_where_content_and_header_are_in_one_piece(no_breaks):
    encoded = ChatMLEncoder(no_breaks).encode(told(user=True, assistant=False))
    assert marked(no_breaks, encoded) == [
        START, "system", "▁", "no", END,
        *SP_USER[:-1], "+▁", "+7", f"+{END}",
        *SP_ASSISTANT[:-1], "<think>", "▁b", "e", "</think>", "▁", "no", END,
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece"])
@pytest.mark.parametrize("content", ["\nno", "\n\nno", " no", "  no", "\r\nno", "\tno"])
def test_content_never_merges_with_the_line_break_of_its_header(name, content, request):
    tokenizer = request.getfixturevalue(name)
    encoder = ChatMLEncoder(tokenizer)
    (own,) = encoder.text.encode([content])
    header = encoder.encode_prompt([Message("user", "7")])
    encoded = encoder.encode(talk("7", content))
    newline = encoder.text.encode(["\n"], after_control=True)[0]
    assert encoded.input_ids == [*header, *own, encoder.im_end_id, *newline]
    assert encoded.trained == [(len(header), len(header) + len(own) + 1)]


def test_many_are_encoded_as_one_by_one(byte_level):
    encoder = ChatMLEncoder(byte_level)
    conversations = [talk("why", "no"), talk("7", ("be", "no"), "why", "yes", system="no"), talk("x", "yes")]
    assert encoder.encode_many(conversations) == [encoder.encode(one) for one in conversations]


def test_a_prompt_is_the_conversation_up_to_the_answer(byte_level):
    encoder = ChatMLEncoder(byte_level)
    whole = encoder.encode(talk("7", ("be", "no"), "why", "yes", system="no"))
    messages = talk("7", ("be", "no"), "why", "yes", system="no").messages[:-1]
    prompt = encoder.encode_prompt(messages)
    assert prompt == whole.input_ids[: whole.trained[-1][0]]
    assert byte_level.convert_ids_to_tokens(prompt)[-6:] == ASSISTANT
    with pytest.raises(BadRow, match="expected the last message to be the user's"):
        encoder.encode_prompt((*messages, Message("assistant", "a")))


def test_without_line_breaks_an_answer_is_read_back_without_the_spaces_that_stand_for_them(no_breaks):
    encoder = ChatMLEncoder(no_breaks)
    for reasoning, content in [(None, "no hat"), ("be so", "no <think> hat"), (None, "<think>no</think>")]:
        encoded = encoder.encode(talk("7", (reasoning, content)))
        generated = encoded.input_ids[encoded.trained[0][0] :]
        assert encoder.parse_answer(generated) == Answer(content, reasoning, ended=True)
        assert encoder.parse_answer(generated[:-1]) == Answer(content, reasoning, ended=False)
    ids = encoder.encode(talk("why", "no hat")).input_ids
    assert encoder.decode(ids, show_special=True) == (
        "<|im_start|>user why<|im_end|><|im_start|>assistant no hat<|im_end|>"
    )


@pytest.mark.parametrize("name", ["byte_level", "sentencepiece"])
def test_an_answer_is_read_back_as_reasoning_and_content(name, request):
    tokenizer = request.getfixturevalue(name)
    encoder = ChatMLEncoder(tokenizer)
    for reasoning, content in [(None, "no hat"), ("be\n\nso", "\nno <think> hat "), (None, "<think>no</think>")]:
        encoded = encoder.encode(talk("7", (reasoning, content)))
        start = encoded.trained[0][0]
        generated = encoded.input_ids[start:]
        assert encoder.parse_answer(generated) == Answer(content, reasoning, ended=True)
        assert encoder.parse_answer(generated[:-2]) == Answer(content, reasoning, ended=False)


def test_an_answer_cut_off_in_its_reasoning_has_no_content(byte_level):
    encoder = ChatMLEncoder(byte_level)
    ids = encoder.encode(talk("7", ("be", "no"))).input_ids[13:16]
    assert encoder.parse_answer(ids) == Answer("", "b", ended=False)
    assert encoder.parse_answer([]) == Answer("", None, ended=False)
    assert encoder.parse_answer([encoder.eos_id]) == Answer("", None, ended=True)
    assert encoder.stop_ids == {encoder.im_end_id, encoder.eos_id}


def test_decoding_leaves_special_tokens_out_or_shows_them(byte_level):
    encoder = ChatMLEncoder(byte_level)
    ids = encoder.encode(talk("grüße 😀", "no")).input_ids
    assert encoder.decode(ids) == "user\ngrüße 😀\nassistant\nno\n"
    shown = "<|im_start|>user\ngrüße 😀<|im_end|>\n<|im_start|>assistant\nno<|im_end|>\n"
    assert encoder.decode(ids, show_special=True) == shown


def test_a_message_ends_where_a_shorter_conversation_would(byte_level):
    encoder = ChatMLEncoder(byte_level)
    ids = encoder.encode(talk("7", "no", "why", "yes", system="no")).input_ids
    shorter = encoder.encode(talk("7", "no", system="no")).input_ids
    assert ids[: encoder.message_ends(ids)[2]] == shorter


def test_a_tokenizer_without_the_control_tokens_is_refused(tiny_tokenizer):
    with pytest.raises(ModelError) as caught:
        ChatMLEncoder(tiny_tokenizer)
    assert str(caught.value) == (
        f"expected a tokenizer with the added tokens {', '.join(CONTROL)}; found none named {', '.join(CONTROL)}"
    )


def test_a_header_that_merges_with_the_content_is_refused_with_what_to_do(no_breaks):
    # without words of their own, the pieces of a text reach over its spaces: "user ass" becomes us er▁ass
    merging = copy.deepcopy(no_breaks)
    merging.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    with pytest.raises(ModelError, match=r"turns the line break into what merges with the text behind it") as caught:
        ChatMLEncoder(merging)
    assert "tokenizer.add_tokens" in caught.value.hint


def test_a_merge_that_no_trial_met_is_refused_when_it_happens(no_breaks, monkeypatch):
    merging = copy.deepcopy(no_breaks)
    merging.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
    monkeypatch.setattr("genesis_sft.tokens.headers._merging", lambda text, role: [])
    monkeypatch.setattr("genesis_sft.tokens.headers._CONTENTS", ())
    monkeypatch.setattr("genesis_sft.tokens.text._kept", {})
    encoder = ChatMLEncoder(merging)
    with pytest.raises(ModelError, match=r"'user\\nassist' begins with"):
        encoder.encode(talk("assist", "no"))
