"""Every trained token counts the same, however the step is cut into forward passes."""

import copy

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from genesis_sft.batches.collate import collate
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.processes.parallel import Ranks, Trainable
from genesis_sft.training.step import train_step

# (ids, trained spans): unequal lengths and unequal numbers of trained tokens, so that a mean of means would differ
EXAMPLES = [
    (np.array([3, 1, 4, 1, 5, 9, 2, 6]), [(2, 4), (6, 8)]),
    (np.array([5, 3, 5, 8]), [(3, 4)]),
    (np.array([9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6]), [(1, 10)]),
]
ALONE = Ranks(0, 1, 1, torch.device("cpu"))
SECTION = TrainingSection(batch=BatchSection(sequences=3), precision="float32")


@pytest.fixture
def model(tiny_model: LlamaForCausalLM) -> LlamaForCausalLM:
    tiny_model.set_attn_implementation(SEGMENT_ATTENTION)
    return tiny_model.train()


def trainable(model: LlamaForCausalLM, **changes: object) -> Trainable:
    return Trainable(Objective(model, **changes).train(), ALONE, SECTION)


def reference_loss(model: LlamaForCausalLM, z_loss: float = 0.0) -> torch.Tensor:
    """The textbook: every conversation alone, full logits, labels -100 where nothing is trained, one shift."""
    model.set_attn_implementation("eager")
    total, count = torch.zeros(()), 0
    for ids, spans in EXAMPLES:
        labels = np.full(len(ids), -100)
        for start, stop in spans:
            labels[start:stop] = ids[start:stop]
        logits, targets = model(torch.from_numpy(ids)[None]).logits[0, :-1], torch.from_numpy(labels)[1:]
        total = total + functional.cross_entropy(logits, targets, reduction="sum")
        total = total + z_loss * (logits[targets != -100].logsumexp(dim=1) ** 2).sum()
        count += int((labels != -100).sum())
    model.set_attn_implementation(SEGMENT_ATTENTION)
    return total / count


@pytest.mark.parametrize("cut", [[[0, 1, 2]], [[0], [1], [2]], [[0, 2], [], [1]]])
@pytest.mark.parametrize("pad_to", [None, 16])
@pytest.mark.parametrize("z_loss", [0.0, 1e-2])
def test_loss_and_gradient_equal_the_textbook_however_cut(
    model: LlamaForCausalLM, cut: list[list[int]], pad_to: int | None, z_loss: float
) -> None:
    expected_loss = reference_loss(model, z_loss)
    model.zero_grad()
    expected_loss.backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = [collate([EXAMPLES[i] for i in group], pad_to=pad_to) for group in cut]
    result = train_step(trainable(model, z_loss=z_loss), optimizer, batches, ALONE, max_grad_norm=1e9)
    assert result.loss == pytest.approx(float(reference_loss(model).detach()), rel=1e-5)  # reported without z-loss
    assert (result.num_tokens, result.num_trained) == (23, 14)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-3, atol=1e-6)


def test_the_end_of_a_turn_is_seen_where_one_is_and_elsewhere(model: LlamaForCausalLM) -> None:
    """6 ends the first conversation's and the last one's turn; the textbook's probabilities and ranks of it."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    batches = [collate([EXAMPLES[0]], end_of_turn=6), collate(EXAMPLES[1:], end_of_turn=6)]
    result = train_step(trainable(model, end_of_turn=6), optimizer, batches, ALONE, max_grad_norm=1e9)
    model.set_attn_implementation("eager")
    at_ends, ranks, elsewhere = [], [], []
    with torch.no_grad():
        for ids, spans in EXAMPLES:
            probabilities = model(torch.from_numpy(ids)[None]).logits[0].softmax(dim=-1)
            for start, stop in spans:
                for position in range(start, stop):
                    if ids[position] == 6:
                        continue
                    elsewhere.append(float(probabilities[position - 1, 6]))
                end = stop - 1 if ids[stop - 1] == 6 else stop
                if end < len(ids) and ids[end] == 6:
                    at_ends.append(float(probabilities[end - 1, 6]))
                    ranks.append(int((probabilities[end - 1] > probabilities[end - 1, 6]).sum()) + 1)
    assert len(at_ends) == 2
    assert result.end_probability == pytest.approx(np.mean(at_ends), rel=1e-4)
    assert result.end_rank == pytest.approx(np.mean(ranks))
    assert result.elsewhere_probability == pytest.approx(np.mean(elsewhere), rel=1e-4)


def test_gradients_are_clipped_to_the_norm(model: LlamaForCausalLM) -> None:
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    result = train_step(trainable(model), optimizer, [collate(EXAMPLES)], ALONE, max_grad_norm=0.01)
    assert result.grad_norm > 0.01
    names = [name for name, _ in model.named_parameters()]
    moved = torch.cat([(model.state_dict()[name] - before[name]).flatten() for name in names])
    assert float(moved.norm()) == pytest.approx(0.01, rel=1e-2)


def test_a_step_that_is_not_finite_leaves_the_weights_alone(model: LlamaForCausalLM) -> None:
    model.model.norm.weight.data[0] = float("inf")
    before = copy.deepcopy(model.state_dict())
    optimizer = torch.optim.AdamW(model.parameters(), lr=1.0)
    assert train_step(trainable(model), optimizer, [collate(EXAMPLES)], ALONE, max_grad_norm=1.0).skipped
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
