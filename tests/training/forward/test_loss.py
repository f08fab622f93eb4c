"""The chunked loss is cross entropy, in value and in gradient."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from genesis_sft.training.forward import loss as loss_module
from genesis_sft.training.forward.loss import head_loss

TOKENS, HIDDEN, VOCAB = 11, 8, 23


def make(
    rows: int = VOCAB, *, bias: bool = False, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, nn.Linear]:
    torch.manual_seed(0)
    head = nn.Linear(HIDDEN, rows, bias=bias).to(dtype)
    return torch.randn(TOKENS, HIDDEN, dtype=dtype, requires_grad=True), head


@pytest.mark.parametrize("chunk", [1, 4, 11, 1024])
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("rows", [VOCAB, VOCAB + 9, 64, 65])
def test_equal_to_cross_entropy(chunk: int, bias: bool, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loss_module, "CHUNK_TOKENS", chunk)
    hidden, head = make(rows, bias=bias)
    targets = torch.arange(TOKENS) * 2
    expected = functional.cross_entropy(head(hidden)[:, :VOCAB], targets, reduction="none")
    wanted = torch.autograd.grad(0.25 * expected.sum(), [hidden, *head.parameters()])
    loss, nll = head_loss(hidden, head, targets, vocab_size=VOCAB, scale=0.25)
    torch.testing.assert_close(nll, expected)
    torch.testing.assert_close(loss, 0.25 * expected.sum())
    # by a caller that scales it once more, as gradient scalers and means over processes do
    found = torch.autograd.grad(2 * loss, [hidden, *head.parameters()])
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, 2 * other)


def test_a_gradient_that_was_handed_over_is_not_there_again() -> None:
    hidden, head = make()
    loss, _ = head_loss(hidden, head, torch.arange(TOKENS), vocab_size=VOCAB)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="only once"):
        loss.backward()


def test_tokens_of_no_probability_cost_what_they_should() -> None:
    """A logit of 200 above the target's: e^-200 is no float32, the loss of 200 nats is one."""
    head = nn.Linear(1, 3, bias=False)
    head.weight.data = torch.tensor([[200.0], [0.0], [-200.0]])
    nll = head_loss(torch.ones(3, 1), head, torch.tensor([0, 1, 2]), vocab_size=3)[1]
    assert nll.tolist() == [0.0, 200.0, 400.0]


def test_a_frozen_head_gets_no_gradient_and_costs_none() -> None:
    hidden, head = make()
    head.weight.requires_grad_(False)
    loss, _ = head_loss(hidden, head, torch.zeros(TOKENS, dtype=torch.long), vocab_size=VOCAB)
    loss.backward()
    assert head.weight.grad is None
    assert hidden.grad is not None


def test_nothing_trained_is_a_loss_of_zero_with_gradients_of_zero() -> None:
    _, head = make()
    hidden = torch.zeros(0, HIDDEN, requires_grad=True)
    loss, nll = head_loss(hidden, head, torch.zeros(0, dtype=torch.long), vocab_size=VOCAB)
    loss.backward()
    assert loss.item() == 0.0
    assert len(nll) == 0
    assert torch.equal(head.weight.grad, torch.zeros_like(head.weight))


def test_under_autocast_it_is_cross_entropy_to_bfloat16() -> None:
    hidden, head = make()
    targets = torch.arange(TOKENS)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        expected = functional.cross_entropy(head(hidden).float(), targets, reduction="none")
        wanted = torch.autograd.grad(expected.sum(), [hidden, head.weight])
        loss, nll = head_loss(hidden, head, targets, vocab_size=VOCAB)
    torch.testing.assert_close(nll, expected)
    for one, other in zip(torch.autograd.grad(loss, [hidden, head.weight]), wanted, strict=True):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=2e-2, atol=2e-2)
