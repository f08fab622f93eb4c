"""What cannot be carried over is refused by name, and so is what is no SentencePiece model."""

import pytest

from genesis_sft.checkpoint.sentencepiece.convert import read_sentencepiece
from genesis_sft.errors import ModelError
from tests.checkpoint.sentencepiece.models import by_hand, change, train


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "it has no pieces"),
        (b"\x80\x02}q\x00.", "no SentencePiece model"),
        (b"\x89PNG\r\n\x1a\n" + bytes(200), "no SentencePiece model"),
        (b'{"model": {}}', "no SentencePiece model"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path, content, message):
    (tmp_path / "x.model").write_bytes(content)
    with pytest.raises(ModelError, match=message):
        read_sentencepiece(tmp_path / "x.model", add_bos=False)


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    for path in (tmp_path / "absent.model", tmp_path):
        with pytest.raises(ModelError, match="cannot be read"):
            read_sentencepiece(path, add_bos=False)


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_off_is_refused(tmp_path, model_of, share):
    content = model_of("bpe").read_bytes()
    (tmp_path / "cut.model").write_bytes(content[: int(len(content) * share)])
    with pytest.raises(ModelError):
        read_sentencepiece(tmp_path / "cut.model", add_bos=False)


@pytest.mark.parametrize("name", ["word", "char"])
def test_word_and_char_models_are_refused_by_name(model_of, name):
    with pytest.raises(ModelError, match=f"is of type {name}; only BPE and unigram"):
        read_sentencepiece(model_of(name), add_bos=False)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("trainer_spec__treat_whitespace_as_suffix", True, "treat_whitespace_as_suffix"),
        ("normalizer_spec__escape_whitespaces", False, "escape_whitespaces"),
    ],
)
def test_other_rules_for_white_space_are_refused_by_name(tmp_path, model_of, field, value, message):
    path = change(model_of("bpe"), tmp_path / "m.model", **{field: value})
    with pytest.raises(ModelError, match=message):
        read_sentencepiece(path, add_bos=False)


def test_bpe_pieces_that_merges_cannot_give_are_refused_by_name(tmp_path):
    letters = [("a", -8.0, 1), ("b", -9.0, 1)]
    for pieces, message in (
        ([("ab", 0.0, 5)], "unused piece 'ab'"),
        ([("c", 0.0, 5)], "unused piece 'c'"),
        ([("aq", 0.0, 1)], r"the piece 'aq' is made of a character that is no piece itself \('q'\)"),
    ):
        path = by_hand(tmp_path / "m.model", [*letters, *pieces])
        with pytest.raises(ModelError, match=message):
            read_sentencepiece(path, add_bos=False)


def test_bos_that_the_model_does_not_have_is_refused(tmp_path):
    path = train(tmp_path / "m.model", bos_id=-1)
    assert read_sentencepiece(path, add_bos=False).bos_token is None
    with pytest.raises(ModelError, match="expected a beginning-of-text token"):
        read_sentencepiece(path, add_bos=True)
