"""Activations that are computed again change no gradient, keep names, and take less memory."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Literal

import numpy as np
import pytest
import torch
from torch import nn

from genesis_sft.batches.collate import collate
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.forward.recompute import recompute_activations
from genesis_sft.training.processes.parallel import Ranks, Trainable, full, join_ranks
from tests.conftest import build_llama

BATCH = collate([(np.arange(3, 35), [(2, 30)]), (np.arange(30, 46), [(1, 16)])])
SECTION = TrainingSection(batch=BatchSection(sequences=2), precision="float32", device="cpu", parallel="fsdp")
Kind = Literal["none", "selective", "full"]
KINDS: tuple[Kind, ...] = ("none", "selective", "full")


def objective(kind: Kind) -> Objective:
    model = build_llama(64)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    recompute_activations(model, kind)
    return Objective(model).train()


def gradients(module: nn.Module, *, autocast: bool = False) -> dict[str, torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        loss = module(BATCH, 0.1)[0]
    loss.backward()
    found = {name.removeprefix("module."): parameter.grad for name, parameter in module.named_parameters()}
    return {name: full(grad) for name, grad in found.items() if grad is not None}


def assert_equal(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name in expected:
        assert torch.equal(found[name], expected[name]), name


@pytest.fixture(scope="module")
def alone() -> Iterator[Ranks]:
    """A process group of one, which DDP and FSDP need."""
    with join_ranks(SECTION) as ranks:
        yield ranks


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", KINDS[1:])
def test_gradients_are_the_same_bit_for_bit(kind: Kind, autocast: bool) -> None:
    assert_equal(gradients(objective(kind), autocast=autocast), gradients(objective("none"), autocast=autocast))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_gradients_are_the_same_under_ddp(kind: Kind, alone: Ranks) -> None:
    found, expected = (gradients(nn.parallel.DistributedDataParallel(objective(k))) for k in (kind, KINDS[0]))
    assert_equal(found, expected)


@pytest.mark.parametrize("kind", KINDS[1:])
def test_gradients_are_the_same_under_fsdp(kind: Kind, alone: Ranks) -> None:
    found, expected = (gradients(Trainable(objective(k), alone, SECTION).module) for k in (kind, KINDS[0]))
    assert_equal(found, expected)


def test_names_stay() -> None:
    assert [list(objective(kind).state_dict()) for kind in KINDS[1:]] == [list(objective("none").state_dict())] * 2


def test_a_copy_computes_with_its_own_weights() -> None:
    module = objective("full")
    twin = copy.deepcopy(module)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert_equal(gradients(twin), gradients(objective("none")))


class Products(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts matrix products."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += "mm" in str(function)
        return function(*args, **(kwargs or {}))


def test_selective_repeats_the_products_of_gated_layers_and_full_all() -> None:
    counts = {}
    for kind in KINDS:
        module, counter = objective(kind), Products()
        with counter:
            gradients(module)
        counts[kind] = counter.count
    # the last product of a unit is not needed again: nothing behind it in the unit is
    assert counts["selective"] == counts["none"] + 2 * 2
    assert counts["full"] == counts["none"] + 2 * 6


def test_full_keeps_one_tensor_a_layer_and_selective_nothing_of_gated_layers() -> None:
    kept = {}
    for kind in KINDS:
        found: dict[int, int] = {}

        def pack(tensor: torch.Tensor, found: dict[int, int] = found) -> torch.Tensor:
            storage = tensor.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
            return tensor

        module = objective(kind)
        weights = {p.untyped_storage().data_ptr() for p in module.parameters()}
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            output = module.model.model(BATCH.input_ids[None], segment_starts=BATCH.segment_starts)
        kept[kind] = sum(size for place, size in found.items() if place not in weights)
        del output
    per_layer = 32 * 4 * 48  # hidden size, bytes, tokens
    assert kept["full"] < 2 * per_layer + 6 * per_layer
    assert kept["none"] > 2 * 10 * per_layer
    # of a gated layer: gate, activated gate, up and their product; each has 48 numbers to the 32 of the hidden state
    assert kept["none"] - kept["selective"] == 2 * 4 * per_layer * 48 // 32
