"""Every trained token counts the same, however the step is cut into forward passes."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from genesis_sft.batches.collate import collate
from genesis_sft.training import loss as loss_module
from genesis_sft.training.attention import SEGMENT_ATTENTION
from genesis_sft.training.loss import token_losses
from genesis_sft.training.step import train_step

# (ids, trained spans): unequal lengths and unequal numbers of trained tokens, so that a mean of means would differ
EXAMPLES = [
    (np.array([3, 1, 4, 1, 5, 9, 2, 6]), [(2, 4), (6, 8)]),
    (np.array([5, 3, 5, 8]), [(3, 4)]),
    (np.array([9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6]), [(1, 10)]),
]


@pytest.fixture
def model(tiny_model: LlamaForCausalLM) -> LlamaForCausalLM:
    tiny_model.set_attn_implementation(SEGMENT_ATTENTION)
    return tiny_model


def reference_loss(model: LlamaForCausalLM) -> torch.Tensor:
    """The textbook: every conversation alone, full logits, labels -100 where nothing is trained, one shift."""
    model.set_attn_implementation("eager")
    total, count = torch.zeros(()), 0
    for ids, spans in EXAMPLES:
        labels = np.full(len(ids), -100)
        for start, stop in spans:
            labels[start:stop] = ids[start:stop]
        logits = model(torch.from_numpy(ids)[None]).logits[0]
        total = total + functional.cross_entropy(logits[:-1], torch.from_numpy(labels)[1:], reduction="sum")
        count += int((labels != -100).sum())
    model.set_attn_implementation(SEGMENT_ATTENTION)
    return total / count


@pytest.mark.parametrize("cut", [[[0, 1, 2]], [[0], [1], [2]], [[0, 2], [1]]])
def test_loss_and_gradient_equal_the_textbook_however_cut(model: LlamaForCausalLM, cut: list[list[int]]) -> None:
    expected_loss = reference_loss(model)
    model.zero_grad()
    expected_loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = [collate([EXAMPLES[i] for i in group]) for group in cut]
    result = train_step(model, optimizer, batches, max_grad_norm=1e9)
    assert result.loss == pytest.approx(float(expected_loss.detach()), rel=1e-5)
    assert (result.num_tokens, result.num_trained) == (23, 14)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-6)


def test_chunked_head_gives_the_same_losses_and_gradients(
    model: LlamaForCausalLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = collate(EXAMPLES)
    gradients = []
    for chunk in (1024, 3):
        monkeypatch.setattr(loss_module, "CHUNK_TOKENS", chunk)
        model.zero_grad()
        losses = token_losses(model, batch)
        losses.sum().backward()
        gradients.append((losses.detach(), model.model.embed_tokens.weight.grad.clone()))
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-4, atol=1e-6)


def test_gradients_are_clipped_to_the_norm(model: LlamaForCausalLM) -> None:
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = train_step(model, optimizer, [collate(EXAMPLES)], max_grad_norm=0.01)
    assert result.grad_norm > 0.01
    names = [name for name, _ in model.named_parameters()]
    moved = torch.cat([(model.state_dict()[name] - before[name]).flatten() for name in names])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-2)


def test_a_step_that_is_not_finite_leaves_the_weights_alone(model: LlamaForCausalLM) -> None:
    model.model.norm.weight.data[0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    assert train_step(model, optimizer, [collate(EXAMPLES)], max_grad_norm=1.0).skipped
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
