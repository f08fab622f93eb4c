from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.batches.packing import pack


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(10, 120))
def test_nothing_is_lost_or_over_budget(lengths: list[int], max_tokens: int) -> None:
    groups = pack(lengths, max_tokens)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= max_tokens or len(group) == 1 for group in groups)


def test_first_fit_decreasing_by_hand() -> None:
    # 60 opens a batch, 50 another, 40 fits beside 60, 30 beside 50
    assert pack([60, 30, 50, 40], max_tokens=100) == [[0, 3], [1, 2]]
