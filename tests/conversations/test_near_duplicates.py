"""Near duplicates: what counts as text, how well similarity is estimated, and which row of a group stays."""

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.conversations.conversation import Conversation, Message
from genesis_sft.conversations.near_duplicates import NUM_PERMUTATIONS, band_rows, near_duplicates, signatures

WORDS = [f"word{number}" for number in range(400)]


def talk(question, answer="Yes, it does.", system=None, reasoning=None):
    first = (Message("system", system),) if system else ()
    return Conversation((*first, Message("user", question), Message("assistant", answer, reasoning)))


def similarity(one, other):
    first, second = signatures([one, other])
    return np.count_nonzero(first == second) / NUM_PERMUTATIONS


def rows(*changes):
    """Signatures that differ from the first in the columns named, each with numbers of its own."""
    made = np.tile(np.arange(NUM_PERMUTATIONS, dtype=np.uint32), (len(changes), 1))
    for number, columns in enumerate(changes):
        made[number, columns] += np.uint32(1000 * (number + 1))
    return made


def test_a_signature_is_the_same_in_every_process_and_version():
    made = signatures(
        [talk("Does the ferry leave at seven?"), talk("Grüße aus Köln\u2028und mehr", reasoning="Na gut.")]
    )
    assert (made.shape, made.dtype) == ((2, 128), np.uint32)
    assert hashlib.sha256(made.astype("<u4").tobytes()).hexdigest()[:16] == "d59940168b7ddb0f"


@pytest.mark.parametrize(
    "other",
    [
        talk("does the FERRY leave\u00a0\n at seven?", "Yes,\tit  does."),
        talk("Does the ferry leave at seven?", system="You are a captain."),
    ],
    ids=["case and white space", "system message"],
)
def test_what_does_not_count(other):
    assert similarity(talk("Does the ferry leave at seven?"), other) == 1


@pytest.mark.parametrize(
    "other",
    [
        talk("Does the ferry leave at seven!"),
        talk("Yes, it does.", "Does the ferry leave at seven?"),
        talk("Does the ferry leave at seven?", reasoning="The timetable says so, as far as I know."),
    ],
    ids=["punctuation", "speakers swapped", "reasoning"],
)
def test_what_counts(other):
    assert similarity(talk("Does the ferry leave at seven?"), other) < 1


UNEVEN = ["x" * 50, "x" * 1000, "x" * 100_000, "https://example.com/some/long/path/to/page.html", "\0" * 70, "한" * 40]


@pytest.mark.parametrize("text", UNEVEN, ids=len)
def test_few_long_words_are_compared_as_a_whole_and_with_no_other_row(text):
    made = signatures([talk(text, "b"), talk("Does the ferry leave at seven?"), talk(text, "b"), talk(text + "y", "b")])
    assert near_duplicates(made, 0.5).tolist() == [-1, -1, 0, -1]
    assert (made[:1] == signatures([talk(text, "b")])).all()


pieces = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"])),
    st.tuples(st.sampled_from([*"x=中あ한ก\0é\u2028", "ab ", "x\n"]), st.integers(1, 200)).map(
        lambda run: run[0] * run[1]
    ),
)
any_text = st.lists(pieces, max_size=6).map("".join).filter(str.strip)


@settings(deadline=None)
@given(st.lists(st.tuples(any_text, any_text), min_size=1, max_size=6))
def test_the_signature_of_any_text_is_its_own(pairs):
    conversations = [talk(question, answer) for question, answer in pairs]
    alone = np.concatenate([signatures([one]) for one in conversations])
    assert (signatures(conversations) == alone).all()
    # of other rows there is nothing in it: rows with other words before and after give the same
    other = talk("Does the ferry leave at seven?")
    assert (signatures([other, conversations[0], other])[1] == alone[0]).all()


CHINESE = "你好，请给我介绍一下北京的历史和文化。北京是中国的首都，有三千多年的建城史，也是世界上著名的古都之一。"
JAPANESE = (
    "東京の美味しいラーメン屋を教えてください。できれば駅から近くて、あまり高くない店がいいです。よろしくお願いします。"
)
THAI = "ช่วยแนะนำสถานที่ท่องเที่ยวในกรุงเทพฯให้หน่อยครับ ผมอยากไปวัดและตลาดน้ำกับครอบครัวในวันหยุดสุดสัปดาห์นี้"


@pytest.mark.parametrize("text", [CHINESE, JAPANESE, THAI], ids=["Chinese", "Japanese", "Thai"])
def test_without_spaces_every_character_is_a_word(text):
    assert similarity(talk(text), talk(" ".join(text))) > 0.8  # but for marks and spaces of its own
    assert similarity(talk(text * 3), talk(text * 2 + text.replace(text[20], "X"))) > 0.5
    for other in (CHINESE, JAPANESE, THAI, text[::-1]):
        assert other == text or similarity(talk(text), talk(other)) < 0.2
    assert similarity(talk(text[:30]), talk(text[30:])) < 0.3


def test_korean_words_end_at_spaces():
    assert similarity(talk("서울의 역사를 알려 주세요"), talk("서울의역사를알려주세요")) < 0.5


def test_few_words_are_compared_as_a_whole():
    made = signatures([talk("hi", "yo"), talk("HI", "yo "), talk("hi", "ya"), talk(" ", "yo")])
    assert near_duplicates(made, 0.5).tolist() == [-1, 0, -1, -1]


def test_a_signature_does_not_depend_on_its_neighbours():
    conversations = [talk(" ".join(WORDS[: number % 390 + 1]) * (1 + number % 3)) for number in range(300)]
    alone = np.concatenate([signatures([one]) for one in conversations])
    assert (signatures(conversations) == alone).all()


@pytest.mark.parametrize(("num_shared", "jaccard"), [(100, 0.19), (200, 0.49), (280, 0.88)])
def test_equal_numbers_estimate_the_jaccard_similarity(num_shared, jaccard):
    # 300 words each, of which the first are shared: runs are shared but for the last 4 and the frame
    estimates = []
    for trial in range(20):
        start = [f"t{trial}s{number}" for number in range(num_shared)]
        one, other = (
            talk(" ".join([*start, *(f"{side}{trial}r{n}" for n in range(300 - num_shared))])) for side in "ab"
        )
        estimates.append(similarity(one, other))
    assert np.mean(estimates) == pytest.approx(jaccard, abs=4 * (jaccard * (1 - jaccard) / 128 / 20) ** 0.5 + 0.01)


def test_a_row_is_compared_with_rows_that_were_kept_and_not_with_those_left_out():
    chain = rows([], range(108, 128), range(90, 128))  # b resembles a, c resembles b, c does not resemble a
    chain[2, 108:] = chain[1, 108:]
    assert np.count_nonzero(chain[0] == chain[1]) == 108
    assert np.count_nonzero(chain[1] == chain[2]) == 110
    assert near_duplicates(chain, 0.8).tolist() == [-1, 0, -1]


def test_the_threshold_is_a_share_of_equal_numbers_and_counts_itself():
    def last(count):
        return range(128 - count, 128)

    assert near_duplicates(rows([], last(25)), 0.8).tolist() == [-1, 0]  # 103 of 128 are 0.8047
    assert near_duplicates(rows([], last(26)), 0.8).tolist() == [-1, -1]  # 102 are 0.797
    assert near_duplicates(rows([], last(64)), 0.5).tolist() == [-1, 0]
    assert near_duplicates(rows([], last(65)), 0.5).tolist() == [-1, -1]


def test_the_first_of_many_copies_stays():
    copies = np.repeat(rows([], range(0, 128, 2)), 10_000, axis=0)  # the second half resembles the first by a half
    found = near_duplicates(copies, 0.9)
    assert found.tolist() == [-1] + [0] * 9_999 + [-1] + [10_000] * 9_999


def test_copies_of_a_row_that_was_left_out_name_the_row_that_was_kept():
    made = rows([], range(10), range(10))
    made[2] = made[1]
    assert near_duplicates(made, 0.9).tolist() == [-1, 0, 0]


def test_no_rows_are_no_duplicates():
    assert near_duplicates(signatures([]), 0.8).tolist() == []


@pytest.mark.parametrize("threshold", [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99])
def test_bands_are_as_wide_as_they_can_be_without_missing_pairs(threshold):
    def missed(width):
        return (1 - threshold**width) ** (128 // width)

    width = band_rows(threshold)
    assert missed(width) <= 0.005
    assert width == 128 or missed(width + 1) > 0.005


@settings(deadline=None)
@given(st.lists(st.integers(0, 60), min_size=1, max_size=25), st.sampled_from([0.5, 0.8, 0.95]), st.integers(0, 99))
def test_rows_left_out_are_those_of_a_comparison_of_all_pairs(lengths, threshold, seed):
    draw = np.random.default_rng(seed)
    made = rows(*(draw.choice(128, size=length, replace=False) for length in lengths))
    width = band_rows(threshold)
    kept, expected = [], []
    for row in made:
        alike = [
            other
            for other in kept
            if (made[other] == row).mean() >= threshold
            and any((made[other] == row)[at : at + width].all() for at in range(0, 129 - width, width))
        ]
        expected.append(alike[0] if alike else -1)
        if not alike:
            kept.append(len(expected) - 1)
    assert near_duplicates(made, threshold).tolist() == expected
