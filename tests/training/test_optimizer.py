import pytest
from transformers import LlamaForCausalLM

from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.optimizer import build_optimizer, learning_rate_at

SECTION = TrainingSection(
    batch=BatchSection(sequences=4), learning_rate=2e-5, min_learning_rate=2e-6, warmup_steps=4, weight_decay=0.1
)


def test_schedule_by_hand() -> None:
    rates = [learning_rate_at(step, 13, SECTION) for step in range(13)]
    assert rates[:4] == pytest.approx([0.5e-5, 1e-5, 1.5e-5, 2e-5])
    assert rates[4] == pytest.approx(2e-5)  # the cosine starts at its top
    assert rates[8] == pytest.approx((2e-5 + 2e-6) / 2)  # and is half-way down half-way through
    assert rates[12] == pytest.approx(2e-6)  # and ends at the floor, on the last step
    assert rates[3:] == sorted(rates[3:], reverse=True)


def test_matrices_decay_and_vectors_do_not(tiny_model: LlamaForCausalLM) -> None:
    matrices, vectors = build_optimizer(tiny_model.parameters(), SECTION).param_groups
    assert matrices["weight_decay"] == 0.1
    assert vectors["weight_decay"] == 0.0
    assert all(parameter.ndim == 2 for parameter in matrices["params"])
    assert all(parameter.ndim == 1 for parameter in vectors["params"])
    num_norms = 2 * tiny_model.config.num_hidden_layers + 1
    assert len(vectors["params"]) == num_norms
    # a tied head is one matrix, decayed once
    assert sum(p is tiny_model.lm_head.weight for p in matrices["params"]) == 1
