"""Promises on what a model's predictions show where no convention explains it: which part is most likely wrong."""

from __future__ import annotations

import math

import pytest
import torch

from genesis_sft.checkpoint.diagnosis.cost import ProbeText
from genesis_sft.checkpoint.diagnosis.predictions import Predictions, look_at_predictions
from tests.checkpoint.llama.random_llamas import Shape, as_stored, random_state, usual

SHAPE = Shape(heads=2, kv_heads=1, head_size=2, hidden=8, ffn=4, layers=1, rows=8)


@pytest.mark.parametrize(
    ("context", "correlation", "words"),
    [
        (0.05, 0.9, "the output head, or the whole model, is untrained or lost"),
        (2.0, 0.1, "the tokenizer is of another training"),
        (2.0, 0.8, "no convention explains it"),
        (0.5, 0.1, "no convention explains it"),
    ],
)
def test_the_likeliest_part_is_named(context: float, correlation: float, words: str) -> None:
    assert Predictions(context, correlation).likely_cause.startswith(words)


def copying_model() -> dict[str, torch.Tensor]:
    """Embedding and head are 40 x the identity, attention and MLP give nothing: every token predicts itself."""
    state = {name: t.zero_() if t.ndim == 2 else t.fill_(1.0) for name, t in random_state(SHAPE).items()}
    state["tok_embeddings.weight"] = torch.eye(8)
    state["output.weight"] = 40 * torch.eye(8)
    return state


def test_a_model_that_copies_uses_its_context_fully() -> None:
    text = ProbeText(((*range(8), 0),), {}, bos_id=None, dummy_prefix=None)
    found = look_at_predictions(as_stored(copying_model()), usual(SHAPE), text)
    assert found.context_nats == pytest.approx(math.log(8), abs=1e-3)  # eight certain predictions, all different


def test_a_model_with_a_constant_output_ignores_its_context() -> None:
    state = copying_model()
    state["output.weight"] = torch.ones(8, 8)
    text = ProbeText(((*range(8), 0),), {}, bos_id=None, dummy_prefix=None)
    found = look_at_predictions(as_stored(state), usual(SHAPE), text)
    assert found.context_nats == pytest.approx(0.0, abs=1e-6)
    assert found.ignore_context


def test_frequencies_of_text_and_predictions_go_together_in_the_right_ids() -> None:
    window = (1, 1, 1, 1, 2, 2, 3, 1, 1, 2)
    text = ProbeText((window,), {}, bos_id=None, dummy_prefix=None)
    right = look_at_predictions(as_stored(copying_model()), usual(SHAPE), text)
    assert right.frequency_correlation > 0.9
    state = copying_model()
    state["output.weight"] = state["output.weight"][[0, 3, 2, 1, 4, 5, 6, 7]]  # 1 and 3 mean each other
    other = look_at_predictions(as_stored(state), usual(SHAPE), text)
    assert other.frequency_correlation < 0
