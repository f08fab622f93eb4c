import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.batches.collate import collate

END = 7


def test_conversations_lie_end_to_end_and_positions_restart() -> None:
    batch = collate([(np.array([5, 6, 7]), [(1, 3)]), (np.array([8, 9, 10, 11]), [(1, 2), (3, 4)])])
    assert batch.input_ids.tolist() == [5, 6, 7, 8, 9, 10, 11]
    assert batch.position_ids.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert batch.segment_starts == (0, 3, 7)
    # the token at position p is predicted from p - 1
    assert batch.predict_from.tolist() == [0, 1, 3, 5]
    assert batch.targets.tolist() == [6, 7, 9, 11]
    assert (batch.num_tokens, batch.num_trained) == (7, 4)


def test_the_first_token_of_a_conversation_cannot_be_trained() -> None:
    with pytest.raises(AssertionError, match="first token"):
        collate([(np.array([5, 6]), []), (np.array([7, 8]), [(0, 1)])])


@pytest.mark.parametrize("stop", [4, 3], ids=["end of turn trained", "end of turn masked"])
def test_turn_ends_are_seen_whether_trained_or_not(stop: int) -> None:
    # a user's turn, ended by 7 too, then the assistant's at 2..3
    user = [(np.array([7, 1, 2, END]), [(2, stop)])]
    batch = collate([(np.array([9, 8]), [(1, 2)]), *user], end_of_turn=END)
    assert batch.turn_ends.tolist() == [4]
    assert batch.input_ids[5] == END


def test_padding_follows_each_conversation_and_is_not_counted() -> None:
    batch = collate([(np.array([5, 6, 7]), [(1, 3)]), (np.array([8, 9]), [(1, 2)])], pad_to=4)
    assert batch.input_ids.tolist() == [5, 6, 7, 0, 8, 9, 0, 0]
    assert batch.segment_starts == (0, 4, 8)
    assert batch.predict_from.tolist() == [0, 1, 4]
    assert batch.targets.tolist() == [6, 7, 9]
    assert (batch.num_tokens, batch.num_padding) == (5, 3)


def test_nothing_is_one_token_of_padding() -> None:
    batch = collate([])
    assert (batch.num_tokens, batch.num_padding, batch.num_trained) == (0, 1, 0)
    assert batch.segment_starts == (0, 1)


@given(st.lists(st.integers(2, 9), min_size=1, max_size=5), st.integers(0, 12))
def test_padding_moves_no_target(lengths: list[int], pad_to: int) -> None:
    examples = [(np.arange(1, length + 1), [(1, length)]) for length in lengths]
    plain, padded = collate(examples, end_of_turn=4), collate(examples, end_of_turn=4, pad_to=pad_to)
    assert plain.targets.tolist() == padded.targets.tolist()
    for batch in (plain, padded):
        assert batch.input_ids[batch.predict_from + 1].tolist() == batch.targets.tolist()
        assert batch.input_ids[batch.turn_ends + 1].tolist() == [4] * len(batch.turn_ends)
        assert batch.num_tokens == sum(lengths)
