from hypothesis import given
from hypothesis import strategies as st

from genesis_sft.batches.order import StepPlan, epoch_order


def plan_of(**changes: object) -> StepPlan:
    values = {"num_examples": 10, "sequences": 4, "epochs": 2, "drop_last": False, "max_steps": None, "seed": 3}
    return StepPlan(**(values | changes))


@given(st.integers(1, 60), st.integers(1, 20), st.integers(0, 5))
def test_every_conversation_is_seen_once_an_epoch(num_examples: int, sequences: int, seed: int) -> None:
    plan = plan_of(num_examples=num_examples, sequences=sequences, epochs=2, seed=seed)
    for epoch in range(2):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        seen = [int(i) for step in steps for i in plan.examples_of_step(step)]
        assert sorted(seen) == list(range(num_examples))


def test_a_step_depends_on_nothing_but_seed_and_number() -> None:
    straight = [plan_of().examples_of_step(step).tolist() for step in range(6)]
    assert plan_of().examples_of_step(4).tolist() == straight[4]
    assert plan_of(seed=4).examples_of_step(4).tolist() != straight[4]


def test_epochs_have_different_orders() -> None:
    assert epoch_order(50, 0, 0).tolist() != epoch_order(50, 0, 1).tolist()


def test_published_step_count() -> None:
    """510,577 conversations in steps of 32, the remainder dropped, are 15,955 steps (the published run)."""
    assert plan_of(num_examples=510_577, sequences=32, epochs=1, drop_last=True).num_steps == 15_955


def test_max_steps_and_drop_last_bound_the_run() -> None:
    assert plan_of(max_steps=3).num_steps == 3
    assert plan_of().num_steps == 6
    assert plan_of(drop_last=True).num_steps == 4
    assert plan_of(num_examples=3, drop_last=True).num_steps == 0
