"""Turns out of order are put in order by three rules, and by nothing else."""

import pytest

from genesis_sft.conversations.conversation import Message
from genesis_sft.conversations.faults import BadRow
from genesis_sft.conversations.repair import ANSWER_DROPPED, MERGED, QUESTION_DROPPED, repair_turns


def system(text):
    return Message("system", text)


def user(text):
    return Message("user", text)


def answer(text, *more):
    return Message("assistant", text, *more)


@pytest.mark.parametrize(
    ("messages", "expected", "rules"),
    [
        ([user("a"), answer("b")], [user("a"), answer("b")], []),
        ([user("a"), user("b"), answer("c")], [user("a\n\nb"), answer("c")], [MERGED]),
        ([user("a"), answer("b"), answer("c\n")], [user("a"), answer("b\n\nc\n")], [MERGED]),
        ([system("s"), system("t"), user("a"), answer("b")], [system("s\n\nt"), user("a"), answer("b")], [MERGED]),
        ([answer("x"), user("a"), answer("b")], [user("a"), answer("b")], [ANSWER_DROPPED]),
        ([system("s"), answer("x"), user("a"), answer("b")], [system("s"), user("a"), answer("b")], [ANSWER_DROPPED]),
        ([user("a"), answer("b"), user("c")], [user("a"), answer("b")], [QUESTION_DROPPED]),
        (
            [answer("x"), answer("y"), user("a"), user("b"), answer("c"), user("d"), user("e")],
            [user("a\n\nb"), answer("c")],
            [ANSWER_DROPPED, QUESTION_DROPPED, MERGED],
        ),
        (
            [user("a"), answer("b", "r", False), answer("c", "r", False)],
            [user("a"), answer("b\n\nc", "r", False)],
            [MERGED],
        ),
        # what no rule mends stays as it is
        ([user("a"), system("s"), answer("b")], [user("a"), system("s"), answer("b")], []),
        ([user("a"), user("b")], [user("a"), user("b")], []),
        ([answer("b")], [answer("b")], []),
        ([], [], []),
    ],
)
def test_repairs(messages, expected, rules):
    assert repair_turns(messages) == (tuple(expected), rules)


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        (answer("b", "r"), answer("c"), "turns cannot be merged"),
        (answer("b", None, True), answer("c", None, False), "turns cannot be merged"),
        (answer("b", None, True), answer("c"), "turns cannot be merged"),
        (answer("b"), answer(" "), "empty content"),
    ],
)
def test_what_would_be_lost_in_merging_is_refused(first, second, reason):
    with pytest.raises(BadRow) as caught:
        repair_turns([user("a"), first, second])
    assert caught.value.reason == reason
