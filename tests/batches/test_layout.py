from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.batches.layout import lay_out

some_lengths = st.lists(st.integers(1, 50), min_size=1, max_size=40)


@given(some_lengths, st.integers(10, 120), st.integers(1, 5))
def test_nothing_is_lost_or_over_budget_and_no_process_is_left_behind(
    lengths: list[int], max_tokens: int, ranks: int
) -> None:
    spread = lay_out(lengths, max_tokens, ranks)
    groups = [group for rank in spread for group in rank]
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in group) <= max_tokens or len(group) == 1 for group in groups)
    assert len(spread) == ranks
    assert len({len(rank) for rank in spread}) == 1  # or they would wait for each other for ever


@given(st.lists(st.integers(200, 2048), min_size=32, max_size=32), st.integers(2, 4))
def test_processes_get_about_the_same_to_do(lengths: list[int], ranks: int) -> None:
    """Within one conversation of each other, in tokens and their squares together."""
    costs = [
        sum(lengths[i] * (1 + lengths[i] / 6144) for group in rank for i in group)
        for rank in lay_out(lengths, 4096, ranks)
    ]
    assert max(costs) - min(costs) <= max(lengths) * (1 + max(lengths) / 6144)


def test_by_hand() -> None:
    # longest first, each to the emptier one: 60 | 50, then 40 beside 50, then 30 beside 60
    assert lay_out([60, 30, 50, 40], max_tokens=100) == [[[0, 1], [2, 3]]]
    assert lay_out([60, 30, 50, 40], max_tokens=100, ranks=2) == [[[0, 1]], [[2, 3]]]


def test_more_processes_than_conversations() -> None:
    assert lay_out([5, 7], max_tokens=100, ranks=3) == [[[1]], [[0]], [[]]]
