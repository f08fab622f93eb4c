"""Every alarm sounds when its fault is planted in a real run, and names it; sound runs have none."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaForCausalLM

from genesis_sft.batches.collate import Example
from genesis_sft.training.watching.alarms import Alarm, find_alarms
from tests.training.watching.tiny_tuning import (
    ASSISTANT,
    CONTROL_IDS,
    END,
    GOOD_RATE,
    NEWLINE,
    SEQUENCES,
    START,
    pretrained,
    rules,
    run,
    write,
)

pytestmark = pytest.mark.slow


def alarms_of(**settings: Any) -> list[Alarm]:
    return find_alarms(*run(**{"num_steps": 120, **settings}))


def names(alarms: list[Alarm]) -> list[str]:
    return [alarm.name for alarm in alarms]


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rate", [GOOD_RATE, 3 * GOOD_RATE])
def test_a_sound_run_has_none(seed: int, rate: float) -> None:
    assert alarms_of(seed=seed, learning_rate=rate) == []


def test_nor_has_one_with_a_head_of_its_own() -> None:
    assert alarms_of(tied=False) == []


def test_nor_one_whose_base_can_end_its_turns_and_has_little_to_learn() -> None:
    rows, facts = run(num_steps=240)
    later = rows[120:]
    again = [
        row | {"step": number} for number, row in enumerate(later, 1)
    ]  # as if training began where that run is good
    assert find_alarms(again, facts | {"num_steps": 120}) == []


@pytest.mark.parametrize("rate", [10 * GOOD_RATE, 30 * GOOD_RATE])
@pytest.mark.parametrize("seed", [0, 1])
def test_a_learning_rate_ten_times_too_high(seed: int, rate: float) -> None:
    (alarm,) = alarms_of(learning_rate=rate, seed=seed)
    assert alarm.name == "learning_rate_too_high"
    assert alarm.step <= 30
    assert "times their norm" in alarm.message


def test_a_loss_that_rises_is_a_learning_rate_too_high() -> None:
    """Text that the base knows already, and no look at the weights."""
    draw = np.random.default_rng(3)
    known = [(np.array(write(draw, rules()[0], 24)), [(1, 24)]) for _ in range(120 * SEQUENCES)]
    (alarm,) = alarms_of(learning_rate=30 * GOOD_RATE, examples=known, health_every=1000, warmup_steps=60)
    assert alarm.name == "learning_rate_too_high"
    assert re.search(r"the loss has risen from 1\.\d\d to ", alarm.message)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_learning_rate_ten_times_too_low(seed: int) -> None:
    (alarm,) = alarms_of(learning_rate=GOOD_RATE / 10, num_steps=200, seed=seed)
    assert (alarm.name, alarm.step) == ("learning_rate_too_low", 100)
    assert "has only come to" in alarm.message


def test_a_learning_rate_at_which_nothing_happens() -> None:
    (alarm,) = alarms_of(learning_rate=GOOD_RATE / 300)
    assert (alarm.name, alarm.step) == ("learning_rate_too_low", 60)
    assert "the largest update was 4e-05 of the weights" in alarm.message


def test_ends_that_are_not_trained() -> None:
    (alarm,) = alarms_of(train_end=False, num_steps=60)
    assert (alarm.name, alarm.step) == ("terminator_masked", 0)
    assert "none of 480 ends of assistant turns is trained" in alarm.message


def freeze(model: LlamaForCausalLM) -> None:
    model.get_input_embeddings().weight.requires_grad_(False)


def test_rows_that_are_frozen_as_they_were_initialised() -> None:
    found = alarms_of(change=freeze, num_steps=200)
    # its row being the mean of all, the end of a turn cannot be learned: the symptom follows the cause
    assert [(alarm.name, alarm.step) for alarm in found] == [("rows_frozen", 0), ("terminator_not_learned", 100)]
    assert "<|im_end|> in the embedding" in found[0].message


def test_rows_that_are_frozen_but_were_trained_are_fine() -> None:
    def freeze_trained(model: LlamaForCausalLM) -> None:
        with torch.no_grad():
            model.get_input_embeddings().weight[START:] = torch.randn(len(CONTROL_IDS), 64) * 0.1
        freeze(model)

    torch.manual_seed(0)
    assert "rows_frozen" not in names(alarms_of(change=freeze_trained, num_steps=20))


def test_a_row_whose_gradient_is_kept_from_it() -> None:
    def block(model: LlamaForCausalLM) -> None:
        def without_end(gradient: torch.Tensor) -> torch.Tensor:
            kept = gradient.clone()
            kept[END] = 0
            return kept

        model.get_input_embeddings().weight.register_hook(without_end)

    found = alarms_of(change=block, num_steps=20)
    assert [(alarm.name, alarm.step) for alarm in found] == [("rows_frozen", 5)]  # the looks are at steps 1 and 5


def test_rows_that_the_optimizer_does_not_hold() -> None:
    rows, facts = run(num_steps=20, optimized=lambda model: model.model.layers.parameters())
    assert [(alarm.name, alarm.step) for alarm in find_alarms(rows, facts)] == [("rows_frozen", 10)]


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_are_zero(tied: bool) -> None:
    def zero(model: LlamaForCausalLM) -> None:
        with torch.no_grad():
            model.get_output_embeddings().weight[START:] = 0

    found = alarms_of(change=zero, tied=tied, num_steps=20)
    assert [(alarm.name, alarm.step) for alarm in found] == [("rows_zero", 0)]
    assert f"<|im_end|> ({'embedding' if tied else 'head'})" in found[0].message


def converse_without_sense(draw: np.random.Generator) -> Example:
    """An answer that ends anywhere: after each word with a chance of 4 %."""
    words = write(draw, rules()[1], 1 + min(40, int(draw.geometric(0.04))))
    ids = [START, ASSISTANT, NEWLINE, *words, END, NEWLINE]
    return np.array(ids), [(3, len(ids) - 1)]


def test_turns_that_end_where_nothing_tells() -> None:
    draw = np.random.default_rng(5)
    found = alarms_of(examples=[converse_without_sense(draw) for _ in range(120 * SEQUENCES)])
    assert names(found) == ["terminator_not_learned"]
    assert found[0].step >= 60


@pytest.mark.parametrize(("rate", "expected"), [(GOOD_RATE / 10, ["updates_lost"]), (GOOD_RATE, [])])
def test_updates_lost_to_rounding(rate: float, expected: list[str]) -> None:
    found = alarms_of(change=lambda model: model.to(torch.bfloat16), learning_rate=rate, num_steps=60)
    assert names(found) == expected


def test_steps_that_are_not_finite() -> None:
    def spoil(model: LlamaForCausalLM) -> None:
        """Every fourth gradient overflows."""
        calls: list[int] = []

        def overflow(gradient: torch.Tensor) -> torch.Tensor:
            calls.append(1)
            return gradient * (torch.inf if len(calls) % 4 == 0 else 1.0)

        model.model.norm.weight.register_hook(overflow)

    found = alarms_of(change=spoil, num_steps=20)
    assert [(alarm.name, alarm.step) for alarm in found] == [("non_finite_steps", 12)]


def test_an_optimizer_of_other_weights() -> None:
    found = alarms_of(optimized=lambda _: pretrained().parameters())
    assert "loss_not_falling" in names(found)
    assert "no weight moves" in next(alarm.message for alarm in found if alarm.name == "loss_not_falling")
    assert not {"learning_rate_too_low", "terminator_not_learned", "learning_rate_too_high"} & set(names(found))


@pytest.mark.parametrize("rate", [GOOD_RATE, 10 * GOOD_RATE, GOOD_RATE / 10])
def test_what_was_found_is_found_again_when_more_steps_are_there(rate: float) -> None:
    rows, facts = run(rate, num_steps=200, train_end=rate != GOOD_RATE)
    found = find_alarms(rows, facts)
    assert found
    for stop in range(0, 200, 10):
        assert find_alarms(rows[:stop], facts) == [alarm for alarm in found if alarm.step <= stop]


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert find_alarms([], {}) == []
    bare = [{"step": step, "loss": 2.0, "learning_rate": 1e-5} for step in range(1, 200)]
    assert names(find_alarms(bare, {"num_steps": 200})) == ["loss_not_falling"]
    assert (
        find_alarms([row | {"end_probability": 0.8} for row in bare], {"num_steps": 200}) == []
    )  # it was taught before
    assert find_alarms([row | {"loss": 2.0 - row["step"] / 200} for row in bare], {"num_steps": 200}) == []
