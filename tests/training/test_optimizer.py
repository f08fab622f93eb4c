"""Groups of the optimizer, the course of the learning rate, and states that survive a checkpoint."""

from __future__ import annotations

import copy
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict
from transformers import LlamaForCausalLM

from genesis_sft.batches.collate import collate
from genesis_sft.errors import InputError
from genesis_sft.recipe import BatchSection, EmbeddingSection, TrainingSection
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.optimizer import (
    _groups,
    _torchao_adamw,
    build_optimizer,
    describe_groups,
    freeze_embeddings,
    learning_rate_at,
    set_learning_rate,
)
from genesis_sft.training.processes.parallel import Trainable, join_ranks
from tests.conftest import build_llama

SECTION = TrainingSection(
    batch=BatchSection(sequences=4),
    learning_rate=2e-5,
    min_learning_rate=2e-6,
    warmup_steps=4,
    weight_decay=0.1,
    precision="float32",
)
OWN_RATE = SECTION.model_copy(update={"embeddings": EmbeddingSection(learning_rate=5e-6)})
FROZEN = SECTION.model_copy(update={"embeddings": EmbeddingSection(train=False)})
BATCH = collate([(np.arange(3, 15), [(2, 12)]), (np.arange(30, 36), [(1, 6)])])


def objective(*, tied: bool = True, seed: int = 0) -> Objective:
    model = build_llama(64, tied=tied, seed=seed)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    return Objective(model)


def rates(schedule: str, num_steps: int, **changes: object) -> list[float]:
    section = SECTION.model_copy(update={"schedule": schedule, **changes})
    return [learning_rate_at(step, num_steps, section) for step in range(num_steps)]


def test_cosine_by_hand() -> None:
    found = rates("cosine", 13)
    assert found[:4] == pytest.approx([0.5e-5, 1e-5, 1.5e-5, 2e-5])
    assert found[4] == pytest.approx(2e-5)  # the cosine starts at its top
    assert found[8] == pytest.approx((2e-5 + 2e-6) / 2)  # and is half-way down half-way through
    assert found[12] == pytest.approx(2e-6)  # and ends at the floor, on the last step
    assert found[3:] == sorted(found[3:], reverse=True)


def test_linear_by_hand() -> None:
    found = rates("linear", 9, learning_rate=10.0, min_learning_rate=2.0)
    assert found == pytest.approx([2.5, 5, 7.5, 10, 10, 8, 6, 4, 2])


def test_warmup_stable_decay_by_hand() -> None:
    found = rates("wsd", 15, learning_rate=10.0, min_learning_rate=1.0, decay_fraction=0.2)
    assert found == pytest.approx([2.5, 5, 7.5, *[10] * 9, 7, 4, 1])  # the last three of fifteen fall


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
@pytest.mark.parametrize("num_steps", [5, 6, 7, 1000])
def test_every_schedule_ends_at_the_floor_and_stays_within_its_bounds(schedule: str, num_steps: int) -> None:
    found = rates(schedule, num_steps, decay_fraction=1e-6)
    assert found[-1] == pytest.approx(2e-6)
    assert all(2e-6 * (1 - 1e-9) <= rate <= 2e-5 for rate in found)


@pytest.mark.parametrize("schedule", ["cosine", "linear", "wsd"])
def test_a_run_of_one_step_trains_at_the_peak(schedule: str) -> None:
    assert rates(schedule, 1, warmup_steps=0) == pytest.approx([2e-5])


def test_matrices_decay_and_vectors_do_not() -> None:
    module = objective()
    embedding, matrices, vectors = build_optimizer(module, SECTION).param_groups
    assert [group["weight_decay"] for group in (embedding, matrices, vectors)] == [0.1, 0.1, 0.0]
    assert all(parameter.ndim == 2 for parameter in matrices["params"])
    assert all(parameter.ndim == 1 for parameter in vectors["params"])
    config = module.model.config
    assert len(vectors["params"]) == 2 * config.num_hidden_layers + 1  # two norms a layer, and the last
    assert len(matrices["params"]) == 7 * config.num_hidden_layers
    assert len(embedding["params"]) == 1  # a tied head is one matrix, decayed once


def test_every_parameter_is_in_one_group() -> None:
    module = objective(tied=False)
    grouped = [id(p) for group in build_optimizer(module, SECTION).param_groups for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in module.parameters())


def test_groups_are_described() -> None:
    assert describe_groups(build_optimizer(objective(tied=False), OWN_RATE)) == [
        "embedding and output head, matrices: 2 tensors, 4,096 parameters, weight decay 0.1, learning rate up to 5e-06",
        "everything else, matrices: 14 tensors, 15,360 parameters, weight decay 0.1, learning rate up to 2e-05",
        "everything else, vectors: 5 tensors, 160 parameters, no weight decay, learning rate up to 2e-05",
    ]


def test_groups_keep_their_proportion_through_the_schedule() -> None:
    optimizer = build_optimizer(objective(), OWN_RATE)
    set_learning_rate(optimizer, 2e-6)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-7, 2e-6, 2e-6])


def test_the_embedding_moves_by_its_own_rate() -> None:
    """The first step of AdamW without decay moves every number with a gradient by the learning rate."""
    module = objective()
    before = copy.deepcopy(module.state_dict())
    optimizer = build_optimizer(module, OWN_RATE.model_copy(update={"weight_decay": 0.0}))
    module(BATCH)[0].backward()
    optimizer.step()
    after = module.state_dict()
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before}
    assert moved["model.model.embed_tokens.weight"] == pytest.approx(5e-6, rel=0.05)
    assert moved["model.model.layers.0.mlp.up_proj.weight"] == pytest.approx(2e-5, rel=0.05)


@pytest.mark.parametrize("tied", [True, False])
def test_frozen_embeddings_stay_and_everything_else_moves(tied: bool) -> None:
    module = objective(tied=tied)
    freeze_embeddings(module, FROZEN)
    before = copy.deepcopy(module.state_dict())
    optimizer = build_optimizer(module, FROZEN)
    module(BATCH)[0].backward()
    optimizer.step()
    stayed = {name for name, value in module.state_dict().items() if torch.equal(value, before[name])}
    assert stayed == {"model.model.embed_tokens.weight", "model.lm_head.weight"}


def test_nothing_is_frozen_unless_the_recipe_says_so() -> None:
    module = objective()
    freeze_embeddings(module, SECTION)
    assert all(parameter.requires_grad for parameter in module.parameters())


def step(trainable: Trainable, optimizer: torch.optim.Optimizer) -> None:
    trainable(BATCH, 1.0)[0].backward()
    optimizer.step()
    optimizer.zero_grad()


def state_of(trainable: Trainable, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """Weights and optimizer states by name."""
    found = {f"weight {name}": value for name, value in trainable.objective.model.state_dict().items()}
    for name, states in get_optimizer_state_dict(trainable.module, optimizer)["state"].items():
        found |= {f"{name} {kind}": value for kind, value in states.items()}
    return {name: value.detach().clone() for name, value in found.items()}


# in a single process, and in a process group of one with weights that FSDP has cut
alone_and_cut = pytest.mark.parametrize("parallel", ["auto", "fsdp"])


@alone_and_cut
@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
def test_states_of_all_groups_survive_a_checkpoint(parallel: str, tmp_path: Path) -> None:
    section = OWN_RATE.model_copy(update={"parallel": parallel, "device": "cpu"})
    with join_ranks(section) as ranks:
        first = Trainable(objective(tied=False), ranks, section)
        optimizer = build_optimizer(first.module, section)
        step(first, optimizer)
        set_learning_rate(optimizer, 1e-5)
        dcp.save({"optimizer": get_optimizer_state_dict(first.module, optimizer)}, checkpoint_id=tmp_path)
        second = Trainable(objective(tied=False, seed=1), ranks, section)
        second.module.load_state_dict(first.module.state_dict())
        restored = build_optimizer(second.module, section)
        empty = {"optimizer": get_optimizer_state_dict(second.module, restored)}
        dcp.load(empty, checkpoint_id=tmp_path)
        set_optimizer_state_dict(second.module, restored, empty["optimizer"])
        for group, like in zip(restored.param_groups, optimizer.param_groups, strict=True):
            assert {k: v for k, v in group.items() if k != "params"} == {k: v for k, v in like.items() if k != "params"}
        for trainable, optim in ((first, optimizer), (second, restored)):
            step(trainable, optim)
        expected, found = state_of(first, optimizer), state_of(second, restored)
        assert expected.keys() == found.keys()
        for name in expected:
            assert torch.equal(expected[name], found[name]), name


def test_fused_kernels_give_the_same_weights_with_any_number_of_threads() -> None:
    results = []
    for threads in (1, 2, 1):
        torch.set_num_threads(threads)
        weights = torch.randn(300, 577, generator=torch.Generator().manual_seed(0)).requires_grad_()
        optimizer = torch.optim.AdamW([weights], lr=1e-3, fused=True)
        for seed in range(3):
            weights.grad = torch.randn(300, 577, generator=torch.Generator().manual_seed(seed))
            optimizer.step()
        results.append(weights.detach())
    torch.set_num_threads(1)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


EIGHT_BITS = SECTION.model_copy(update={"optimizer": "adamw_8bit"})


def test_8_bit_states_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao", None)  # as if it were not installed
    with pytest.raises(InputError, match="torchao") as caught:
        build_optimizer(objective(), EIGHT_BITS)
    assert caught.value.hint == "Install it with: pip install 'genesis-sft[8bit]'"


@alone_and_cut
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torchao's own
def test_8_bit_states_follow_the_recipe_and_survive_a_checkpoint(parallel: str, tmp_path: Path) -> None:
    """On CPU, where torchao's step works too, if slowly; the recipe's path refuses it here."""
    pytest.importorskip("torchao", reason="torchao is an extra: pip install 'genesis-sft[8bit]'")
    with pytest.raises(InputError, match="CUDA"):
        build_optimizer(objective(), EIGHT_BITS)
    section = EIGHT_BITS.model_copy(update={"parallel": parallel, "device": "cpu", "embeddings": OWN_RATE.embeddings})
    with join_ranks(section) as ranks:
        first = Trainable(wide_objective(), ranks, section)
        optimizer = _torchao_adamw(_groups(first.module, section), section)
        before = copy.deepcopy(first.objective.model.state_dict())
        set_learning_rate(optimizer, 1e-5)
        step(first, optimizer)
        moved = first.objective.model.model.embed_tokens.weight - before["model.embed_tokens.weight"]
        assert float(moved.abs().max()) == pytest.approx(2.5e-6, rel=0.05)
        kinds = {type(_local(value)).__name__ for states in optimizer.state.values() for value in states.values()}
        assert "OptimState8bit" in kinds
        dcp.save({"optimizer": get_optimizer_state_dict(first.module, optimizer)}, checkpoint_id=tmp_path)
        second = Trainable(wide_objective(), ranks, section)
        second.module.load_state_dict(first.module.state_dict())
        restored = _torchao_adamw(_groups(second.module, section), section)
        empty = {"optimizer": get_optimizer_state_dict(second.module, restored)}
        dcp.load(empty, checkpoint_id=tmp_path)
        set_optimizer_state_dict(second.module, restored, empty["optimizer"])
        for trainable, optim in ((first, optimizer), (second, restored)):
            step(trainable, optim)
        for (name, expected), found in zip(
            first.module.state_dict().items(), second.module.state_dict().values(), strict=True
        ):
            assert torch.equal(_local(expected), _local(found)), name


def wide_objective() -> Objective:
    """Matrices large enough to be kept in 8 bits: 4,096 numbers and more."""
    torch.manual_seed(0)
    config = build_llama(64).config
    config.hidden_size, config.intermediate_size = 64, 128
    model = LlamaForCausalLM(config)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    return Objective(model)


def _local(value: torch.Tensor) -> torch.Tensor:
    return value.to_local() if hasattr(value, "to_local") else value
