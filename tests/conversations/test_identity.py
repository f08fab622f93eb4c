"""Equal messages have equal digests, others have others; what is held out goes by the first question alone."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.conversations.conversation import Message
from genesis_sft.conversations.identity import digest, held_out_bucket

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=3)
messages = st.builds(
    Message, st.sampled_from(["user", "assistant"]), texts, st.none() | texts, st.sampled_from([None, True, False])
)


def test_a_digest_is_pinned():
    # stores of earlier runs hold digests
    assert digest((Message("user", "a"), Message("assistant", "b"))).hex() == "74e8330947ccd0a2cf3e63007f3abac3"


def test_every_field_and_every_border_counts():
    variants = [
        (Message("user", "ab"),),
        (Message("assistant", "ab"),),
        (Message("user", "ab "),),
        (Message("user", "a"), Message("user", "b")),
        (Message("assistant", "a", "b"),),
        (Message("assistant", "a", ""),),
        (Message("assistant", "a"),),
        (Message("assistant", "a", train=False),),
        (Message("assistant", "a", train=True),),
        (Message("user", "a\nuser None 1 -1\nb"),),
        (Message("user", "e\u0301"),),
        (Message("user", "\u00e9"),),
    ]
    assert len({digest(variant) for variant in variants}) == len(variants)
    assert {len(digest(variant)) for variant in variants} == {16}


@given(st.lists(messages, max_size=3), st.lists(messages, max_size=3))
def test_digests_are_equal_where_the_messages_are(one, other):
    assert (digest(one) == digest(other)) == (one == other)


def test_the_bucket_goes_by_the_question_without_its_spacing_and_case():
    expected = int(hashlib.sha256(b"what is 2+2?").hexdigest()[:8], 16) % 10_000
    for question in ("what is 2+2?", "  What\u00a0is\n2+2? "):
        assert held_out_bucket(question) == expected
    assert held_out_bucket("what is 3+3?") != expected
