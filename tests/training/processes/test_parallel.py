"""One step is one step: the same loss and gradient on any number of processes, as the textbook has them."""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import LlamaForCausalLM

from genesis_sft.errors import InputError
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.processes.parallel import Trainable, full, join_ranks
from genesis_sft.training.step import accumulate_gradients, micro_batches_of_step
from tests.conftest import build_llama
from tests.training.processes.processes import run_ranks

MAX_TOKENS = 170
"""Budget at which the conversations of `INDICES` make four micro-batches."""

INDICES = [0, 4, 9, 13, 17, 21, 24, 28]
FIXED_LENGTH = 160
"""What the reference pads every conversation to; none is longer."""

Outcome = dict[str, Any]


@pytest.fixture(scope="session")
def data(tiny_run: Path, tiny_store: TokenStore) -> Path:
    """The prepared conversations, of unequal lengths and unequal numbers of trained tokens."""
    lengths = {tiny_store.train.num_tokens(index) for index in INDICES}
    trained = {tiny_store.train.num_trained(index) for index in INDICES}
    assert len(lengths) > 3
    assert len(trained) > 3
    assert max(lengths) <= FIXED_LENGTH
    return tiny_run / "data"


def build_model(data: Path, *, tied: bool, frozen: bool) -> LlamaForCausalLM:
    """The same weights in every process, and in the test itself."""
    store = TokenStore.open(data)
    largest = max(int(store.train.input_ids(index).max()) for index in range(len(store.train)))
    model = build_llama(largest + 1, tied=tied).train()
    for part in (model.get_input_embeddings(), model.get_output_embeddings()):
        part.weight.requires_grad_(not frozen)
    return model


def one_step(
    data: Path, indices: list[int], *, parallel: str, tied: bool = True, frozen: bool = False, offload: bool = False
) -> Outcome:
    """A process's part of a step, through the production functions."""
    section = TrainingSection(
        batch=BatchSection(sequences=len(indices)),
        precision="float32",
        device="cpu",
        parallel=parallel,
        cpu_offload=offload,
        timeout_seconds=60,
    )
    with join_ranks(section) as ranks:
        model = build_model(data, tied=tied, frozen=frozen)
        model.set_attn_implementation(SEGMENT_ATTENTION)
        trainable = Trainable(Objective(model), ranks, section)
        batches = micro_batches_of_step(indices, TokenStore.open(data).train, MAX_TOKENS, ranks)
        sums = accumulate_gradients(trainable, batches, ranks)
        gradients = {
            name: full(parameter.grad).clone()
            for name, parameter in model.named_parameters()
            if parameter.grad is not None
        }
        norm = trainable.clip(1e9)
    return {
        "kind": trainable.kind,
        "passes": len(batches),
        "busy": sum(batch.num_trained > 0 for batch in batches),
        "loss": sums.loss / sums.num_trained,
        "counts": (sums.num_tokens, sums.num_trained),
        "norm": norm,
        "gradients": gradients,
    }


def textbook(data: Path, indices: list[int], *, tied: bool = True, frozen: bool = False) -> Outcome:
    """One batch padded to a fixed length, stock attention with a mask, full logits, labels -100, cross entropy."""
    model, table = build_model(data, tied=tied, frozen=frozen), TokenStore.open(data).train
    ids = torch.zeros(len(indices), FIXED_LENGTH, dtype=torch.int64)
    mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
    for row, index in enumerate(indices):
        length = table.num_tokens(index)
        ids[row, :length], mask[row, :length] = torch.from_numpy(table.input_ids(index)), 1
        for start, stop in table.trained(index):
            labels[row, start:stop] = ids[row, start:stop]
    model.set_attn_implementation("sdpa")
    logits = model(ids, attention_mask=mask).logits  # (conversations, FIXED_LENGTH, vocab_size)
    count = int((labels[:, 1:] != -100).sum())
    loss = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten(), reduction="sum") / count
    loss.backward()
    gradients = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {"loss": float(loss.detach()), "counts": (int(mask.sum()), count), "gradients": gradients}


def assert_equal(found: Outcome, expected: Outcome) -> None:
    assert found["loss"] == pytest.approx(expected["loss"], rel=1e-5)
    assert found["counts"] == expected["counts"]
    assert found["gradients"].keys() == expected["gradients"].keys()
    squares = 0.0
    for name, gradient in expected["gradients"].items():
        difference = float((found["gradients"][name] - gradient).norm() / gradient.norm())
        assert difference < 1e-5, f"{name}: {difference:.1e}"
        squares += float(gradient.double().norm()) ** 2
    assert found["norm"] == pytest.approx(squares**0.5, rel=1e-5)


def step(data: Path, indices: list[int], count: int, parallel: str, local: int | None = None, **how: bool) -> Outcome:
    """The step's outcome, after a look that all processes have the same."""
    outcomes = run_ranks(functools.partial(one_step, data, indices, parallel=parallel, **how), count, local=local)
    for other in outcomes[1:]:
        assert other["loss"] == outcomes[0]["loss"]
        assert other["norm"] == outcomes[0]["norm"]
        for name, gradient in outcomes[0]["gradients"].items():
            assert torch.equal(other["gradients"][name], gradient), name
    return outcomes[0] | {"busy": [outcome["busy"] for outcome in outcomes]}


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize("count", [1, 2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_step_is_the_textbooks_on_any_number_of_processes(data: Path, count: int, parallel: str) -> None:
    found = step(data, INDICES, count, parallel)
    assert found["kind"] == ("single" if (count, parallel) == (1, "ddp") else parallel)
    assert found["passes"] == 4 // count  # 1 x 4, 2 x 2, 4 x 1 processes x accumulation
    assert_equal(found, textbook(data, INDICES))


@pytest.mark.slow
def test_hybrid_on_two_machines_of_two_processes_is_the_textbooks(data: Path) -> None:
    found = step(data, [*INDICES, 2, 7, 12, 19], 4, "hybrid", local=2)
    assert (found["kind"], found["passes"]) == ("hybrid", 2)
    assert_equal(found, textbook(data, [*INDICES, 2, 7, 12, 19]))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_process_with_nothing_to_do_changes_nothing(data: Path, parallel: str) -> None:
    found = step(data, INDICES[:2], 3, parallel)
    assert sorted(found["busy"]) == [0, 1, 1]
    assert_equal(found, textbook(data, INDICES[:2]))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
@pytest.mark.parametrize(("tied", "frozen"), [(False, False), (True, True), (False, True)])
def test_untied_heads_and_frozen_embeddings(data: Path, parallel: str, tied: bool, frozen: bool) -> None:
    found = step(data, INDICES, 2, parallel, tied=tied, frozen=frozen)
    assert ("model.embed_tokens.weight" in found["gradients"]) == (not frozen)
    assert_equal(found, textbook(data, INDICES, tied=tied, frozen=frozen))


def twice(data: Path, parallel: str) -> bool:
    """Whether the same step has the same gradient, bit for bit, as the first and as the second of a process's life."""
    section = TrainingSection(
        batch=BatchSection(sequences=1), precision="float32", device="cpu", parallel=parallel, timeout_seconds=60
    )
    with join_ranks(section) as ranks:
        model = build_model(data, tied=True, frozen=False)
        model.set_attn_implementation(SEGMENT_ATTENTION)
        trainable = Trainable(Objective(model), ranks, section)
        batches = micro_batches_of_step(INDICES, TokenStore.open(data).train, MAX_TOKENS, ranks)
        found = []
        for _ in range(2):
            trainable.module.zero_grad(set_to_none=True)
            accumulate_gradients(trainable, batches, ranks)
            found.append([full(parameter.grad).clone() for parameter in model.parameters()])
    return all(torch.equal(first, second) for first, second in zip(*found, strict=True))


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_a_step_does_not_depend_on_what_the_process_did_before(data: Path, parallel: str) -> None:
    assert all(run_ranks(functools.partial(twice, data, parallel), 3))


def join_with_unequal_machines(data: Path) -> str:
    os.environ["LOCAL_WORLD_SIZE"] = "2" if os.environ["RANK"] in "01" else "1"
    with pytest.raises(InputError) as caught:
        one_step(data, INDICES, parallel="hybrid")
    return str(caught.value)


def test_hybrid_needs_as_many_processes_on_every_machine(data: Path) -> None:
    for text in run_ranks(functools.partial(join_with_unequal_machines, data), 3):
        assert text.startswith("expected as many processes on every machine (training.parallel is hybrid); found ")


def in_bfloat16(data: Path, parallel: str) -> tuple[float, torch.Tensor]:
    section = TrainingSection(
        batch=BatchSection(sequences=1), precision="bfloat16", device="cpu", parallel=parallel, timeout_seconds=60
    )
    with join_ranks(section) as ranks:
        model = build_model(data, tied=True, frozen=False)
        model.set_attn_implementation(SEGMENT_ATTENTION)
        trainable = Trainable(Objective(model), ranks, section)
        batches = micro_batches_of_step(INDICES, TokenStore.open(data).train, 10_000, ranks)
        assert len(batches) == 1
        sums = accumulate_gradients(trainable, batches, ranks)
        gradient = full(model.model.layers[0].self_attn.q_proj.weight.grad).clone()
    return sums.loss / sums.num_trained, gradient


@pytest.mark.parametrize("parallel", ["ddp", "fsdp"])
def test_bfloat16_computes_in_bfloat16_and_sums_in_float32(data: Path, parallel: str) -> None:
    expected = textbook(data, INDICES)["loss"]
    loss, gradient = run_ranks(functools.partial(in_bfloat16, data, parallel), 2)[0]
    assert loss != pytest.approx(expected, rel=1e-6)
    assert loss == pytest.approx(expected, rel=1e-2)
    assert gradient.dtype == torch.float32
    # each process's part is a bfloat16; their sum needs more digits
    assert float((gradient != gradient.bfloat16().float()).double().mean()) > 0.1


@pytest.mark.parametrize("count", [1, 2])
def test_weights_kept_in_main_memory_give_the_same_step(data: Path, count: int) -> None:
    assert_equal(step(data, INDICES, count, "fsdp", offload=True), textbook(data, INDICES))
