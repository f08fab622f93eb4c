"""Benchmark items in conversations: found where they stand, whole or changed a little, and not by common phrases."""

import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genesis_sft.conversations.contamination import COMMON_IN, Question, QuestionIndex
from genesis_sft.conversations.conversation import Conversation, Message

ITEM = "What is the sign of the old covenant for the people of that land? A rainbow over water."  # 18 words


def talk(question, answer="Yes.", system=None, reasoning=None):
    first = (Message("system", system),) if system else ()
    return Conversation((*first, Message("user", question), Message("assistant", answer, reasoning)))


def index_of(*texts):
    return QuestionIndex([Question("task", number, text) for number, text in enumerate(texts)])


def finds(text, conversation):
    return index_of(text).overlaps([conversation]) == [(0, 0)]


@pytest.mark.parametrize(
    "conversation",
    [
        talk(ITEM),
        talk(f"Please help me with this one. {ITEM} Thank you, that is all for now."),
        talk("Is it so?", ITEM),
        talk("Is it so?", system=ITEM),
        talk("Is it so?", reasoning=ITEM),
        talk("What is the sign of the old covenant for the people of that land?", "A rainbow over water."),
        talk("A rainbow over water, they said.", "What is the sign of the old covenant for the people of that land?"),
        talk(ITEM.upper().replace(" ", "\n\n").replace("?", " ... ")),
        talk("what is the sign of the old_covenant for the — people — of that land a rainbow over water"),
        talk("".join(chr(ord(mark) + 0xFEE0) if mark.isalpha() else mark for mark in ITEM)),
    ],
    ids=["as it is", "amid text", "answer", "system", "reasoning", "both", "turned", "case", "marks", "wide letters"],
)
def test_an_item_is_found_wherever_it_stands(conversation):
    assert finds(ITEM, conversation)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("What is the mark of the old covenant for the people of that land? A rainbow over water.", True),
        ("What is the sign of the covenant for the people of this whole land? A rainbow over water.", True),
        ("What is the sign of the old covenant for the people?", True),  # 11 of 18
        ("What is the sign of the old covenant for the people of that?", True),
        ("What is the sign of the old covenant?", False),  # 8 of 18
        ("What is the sign? The people of that land. A rainbow over water.", True),  # 4 + 5 + 4
        ("the land that of people the for covenant old the of sign the is What water over rainbow A", False),
        ("What is the capital of the old country? The people of a land call it by another name.", False),
    ],
)
def test_sixty_percent_of_the_words_have_to_stand_in_runs_of_three(text, found):
    assert finds(ITEM, talk(text)) is found


def test_the_share_counts_itself_and_one_run_of_four_is_needed():
    item = " ".join(f"w{number}" for number in range(20))
    assert finds(item, talk("zero " + " ".join(f"w{number}" for number in range(12)) + " zero"))  # 12 of 20
    assert not finds(item, talk("zero " + " ".join(f"w{number}" for number in range(11)) + " zero"))  # 11 of 20
    assert finds(item, talk("w0 w1 w2 w3 w4 w5 w6 w7 w8 zero w11 w12 w13"))  # 9 + 3
    threes = " zero ".join(f"w{number} w{number + 1} w{number + 2}" for number in range(0, 18, 3))
    assert not finds(item, talk(threes))  # 18 of 20, no run of 4


def test_of_a_short_item_four_words_in_five_have_to_stand_there():
    item = "What is the capital of the republic of Peru Lima"  # 10 words
    assert finds(item, talk("So what is the capital of the republic of Chile?"))  # 8 of 10
    assert not finds(item, talk("So what is the capital of the republic"))  # 7 of 10
    assert not finds("What is the capital of North Dakota Bismarck", talk("What is the capital of Peru?"))


def test_an_item_of_few_words_has_to_stand_there_wholly():
    item = "Who wrote the great book?"
    assert finds(item, talk("Tell me, who wrote the great book about whales?"))
    assert not finds(item, talk("Tell me, who wrote the great novel about whales?"))
    assert not finds("Who wrote the great book about sea whales", talk("who wrote the great"))  # 8 words: 4 of 5 needed


def test_the_words_have_to_stand_in_one_place():
    halves = ("What is the sign of the old covenant", "people of that land? A rainbow over water.")  # 8 and 8 of 18
    for num_between, found in ((30, True), (200, False)):
        between = " ".join(f"word{number}" for number in range(num_between))
        assert finds(ITEM, talk(f"{halves[0]} {between} {halves[1]}")) is found
    far = " ".join(f"word{number}" for number in range(500))
    assert finds(ITEM, talk(f"A rainbow over water. {far} {halves[0]} {ITEM}", far))


def test_items_too_short_to_check_are_counted_and_never_found():
    index = index_of("Who wrote it?", "", "a b c d", "a b c d e")
    assert index.num_too_short == 3
    assert index.overlaps([talk("Who wrote it?"), talk("a b c d e")]) == [(1, 3)]


def test_a_run_that_many_items_have_does_not_lead_to_them_but_their_other_runs_do():
    texts = [f"which of the following is true of {number} a{number} b{number}" for number in range(COMMON_IN + 1)]
    index = index_of(*texts)
    assert index.overlaps([talk("which of the following is true of him")]) == []
    assert index.overlaps([talk(texts[7])]) == [(0, 7)]


def test_items_that_stand_in_a_benchmark_many_times_are_all_found():
    index = index_of(*[ITEM] * (COMMON_IN + 8))
    assert index.overlaps([talk("no"), talk(ITEM)]) == [(1, number) for number in range(COMMON_IN + 8)]


def test_pairs_come_in_order_and_once():
    other = "Where can I buy a ball for tennis in the evening?"
    index = index_of(other, ITEM)
    conversations = [talk("no"), talk(f"{ITEM} {other} {ITEM}", other), talk("no"), talk(ITEM)]
    assert index.overlaps(conversations) == [(1, 0), (1, 1), (3, 1)]


def test_the_number_of_a_conversation_is_its_own_however_many_there_are():
    filler = "nothing to see here but words " * 100
    conversations = [talk(filler), talk(ITEM + filler)] * 100
    assert index_of(ITEM).overlaps(conversations) == [(number, 0) for number in range(1, 200, 2)]


def test_without_items_or_conversations_nothing_is_found():
    assert QuestionIndex([]).overlaps([talk(ITEM)]) == []
    assert index_of("too short").overlaps([talk(ITEM)]) == []
    assert index_of(ITEM).overlaps([]) == []
    assert index_of(ITEM).overlaps([talk("!", "?!")]) == []


def test_an_index_can_be_pickled_before_and_after_use():
    index = index_of(ITEM, "Where can I buy a ball for tennis?")
    before = pickle.loads(pickle.dumps(index))  # noqa: S301
    expected = index.overlaps([talk(ITEM)])
    after = pickle.loads(pickle.dumps(index))  # noqa: S301
    assert expected == before.overlaps([talk(ITEM)]) == after.overlaps([talk(ITEM)]) == [(0, 0)]
    assert index.sha256 == before.sha256


def test_the_identity_is_that_of_the_items_in_their_order():
    one, two = Question("a", 0, "x"), Question("a", 1, "x")
    hashes = {
        QuestionIndex(items).sha256 for items in ([], [one], [two], [one, two], [two, one], [Question("b", 0, "x")])
    }
    assert len(hashes) == 6
    assert QuestionIndex([one, two]).sha256 == QuestionIndex((one, two)).sha256


long_runs = st.tuples(st.sampled_from([*"x=中한\0", "https://a.b/", ITEM]), st.integers(1, 100)).map(
    lambda run: run[0] * run[1]
)
any_text = st.one_of(st.text(st.characters(exclude_categories=["Cs"])), long_runs).filter(str.strip)


@settings(deadline=None)
@given(st.lists(any_text, min_size=1, max_size=6))
def test_what_a_conversation_holds_does_not_depend_on_its_neighbours(texts):
    index = index_of(ITEM, *texts)
    conversations = [talk(text, "b") for text in texts]
    alone = [(row, item) for row, one in enumerate(conversations) for _, item in index.overlaps([one])]
    assert index.overlaps(conversations) == alone


words = st.lists(st.sampled_from("abcde"), max_size=15)


@settings(deadline=None)
@given(st.lists(words, min_size=1, max_size=8), st.lists(words.map(lambda some: some * 2), min_size=1, max_size=5))
def test_what_is_found_is_what_the_rule_says(items, conversations):
    def holds(text, item):
        runs = [{tuple(text[at : at + n]) for at in range(len(text) - n + 1)} for n in (3, 4)]
        covered = {at + step for at in range(len(item) - 2) if tuple(item[at : at + 3]) in runs[0] for step in range(3)}
        has_seed = any(tuple(item[at : at + 4]) in runs[1] for at in range(len(item) - 3))
        share = 1 if len(item) < 8 else 0.8 if len(item) < 13 else 0.6
        needed = math.ceil(len(item) * share - 1e-9)
        return len(item) >= 5 and has_seed and len(covered) >= needed

    expected = [
        (row, number)
        for row, text in enumerate(conversations)
        for number, item in enumerate(items)
        if holds(["x", *text], item)
    ]
    talks = [talk(" ".join(["x", *text]), ".") for text in conversations]
    assert index_of(*(" ".join(item) for item in items)).overlaps(talks) == expected
