import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.batches.order import StepPlan, epoch_order
from genesis_sft.recipe import BatchSection


def plan_of(num_examples: int = 10, sequences: int = 4, **changes: object) -> StepPlan:
    values = {"epochs": 2, "drop_last": False, "max_steps": None, "seed": 3}
    return StepPlan(np.full(num_examples, 5), BatchSection(sequences=sequences), **(values | changes))


lengths_of = st.lists(st.integers(1, 90), min_size=1, max_size=60).map(np.array)


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_every_conversation_is_seen_once_an_epoch(num_examples: int, sequences: int, seed: int) -> None:
    plan = plan_of(num_examples, sequences, seed=seed)
    steps_per_epoch = -(-num_examples // sequences)
    for epoch in range(2):
        steps = range(epoch * steps_per_epoch, (epoch + 1) * steps_per_epoch)
        seen = [int(i) for step in steps for i in plan.examples_of_step(step)]
        assert sorted(seen) == list(range(num_examples))


@given(lengths_of, st.integers(1, 200), st.integers(0, 5))
def test_a_step_in_tokens_is_as_full_as_the_order_allows(lengths: np.ndarray, tokens: int, seed: int) -> None:
    plan = StepPlan(lengths, BatchSection(tokens=tokens), epochs=1, seed=seed)
    steps = [plan.examples_of_step(step) for step in range(plan.num_steps)]
    assert np.concatenate(steps).tolist() == epoch_order(len(lengths), seed, 0).tolist()
    for step, following in zip(steps, [*steps[1:], None], strict=True):
        assert lengths[step].sum() <= tokens or len(step) == 1
        if following is not None:  # the next conversation would not have fitted
            assert lengths[step].sum() + lengths[following[0]] > tokens


def test_steps_in_tokens_by_hand() -> None:
    order = epoch_order(5, 0, 0)
    lengths = np.zeros(5, dtype=np.int64)
    lengths[order] = [6, 3, 12, 4, 4]  # as they come
    plan = StepPlan(lengths, BatchSection(tokens=10), epochs=1, seed=0)
    assert [lengths[plan.examples_of_step(step)].tolist() for step in range(plan.num_steps)] == [[6, 3], [12], [4, 4]]
    dropped = StepPlan(lengths, BatchSection(tokens=10), epochs=1, drop_last=True, seed=0)
    assert dropped.num_steps == 2


def test_epochs_in_tokens_are_cut_each_for_itself() -> None:
    lengths = np.arange(1, 41)
    plan = StepPlan(lengths, BatchSection(tokens=100), epochs=3, seed=1)
    seen = np.concatenate([plan.examples_of_step(step) for step in range(plan.num_steps)])
    assert [sorted(part) for part in np.split(seen, 3)] == [list(range(40))] * 3


def test_a_step_depends_on_nothing_but_seed_and_number() -> None:
    straight = [plan_of().examples_of_step(step).tolist() for step in range(6)]
    assert plan_of().examples_of_step(4).tolist() == straight[4]
    assert plan_of(seed=4).examples_of_step(4).tolist() != straight[4]


def test_epochs_have_different_orders() -> None:
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 0, 1).tolist()


def test_published_step_count() -> None:
    """510,577 conversations in steps of 32, the remainder dropped, are 15,955 steps (the published run)."""
    assert plan_of(510_577, 32, epochs=1, drop_last=True).num_steps == 15_955


def test_max_steps_and_drop_last_bound_the_run() -> None:
    assert plan_of(max_steps=3).num_steps == 3
    assert plan_of().num_steps == 6
    assert plan_of(drop_last=True).num_steps == 4
    assert plan_of(3, drop_last=True).num_steps == 0
