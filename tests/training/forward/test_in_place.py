"""Gradients that are added where they lie: the sums that autograd comes to, in memory that stays."""

from __future__ import annotations

import copy
from typing import Any, Literal

import numpy as np
import pytest
import torch
from torch import nn

from genesis_sft.batches.collate import collate
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.in_place import add_in_place, clear_gradients
from genesis_sft.training.forward.keep_less import keep_less
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.forward.padding import train_pad_token
from genesis_sft.training.forward.recompute import recompute_activations
from tests.conftest import build_llama

BATCHES = [
    collate([(np.arange(3, 35), [(2, 30)]), (np.arange(30, 46), [(1, 16)])]),
    collate([(np.arange(7, 27), [(5, 20)])]),
]


def objective(recompute: Literal["none", "full", "selective"] = "none") -> Objective:
    model = build_llama(64)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    train_pad_token(model)
    keep_less(model)
    recompute_activations(model, recompute)
    return Objective(model).train()


def backward(module: nn.Module, *, autocast: bool = False) -> None:
    for batch in BATCHES:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            loss = module(batch, 0.1)[0]
        loss.backward()


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("recompute", ["none", "selective", "full"])
def test_the_sums_are_those_of_autograd(recompute: Any, autocast: bool) -> None:
    plain, ours = objective(recompute), objective(recompute)
    backward(plain, autocast=autocast)
    add_in_place(ours)
    clear_gradients(ours.parameters())
    places = {name: parameter.grad.data_ptr() for name, parameter in ours.named_parameters()}
    backward(ours, autocast=autocast)
    for (name, expected), found in zip(plain.named_parameters(), ours.parameters(), strict=True):
        assert found.grad.data_ptr() == places[name], name
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6, msg=name)


def test_without_the_mark_or_before_the_start_autograd_does_it() -> None:
    marked, plain = objective(), objective()
    add_in_place(marked)
    backward(marked)  # no gradient is there to be added to
    backward(plain)
    for found, expected in zip(marked.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, rtol=1e-5, atol=1e-6)


def test_a_gradient_that_is_asked_for_by_itself_is_not_added() -> None:
    """As proofs before training do: they take the gradient and leave the parameters without one."""
    plain, marked = objective(), objective()
    add_in_place(marked)
    found, expected = (
        torch.autograd.grad(one(BATCHES[0], 1.0)[0], list(one.parameters()), allow_unused=True)
        for one in (marked, plain)
    )
    for one, other in zip(found, expected, strict=True):
        assert torch.equal(one, other)
    assert all(parameter.grad is None for parameter in marked.parameters())


def test_a_new_step_begins_with_zeros_in_the_same_memory() -> None:
    marked = objective()
    add_in_place(marked)
    clear_gradients(marked.parameters())
    backward(marked)
    first = {name: parameter.grad for name, parameter in marked.named_parameters()}
    assert all(grad.any() for grad in first.values())
    clear_gradients(marked.parameters())
    for name, parameter in marked.named_parameters():
        assert parameter.grad is first[name]
        assert not parameter.grad.any()


def test_others_and_frozen_ones_have_no_gradient_at_the_start_of_a_step() -> None:
    frozen = objective()
    frozen.model.get_input_embeddings().weight.requires_grad_(False)
    add_in_place(frozen)
    plain = objective()
    backward(plain)
    for module in (frozen, plain):
        clear_gradients(module.parameters())
    assert frozen.model.get_input_embeddings().weight.grad is None
    backward(frozen)
    assert frozen.model.get_input_embeddings().weight.grad is None
    assert all(parameter.grad is None for parameter in plain.parameters())


def test_a_tied_head_and_embedding_add_to_one_gradient() -> None:
    ours = objective()
    model = ours.model
    model.lm_head.weight = model.model.embed_tokens.weight
    plain = copy.deepcopy(ours)
    backward(plain)
    add_in_place(ours)
    clear_gradients(ours.parameters())
    backward(ours)
    torch.testing.assert_close(model.lm_head.weight.grad, plain.model.lm_head.weight.grad, rtol=1e-5, atol=1e-6)
