"""Hashes of words: the same for the same word wherever it stands, the same in every process."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.conversations import word_hashes
from genesis_sft.conversations.word_hashes import hash_runs, hash_words, in_chunks

texts = st.lists(st.lists(st.sampled_from([b"a", b"b", b"ab", b"\x00", b"a\x00", b"\xff"]), max_size=8), max_size=6)


def joined(words_of_texts):
    return [b" ".join(words) for words in words_of_texts]


def test_a_hash_is_the_same_in_every_process_and_version():
    assert [hex(value) for value in hash_words([b"the ferry"]).values.tolist()] == [
        "0x8420a0242521ba4c",
        "0xec54b1c620b785aa",
    ]


@given(texts)
def test_hashes_are_equal_exactly_where_words_are(words_of_texts):
    hashes = hash_words(joined(words_of_texts))
    flat = [word for words in words_of_texts for word in words]
    assert len(set(hashes.values.tolist())) == len(set(flat))
    assert len(set(zip(flat, hashes.values.tolist(), strict=True))) == len(set(flat))
    assert np.diff(hashes.starts).tolist() == [len(words) for words in words_of_texts]


@given(texts, st.integers(1, 4))
def test_runs_are_equal_exactly_where_their_words_are_and_stay_within_a_text(words_of_texts, length):
    runs = hash_runs(hash_words(joined(words_of_texts)), length)
    expected = [
        tuple(words[start : start + length]) for words in words_of_texts for start in range(len(words) - length + 1)
    ]
    assert len(set(zip(expected, runs.values.tolist(), strict=True))) == len(set(expected))
    assert np.diff(runs.starts).tolist() == [max(0, len(words) - length + 1) for words in words_of_texts]


@given(texts)
def test_where_texts_are_cut_to_be_hashed_does_not_matter(words_of_texts):
    whole = hash_words(joined(words_of_texts))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_hashes, "CHUNK_BYTES", 3)
        in_pieces = hash_words(joined(words_of_texts))
    assert in_pieces.values.tolist() == whole.values.tolist()
    assert in_pieces.starts.tolist() == whole.starts.tolist()


def test_a_word_longer_than_a_piece_is_one_word():
    hashes = hash_words([b"x" * 200_000 + b" y", b"x" * 200_000])
    assert hashes.starts.tolist() == [0, 2, 3]
    assert hashes.values[0] == hashes.values[2]


@given(texts)
def test_chunks_hold_every_text_once_in_order(words_of_texts):
    given_texts = joined(words_of_texts)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(word_hashes, "CHUNK_BYTES", 4)
        chunks = [given_texts[chunk] for chunk in in_chunks(given_texts)]
    assert [text for chunk in chunks for text in chunk] == given_texts
    assert all(chunks)
