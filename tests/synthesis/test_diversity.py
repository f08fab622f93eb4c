"""Numbers of variety, worked out by hand on small sets."""

from __future__ import annotations

import math

import pytest

from genesis_sft.synthesis.output.card_parts import diversity_lines
from genesis_sft.synthesis.screening.diversity import SAMPLE_WORDS, diversity
from tests.synthesis.screened import candidate, talk


def test_distinct_n_counts_different_runs_over_words() -> None:
    found = diversity([candidate(0, talk("why?", "the sea the SEA, the")), candidate(1, talk("Why?", "The land."))])
    # answers: "the sea the sea the" and "the land", 7 words; 3 different words; pairs: the sea, sea the, the land;
    # triples: the sea the, sea the sea; none reaches from one answer into the next
    assert found.answers.words == 7
    assert found.answers.distinct == (3 / 7, 3 / 7, 2 / 7)
    assert found.questions.distinct == (1 / 2, 0, 0)
    assert found.answers.distinct_of_sample is None


def test_a_sample_compares_sets_of_other_sizes() -> None:
    def some(count: int, words: int) -> list[str]:  # a stream of words of which 499 are different
        return [
            " ".join(f"w{number * number % 997}" for number in range(words * one, words * one + words))
            for one in range(count)
        ]

    small, large = (
        diversity(candidate(number, talk("why?", answer)) for number, answer in enumerate(some(count, words)))
        for count, words in ((SAMPLE_WORDS // 100, 100), (4 * SAMPLE_WORDS // 100, 130))
    )
    assert small.answers.distinct_of_sample == small.answers.distinct  # all of its words are the sample
    assert large.answers.distinct_of_sample is not None
    assert large.answers.distinct[0] < 0.3 * small.answers.distinct[0]
    assert large.answers.distinct_of_sample[0] == pytest.approx(small.answers.distinct[0], rel=0.05)


def test_openings_are_counted_by_their_first_four_words() -> None:
    answers = ["Sure, here is a cat.", "sure here is a dog", "Sure, here is the cat.", "No."]
    found = diversity(candidate(number, talk(f"q {number}", answer)) for number, answer in enumerate(answers)).answers
    assert found.openings == (("sure here is a", 2), ("no", 1), ("sure here is the", 1))
    assert found.openings_share == 1
    entropy = -(0.5 * math.log(0.5) + 2 * 0.25 * math.log(0.25))
    assert found.effective_openings == pytest.approx(math.exp(entropy))


def test_only_the_first_exchange_has_an_opening() -> None:
    found = diversity([candidate(0, talk("one", "two", "three", "four"))])
    assert found.answers.openings == (("two", 1),)
    assert found.questions.openings == (("one", 1),)


def test_twenty_openings_of_equal_share() -> None:
    found = diversity(candidate(number, talk("q", f"w{number} is it")) for number in range(40)).answers
    assert found.effective_openings == pytest.approx(40)
    assert found.openings_share == 10 / 40


def test_near_duplicates_are_those_that_resemble_an_earlier_one() -> None:
    base = " ".join(f"w{number}" for number in range(100))
    same, half = base + " and", " ".join([*base.split()[:64], *(f"x{number}" for number in range(36))])
    other = " ".join(f"y{number}" for number in range(100))
    found = diversity(candidate(number, talk("q", text)) for number, text in enumerate((base, same, half, other)))
    # runs of 5 that both have over all: 97/99 with the second; 61/135 = 0.45 with the third
    assert found.near_duplicates == {0.3: 2 / 4, 0.5: 1 / 4, 0.7: 1 / 4}


def test_lengths_are_percentiles_by_side_and_area() -> None:
    made = [candidate(n, talk("one two", " ".join(["w"] * (n + 1))), area="ab"[n % 2]) for n in range(101)]
    found = diversity(made)
    assert found.answers.lengths is not None
    assert (found.answers.lengths.p5, found.answers.lengths.median, found.answers.lengths.p95) == (6, 51, 96)
    assert {name: area.conversations for name, area in found.areas.items()} == {"a": 51, "b": 50}
    area = found.areas["b"].answers  # 2, 4, ..., 100
    assert area is not None
    assert area.median == 51


def test_no_conversations_have_no_numbers() -> None:
    found = diversity([])
    assert found.conversations == 0
    assert list(diversity_lines(found)) == ["no conversations"]
    assert found.to_json()["answers"]["lengths"] is None


def test_few_conversations_are_told_by_their_lengths_alone() -> None:
    found = diversity(candidate(n, talk("one two", " ".join(["w"] * (n + 1)))) for n in range(49))
    *lengths, last = diversity_lines(found)
    assert lengths == ["questions: 2 words (median)", "answers: 25 words (median)"]
    assert "50 conversations" in last


def test_numbers_of_many_are_told_in_words() -> None:
    # 60 answers of four words, of which one is used throughout; 30 of them begin alike, and are alike
    answers = [f"same a{n} b{n} c{n}" if n < 30 else "same as it was" for n in range(60)]
    text = "\n".join(diversity_lines(diversity(candidate(n, talk(f"q{n}", one)) for n, one in enumerate(answers))))
    # words: 1 + 3 x 30 + 3 of 240; pairs in a row: 3 x 30 + 3 of 240
    assert "for every 100 words 39 different ones, 39 different pairs in a row" in text
    # the commonest opening and nine that one has: 39 of 60
    assert "the ten commonest open 65.0% of the conversations, 'same as it was ...' alone 30" in text
    assert not [term for term in ("distinct", "Jaccard", "n-gram", "effective") if term in text]
