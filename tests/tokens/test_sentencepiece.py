"""Conversations on tokenizers converted from SentencePiece: one result on every path, and pretraining's ids inside."""

import copy
from itertools import pairwise

import pytest
from transformers import AutoTokenizer

from genesis_sft.checkpoint.control_tokens import CONTROL_TOKENS, add_to_tokenizer
from genesis_sft.checkpoint.sentencepiece.convert import read_sentencepiece
from genesis_sft.checkpoint.sentencepiece.proof_texts import CODE, PROSE, SHORT
from genesis_sft.tokens.chatml import CHAT_TEMPLATE, ChatMLEncoder, template_matches
from tests.checkpoint.sentencepiece.conftest import model_of, tokenizer_of  # noqa: F401
from tests.checkpoint.sentencepiece.models import processor
from tests.tokens.helpers import talk

# Not among them: models whose charsmap turns line breaks into spaces, and those that do not know the line break. There
# the end of a header merges with the content behind it.
NAMES = ["bpe", "bpe trimming", "bpe nfkc", "bpe no prefix", "bpe no prefix trimming", "bpe symbols",
         "bpe symbols trimming", "bpe symbols no prefix", "bpe nmt_nfkc line break", "unigram", "unigram no prefix",
         "unigram trimming", "unigram symbols"]  # fmt: skip
TEXTS = [text for text in (*PROSE, *CODE, *SHORT, "2024 hats", "def x", "ab", "0", "a   b", "->") if text.strip()]
CONVERSATIONS = [
    *(talk(text, text) for text in TEXTS),
    *(talk("why", (text, text), text, (f"\n{text}\n", f"  {text}"), system=text) for text in TEXTS),
]


def with_control_tokens(tokenizer):
    tokenizer = copy.deepcopy(tokenizer)
    add_to_tokenizer(tokenizer)
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


@pytest.mark.parametrize("name", NAMES)
def test_pieces_whole_text_and_the_saved_template_give_the_same_ids(name, tokenizer_of, tmp_path):  # noqa: F811
    tokenizer = with_control_tokens(tokenizer_of(name))
    encoder = ChatMLEncoder(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    for loaded in (tokenizer, again):
        proof = template_matches(loaded, encoder, CONVERSATIONS)
        assert proof.first_difference is None
        assert proof.n_equal > 0.8 * len(CONVERSATIONS)
    assert [ChatMLEncoder(again).encode(talk("a", "b"))] == [encoder.encode(talk("a", "b"))]


@pytest.mark.parametrize("name", NAMES)
def test_control_tokens_get_the_next_ids_and_no_stray_space_follows_them(name, model_of, tokenizer_of):  # noqa: F811
    tokenizer = with_control_tokens(tokenizer_of(name))
    size = processor(model_of(name)).get_piece_size()
    assert tokenizer.convert_tokens_to_ids(list(CONTROL_TOKENS)) == [size, size + 1, size + 2, size + 3]
    ids = ChatMLEncoder(tokenizer).encode(talk("no", ("because", "yes"), "no", "yes")).input_ids
    pieces = tokenizer.convert_ids_to_tokens(ids)
    behind = [after for before, after in pairwise(pieces) if before in CONTROL_TOKENS]
    assert behind
    assert not any(piece.startswith("▁") for piece in behind)
    assert "▁" not in pieces


@pytest.mark.parametrize("name", [name for name in NAMES if "no prefix" in name])
def test_text_in_a_turn_has_the_ids_of_pretraining(name, model_of, tokenizer_of):  # noqa: F811
    encoder, theirs = ChatMLEncoder(with_control_tokens(tokenizer_of(name))), processor(model_of(name))
    for text in TEXTS:
        if not any(marker in text for marker in ("<|x|>", "[INST]")):
            assert encoder.text.encode([text]) == [theirs.encode(text)]


@pytest.mark.parametrize("name", [name for name in NAMES if "no prefix" not in name and "trimming" not in name])
def test_text_in_a_turn_has_the_ids_of_pretraining_behind_a_line_break(name, model_of, tokenizer_of):  # noqa: F811
    if name == "bpe nmt_nfkc line break":
        pytest.skip("it trims spaces, also those behind the line break")
    encoder, theirs = ChatMLEncoder(with_control_tokens(tokenizer_of(name))), processor(model_of(name))
    prefix = theirs.encode("\n")
    for text in TEXTS:
        if not text.startswith(("\u0301", "\u0345")) and "<|x|>" not in text and "[INST]" not in text:
            whole = theirs.encode(f"\n{text}")
            assert prefix + encoder.text.encode([text])[0] == whole


def test_user_defined_text_is_text_and_user_defined_markers_are_not(tokenizer_of):  # noqa: F811
    for name in ("bpe symbols", "unigram symbols"):
        encoder = ChatMLEncoder(with_control_tokens(tokenizer_of(name)))
        (marker,) = encoder.text.encode(["<|x|>[INST]"])
        assert encoder.text.forbidden.isdisjoint(marker)
        assert encoder.decode(marker) == "<|x|>[INST]"
        assert set(encoder.text.added.values()) >= {"<|x|>", "[INST]", *CONTROL_TOKENS}
        assert "\n" not in encoder.text.added.values()


def test_bos_is_not_part_of_a_conversation(model_of):  # noqa: F811
    tokenizer = with_control_tokens(read_sentencepiece(model_of("bpe"), add_bos=True))
    assert 1 not in ChatMLEncoder(tokenizer).encode(talk("<s>", "b")).input_ids
