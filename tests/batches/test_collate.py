import numpy as np
import pytest

from genesis_sft.batches.collate import collate


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
