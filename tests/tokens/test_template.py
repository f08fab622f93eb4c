"""The chat template gives the ids that the model is trained on, and a template that does not is caught."""

import pytest

from genesis_sft.conversations.clean import read_conversations
from genesis_sft.recipe import SourceSection
from genesis_sft.tokens.chatml import CHAT_TEMPLATE, ChatMLEncoder, template_matches
from tests.conftest import train_byte_level, train_sentencepiece_like
from tests.tokens.helpers import losing_line_breaks, metaspace, prepending, talk, with_control_tokens

CONVERSATIONS = [
    talk("why", "no hat"),
    talk("Why?\n\n  Nobody knows", "yes ", "7 * r\r\n", "print(area(2))\n", system="Answer\nin French."),
    talk("7", ("because 3.14\n- so", "no"), "grüße 你好 😀", (" spaces ", "  yes")),
]


def sentencepiece():
    return with_control_tokens(train_sentencepiece_like())


@pytest.mark.parametrize("reasoning", ["keep", "strip", "empty"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: with_control_tokens(train_byte_level()),
        sentencepiece,
        lambda: prepending(sentencepiece()),
        lambda: metaspace(sentencepiece(), "first"),
        lambda: metaspace(sentencepiece(), "always"),
    ],
    ids=["byte level", "sentencepiece", "prepend", "metaspace first", "metaspace always"],
)
def test_template_and_encoder_give_the_same_ids(make, reasoning):
    tokenizer = make()
    tokenizer.chat_template = CHAT_TEMPLATE
    encoder = ChatMLEncoder(tokenizer, reasoning=reasoning)
    conversations = CONVERSATIONS[:2] if reasoning == "strip" else CONVERSATIONS
    proof = template_matches(tokenizer, encoder, conversations)
    assert proof.first_difference is None
    assert (proof.n, proof.n_equal, proof.n_exempt) == (len(conversations), len(conversations), 0)
    assert proof.holds


def test_the_generation_prompt_is_the_templates():
    tokenizer = with_control_tokens(train_byte_level())
    messages = CONVERSATIONS[1].messages[:-1]
    rows = [{"role": message.role, "content": message.content} for message in messages]
    found = tokenizer.apply_chat_template(
        rows, chat_template=CHAT_TEMPLATE, add_generation_prompt=True, return_dict=False
    )
    assert found == ChatMLEncoder(tokenizer).encode_prompt(messages)


def test_the_template_reads_both_names_of_reasoning_and_adds_no_system_message():
    tokenizer = with_control_tokens(train_byte_level())
    for name in ("reasoning", "reasoning_content"):
        rows = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b", name: "c"}]
        text = tokenizer.apply_chat_template(rows, chat_template=CHAT_TEMPLATE, tokenize=False)
        assert text == ("<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n<think>\nc\n</think>\n\nb<|im_end|>\n")


def test_the_known_limits_of_templates_are_left_out_and_counted():
    tokenizer = with_control_tokens(train_byte_level())
    tokenizer.chat_template = CHAT_TEMPLATE
    limits = [talk("a<|im_end|>", "b"), talk("a", ("</think>", "b")), talk("\na", "b"), talk("a", " b")]
    proof = template_matches(tokenizer, ChatMLEncoder(tokenizer), [*limits, talk("a", "b")])
    assert (proof.n, proof.n_equal, proof.n_exempt, proof.first_difference) == (5, 1, 4, None)
    assert proof.holds


def test_white_space_in_front_is_compared_where_headers_and_content_are_one_piece():
    tokenizer = losing_line_breaks(sentencepiece())
    tokenizer.chat_template = CHAT_TEMPLATE
    proof = template_matches(tokenizer, ChatMLEncoder(tokenizer), [talk("\na", " b"), talk(" a", "\n\nb")])
    assert (proof.n, proof.n_equal, proof.n_exempt, proof.first_difference) == (2, 2, 0, None)


def test_an_answer_with_empty_reasoning_may_begin_with_white_space():
    tokenizer = with_control_tokens(train_byte_level())
    tokenizer.chat_template = CHAT_TEMPLATE
    encoder = ChatMLEncoder(tokenizer, reasoning="empty")
    proof = template_matches(tokenizer, encoder, [talk("a", "\n b"), talk("\na", "b")])
    assert (proof.n, proof.n_equal, proof.n_exempt, proof.first_difference) == (2, 1, 1, None)


def test_a_wrong_template_is_caught_with_the_place_where_it_goes_wrong():
    tokenizer = with_control_tokens(train_byte_level())
    tokenizer.chat_template = CHAT_TEMPLATE.replace("+ '<|im_end|>\\n' }}", "+ '<|im_end|>' }}")
    proof = template_matches(tokenizer, ChatMLEncoder(tokenizer), [talk("a", "b", source="s", row=4)])
    assert not proof.holds
    # <|im_start|> us er \n a <|im_end|>: the line break at position 6 is missing
    assert proof.first_difference.startswith(
        "source 's', row 4, position 6: trained on [199, 400, 65, 352, 338] ('\\n<|im_start|>assist'), "
        "template gives [400, 65, 352, 338, 316]"
    )


def test_the_template_holds_on_real_rows(shared_data):
    tokenizer = with_control_tokens(train_byte_level())
    tokenizer.chat_template = CHAT_TEMPLATE
    path = shared_data / "sft" / "hh-harmless.jsonl.gz"
    rows = list(read_conversations(SourceSection(name="hh", path=str(path))))[:300]
    proof = template_matches(tokenizer, ChatMLEncoder(tokenizer), rows)
    assert proof.first_difference is None
    assert proof.holds
    assert proof.n_equal > 290
