"""Long texts: tokie would cut them where the machine has it; here they are cut where no token can lie."""

import random

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from genesis_sft.tokens.engine import TokieEngine
from genesis_sft.tokens.hard_texts import hard_texts
from genesis_sft.tokens.long_texts import LONGEST, cut, cut_long, find_cuts, is_long
from genesis_sft.tokens.text import TextTokenizer
from tests.checkpoint.sentencepiece.conftest import model_of, tokenizer_of  # noqa: F401
from tests.conftest import train_byte_level, train_sentencepiece_like
from tests.tokens.helpers import CONTROL, losing_line_breaks, prepending, unigram, with_control_tokens

runs = st.builds(
    lambda what, length: (what * length)[:length],
    st.sampled_from(
        [" ", "\n", "-", "a", "\xa0", "é", "你", "😀", "ab", "\n    ", "- ", "word ", "tide. ", "\f", "Ⅷ "]
    ),
    st.sampled_from([1, 2, 3, 7, 1999, 2000, 2001, 4999, 7999, 8000, 8001, 12_861, 20_000]),
)
texts = st.lists(runs | st.text(st.characters(exclude_categories=["Cs"]), max_size=5), min_size=1, max_size=5)


def backend(tokenizer):
    return Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())


def cuts_of(tokenizer):
    pieces = tokenizer.decode_batch([[id] for id in range(tokenizer.get_vocab_size())], skip_special_tokens=False)
    return find_cuts(tokenizer, pieces)


NAMES = ["byte level", "unigram", "bpe no prefix", "bpe spaces"]


@pytest.fixture(scope="module")
def engines(tokenizer_of):  # noqa: F811
    """Fast engines for text, by name of the tokenizer."""
    made = {"byte level": train_byte_level(), "unigram": unigram()}
    made |= {name: tokenizer_of(name) for name in NAMES[2:]}
    found = {name: TextTokenizer.of(with_control_tokens(each), CONTROL).engines[0] for name, each in made.items()}
    assert {engine.name for engine in found.values()} == {"tokie"}
    return found


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=15, deadline=None)
@given(several=st.lists(texts.map("".join), min_size=1, max_size=3))
@example(several=["x", *(run * 12_000 for run in "-= a\n.#"), "y"])
@example(several=["\n        return x" * 3000, "", "\xa0" * 6178, "word é " * 4000])
def test_long_texts_give_the_ids_of_the_reference(engines, name, several):
    (ids, lengths), (expected, expected_lengths) = (
        engine.encode(several) for engine in (engines[name], engines[name]._reference)
    )
    assert lengths.tolist() == expected_lengths.tolist()
    assert np.array_equal(ids, expected)


@pytest.mark.parametrize("name", NAMES)
def test_tokie_never_sees_a_text_that_it_would_cut(engines, name):
    seen = []

    class Listening:
        def encode_batch_flat(self, texts, add_special_tokens):
            seen.extend(texts)
            return right.encode_batch_flat(texts, add_special_tokens=False)

    engine = TokieEngine(*engines[name].__reduce__()[1])
    right, engine._tokie = engine._tokie, Listening()
    chance = random.Random(5)
    several = ["-" * 10_000, "word " * 9000, "é" * 30_000, "words é " * 9000, "a" * LONGEST, "a" * (LONGEST + 1), "no"]
    several += ["".join(chance.choices("ab \n😀", (5, 5, 1, 1, 1), k=20_000)) for _ in range(5)]
    engine.encode(several)
    assert {"a" * LONGEST, "no"} <= set(seen)
    assert max(len(text.encode()) for text in seen) <= LONGEST
    if name == "byte level":  # ordinary words are for the fast engine, whatever their number
        assert sum(map(len, seen)) > len(several[1]) + len(several[3]) + LONGEST


def test_texts_are_cut_before_spaces_and_line_breaks_that_no_token_holds_behind_a_character(engines):
    assert cuts_of(engines["byte level"]._reference.tokenizer) == " \n"
    assert cuts_of(engines["bpe no prefix"]._reference.tokenizer) == " \n"
    assert cuts_of(engines["bpe spaces"]._reference.tokenizer) == "\n"  # it has pieces of several words
    assert cuts_of(engines["unigram"]._reference.tokenizer) == ""
    assert cuts_of(backend(prepending(train_sentencepiece_like()))) == ""  # a space before each part
    assert cuts_of(backend(losing_line_breaks(train_sentencepiece_like()))) == ""


def test_parts_are_as_long_as_they_may_be_and_begin_at_white_space_behind_something_else():
    text = "a" * 5000 + "  " + "b" * 2998 + "\n" + "c" * 9000 + " d"
    assert cut(text, " \n") == ["a" * 5000 + "  " + "b" * 2998, "\n" + "c" * 9000, " d"]
    assert cut(text, " ") == ["a" * 5000, "  " + "b" * 2998 + "\n" + "c" * 9000, " d"]
    assert cut(text, "") == [text]
    assert cut(" " * 9000, " ") == [" " * 9000]
    assert [len(part) for part in cut("é " * 2000, " ")] == [1999, 2000, 1]
    assert cut("word", " ") == ["word"]


def test_parts_are_counted_by_their_text():
    long = "word " * 2000
    parts, starts = cut_long(["a b", long, "", long, "c"], " ")
    assert "".join(parts) == f"a b{long}{long}c"
    assert starts.tolist() == [0, 1, 3, 4, 6]
    assert (parts[0], parts[3], parts[6]) == ("a b", "", "c")
    assert cut_long([], " ")[1].tolist() == []


def test_a_text_is_long_by_the_bytes_that_it_may_have():
    assert [is_long("a" * LONGEST), is_long("a" * (LONGEST + 1))] == [False, True]
    assert [is_long("😀" * (LONGEST // 4)), is_long("😀" * (LONGEST // 4 + 1))] == [False, True]


def test_hard_texts_reach_up_to_the_longest_that_an_engine_sees_and_far_beyond():
    several = list(hard_texts(["Zqx", " wvu"]))
    assert {"-" * LONGEST, "\n" * LONGEST, "😀" * (LONGEST // 4)} <= set(several)
    assert sorted({len(text) for text in several if len(text) > LONGEST}) == [9_000, 30_000, 100_000]
