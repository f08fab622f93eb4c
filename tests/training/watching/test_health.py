"""What is measured of the rows of control tokens and of updates is what one computes by hand."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch.nn import functional

from genesis_sft.batches.collate import collate
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.forward.attention import SEGMENT_ATTENTION
from genesis_sft.training.forward.objective import Objective
from genesis_sft.training.forward.padding import pad_vocab
from genesis_sft.training.processes.parallel import Trainable, join_ranks
from genesis_sft.training.step import train_step
from genesis_sft.training.watching.health import NUM_MATRICES, Health, data_facts, row_facts
from tests.conftest import build_llama
from tests.training.processes.processes import run_ranks
from tests.training.watching.tiny_tuning import ALONE, CONTROL_IDS, END, START, VOCAB, conversations

SECTION = TrainingSection(batch=BatchSection(sequences=8), precision="float32")
BATCH = collate(conversations(0, 8), end_of_turn=END)


def trainable_of(*, tied: bool = True, dtype: torch.dtype = torch.float32, padded: int | None = None) -> Trainable:
    model = build_llama(VOCAB, tied=tied).to(dtype)
    model.set_attn_implementation(SEGMENT_ATTENTION)
    pad_vocab(model, padded)
    return Trainable(Objective(model, end_of_turn=END).train(), ALONE, SECTION)


def look(trainable: Trainable, *, learning_rate: float = 1e-2, step: int = 1) -> tuple[dict[str, Any] | None, float]:
    """Make one step; return what was measured, and the whole gradient's norm."""
    health = Health(trainable, CONTROL_IDS, ALONE, every_steps=10)
    optimizer = torch.optim.SGD(trainable.module.parameters(), lr=learning_rate)
    health.start(step)
    result = train_step(trainable, optimizer, [BATCH], ALONE, max_grad_norm=1e9, watch=health)
    measured = health.take()
    assert health.take() is None
    return measured, result.grad_norm


@pytest.mark.parametrize("tied", [True, False])
def test_the_rows_of_control_tokens(tied: bool) -> None:
    trainable = trainable_of(tied=tied)
    model = trainable.objective.model
    tables = {"embedding": model.get_input_embeddings().weight}
    if not tied:
        tables["head"] = model.get_output_embeddings().weight
    with torch.no_grad():
        for weight in tables.values():  # they are not to be counted among those that they are compared with
            weight[START:] *= 5
    measured, grad_norm = look(trainable)
    assert measured is not None
    assert measured["rows"].keys() == tables.keys()
    for name, weight in tables.items():
        assert weight.grad is not None
        others = weight.detach()[:START]
        for token, number in CONTROL_IDS.items():
            row = weight.detach()[number]
            assert measured["rows"][name][token] == pytest.approx(
                {
                    "norm": float(row.norm()),
                    "norm_ratio": float(row.norm() / others.norm(dim=1).median()),
                    "cosine_to_mean": float(functional.cosine_similarity(row, others.mean(dim=0), dim=0)),
                    "gradient_share": float(weight.grad[number].norm()) ** 2 / grad_norm**2,
                },
                rel=1e-4,
                abs=1e-9,
            )
    assert 0 < measured["rows"]["embedding"]["<|im_end|>"]["gradient_share"] < 1


def test_the_size_of_updates() -> None:
    trainable = trainable_of()
    before = {name: value.clone() for name, value in trainable.objective.model.state_dict().items()}
    measured, _ = look(trainable)
    after = trainable.objective.model.state_dict()
    assert measured is not None
    matrices = measured["matrices"]
    assert len(matrices) == NUM_MATRICES
    assert next(iter(matrices)) == "layers.0.self_attn.q_proj.weight"
    assert [*matrices][-1] == "layers.1.mlp.down_proj.weight"
    for name, sizes in matrices.items():
        old, new = before[f"model.{name}"], after[f"model.{name}"]
        assert sizes["rms"] == pytest.approx(float(old.square().mean().sqrt()), rel=1e-5)
        assert sizes["update"] == pytest.approx(float((new - old).norm() / old.norm()), rel=1e-5)
        assert sizes["update"] > 0
    assert measured["lost_updates"] is None


def test_updates_that_rounding_loses_are_counted() -> None:
    trainable = trainable_of(dtype=torch.bfloat16)
    model = trainable.objective.model
    before = {name: value.clone() for name, value in model.state_dict().items()}
    # a weight without a gradient is not meant to move
    model.get_parameter("model.layers.0.self_attn.q_proj.weight").register_hook(lambda gradient: gradient.tril())
    measured, _ = look(trainable, learning_rate=0.03)
    assert measured is not None
    chosen = [(before[f"model.{name}"], model.get_parameter(f"model.{name}")) for name in measured["matrices"]]
    wanted = sum(int((weight.grad != 0).sum()) for _, weight in chosen)
    lost = sum(int(((weight.grad != 0) & (weight == old)).sum()) for old, weight in chosen)
    assert 0.05 < lost / wanted < 0.95
    assert measured["lost_updates"] == lost / wanted
    assert look(trainable_of(dtype=torch.bfloat16), learning_rate=0.0)[0]["lost_updates"] == 1.0  # type: ignore[index]


def test_rows_that_pad_the_table_are_none() -> None:
    plain, padded = (
        row_facts(trainable_of().objective.model, CONTROL_IDS),
        row_facts(trainable_of(padded=256).objective.model, CONTROL_IDS),
    )
    assert plain == padded


def test_it_looks_at_the_first_step_and_every_so_many() -> None:
    trainable = trainable_of()
    assert [look(trainable, step=step)[0] is not None for step in (1, 2, 9, 10, 11, 20)] == [
        True, False, False, True, False, True,
    ]  # fmt: skip


def test_nothing_is_told_of_a_step_that_was_skipped() -> None:
    trainable = trainable_of()
    trainable.objective.model.model.norm.weight.data[0] = float("inf")
    assert look(trainable)[0] is None


def test_looking_changes_no_bit_of_the_weights() -> None:
    weights = []
    for step in (1, 2):  # looked at, and not
        trainable = trainable_of()
        look(trainable, step=step)
        weights.append(trainable.objective.model.state_dict())
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_a_frozen_embedding_has_no_share_of_the_gradient() -> None:
    trainable = trainable_of(tied=False)
    model = trainable.objective.model
    model.get_input_embeddings().weight.requires_grad_(False)
    facts = row_facts(model, CONTROL_IDS)
    assert facts["frozen"] == ["embedding"]
    measured, _ = look(trainable)
    assert measured is not None
    assert measured["rows"]["embedding"]["<|im_end|>"]["gradient_share"] == 0.0
    assert measured["rows"]["head"]["<|im_end|>"]["gradient_share"] > 0
    assert json.loads(json.dumps(measured)) == measured


def test_facts_of_rows_that_were_given_zeros_or_the_mean() -> None:
    model = trainable_of().objective.model
    table = model.get_input_embeddings().weight
    with torch.no_grad():
        table[END] = 0
        table[START] = table[:START].mean(dim=0)
    facts = row_facts(model, CONTROL_IDS)
    rows = facts["rows"]["embedding"]
    assert rows["<|im_end|>"] == {"norm": 0.0, "norm_ratio": 0.0, "cosine_to_mean": None}
    assert rows["<|im_start|>"]["cosine_to_mean"] == pytest.approx(1.0)
    assert (facts["control_ids"], facts["frozen"]) == (CONTROL_IDS, [])


def test_ends_of_turns_are_counted_in_the_data(tiny_store: TokenStore, tiny_base_end: int) -> None:
    facts = data_facts(tiny_store.train, tiny_base_end)
    count = len(tiny_store.train)
    assert facts == {
        "end_of_turn": tiny_base_end,
        "turn_ends": count,
        "trained_turn_ends": count,
        "trained_turn_ends_share": 1.0,
    }
    assert data_facts(tiny_store.train, 399)["trained_turn_ends_share"] is None


@pytest.fixture(scope="session")
def tiny_base_end(tiny_run: Path) -> int:
    tokenizer = json.loads((tiny_run / "base" / "model" / "tokenizer.json").read_text())
    return next(int(token["id"]) for token in tokenizer["added_tokens"] if token["content"] == "<|im_end|>")


def measure(parallel: Literal["ddp", "fsdp"], tied: bool) -> object:
    """Return what is measured of a step over six conversations, as its log would have it."""
    section = TrainingSection(
        batch=BatchSection(sequences=6), precision="float32", parallel=parallel, device="cpu", timeout_seconds=60
    )
    with join_ranks(section) as ranks:
        model = build_llama(VOCAB, tied=tied)
        model.set_attn_implementation(SEGMENT_ATTENTION)
        trainable = Trainable(Objective(model, end_of_turn=END).train(), ranks, section)
        facts = row_facts(model, CONTROL_IDS)
        health = Health(trainable, CONTROL_IDS, ranks, every_steps=10)
        optimizer = torch.optim.SGD(trainable.module.parameters(), lr=1e-2)
        health.start(1)
        mine = collate(conversations(0, 6)[ranks.rank :: ranks.world_size], end_of_turn=END)
        train_step(trainable, optimizer, [mine], ranks, max_grad_norm=1e9, watch=health)
        return json.loads(json.dumps([facts, health.take()]))


def flat(value: object, name: str = "") -> dict[str, object]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if items is None:
        return {name: value}
    return {key: leaf for part, inner in items for key, leaf in flat(inner, f"{name}/{part}").items()}


@pytest.mark.slow
@pytest.mark.parametrize(("world_size", "parallel", "tied"), [(2, "ddp", True), (3, "fsdp", True), (2, "fsdp", False)])
def test_several_processes_measure_what_one_does(world_size: int, parallel: Literal["ddp", "fsdp"], tied: bool) -> None:
    together = flat(run_ranks(functools.partial(measure, parallel, tied), world_size)[0])
    (alone,) = map(flat, run_ranks(functools.partial(measure, "ddp", tied), 1))
    assert together.keys() == alone.keys()
    for name, value in alone.items():
        assert together[name] == (pytest.approx(value, rel=1e-3, abs=1e-8) if isinstance(value, float) else value), name
