"""What a whole tiny run shows and writes while it lasts."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedModel

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import InputError
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import BatchSection, CheckpointSection, EmbeddingSection, MonitorSection, TrainingSection
from genesis_sft.training import flops
from genesis_sft.training.loop import train
from genesis_sft.training.watching.metrics import read_events, read_metrics
from genesis_sft.training.watching.monitor import Sample

SECTION = TrainingSection(
    batch=BatchSection(sequences=8),
    max_steps=4,
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    precision="float32",
    certificate=False,
    checkpoints=CheckpointSection(every_steps=2, asynchronous=False),
)


def run_with(base: ModelDir, store: TokenStore, out: Path, **changes: object) -> Path:
    out.mkdir(exist_ok=True)
    train(SECTION.model_copy(update=changes), base, store, out, seed=1)
    return out


def test_held_out_losses_stand_there_at_intervals_and_at_the_end(
    tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    out = run_with(tiny_base, tiny_store, tmp_path / "run", monitor=MonitorSection(held_out_every_steps=3))
    rows = read_events(out / "events.jsonl", "held_out")
    assert [row["step"] for row in rows] == [3, 4]
    assert all(row["sources"].keys() == {"sums"} and row["sources"]["sums"] == row["loss"] for row in rows)
    assert rows[1]["loss"] < rows[0]["loss"]


def test_samples_are_of_the_model_as_it_is_and_leave_it_alone(
    tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    seen: list[tuple[str, bool]] = []

    def sampler(model: PreTrainedModel) -> list[Sample]:
        seen.append((model.config._attn_implementation, model.training))
        torch.manual_seed(99)  # a sampler that draws must not change the run
        return [Sample("hello", f"answer {len(seen)}", ended=True)]

    plain = run_with(tiny_base, tiny_store, tmp_path / "plain")
    out = tmp_path / "run"
    out.mkdir()
    section = SECTION.model_copy(update={"monitor": MonitorSection(samples_every_steps=2)})
    train(section, tiny_base, tiny_store, out, seed=1, sampler=sampler)
    assert seen == [("sdpa", False)] * 2  # attention that can decode, and no dropout
    assert [(row["step"], row["answer"]) for row in read_events(out / "events.jsonl", "sample")] == [
        (2, "answer 1"),
        (4, "answer 2"),
    ]
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (out, plain))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_the_best_checkpoint_ends_the_run_where_that_is_wanted(
    tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    """A rate that ruins the model after its warmup: the held-out loss is lowest at the first look."""
    changes = {"learning_rate": 0.3, "min_learning_rate": 0.3, "warmup_steps": 3}
    best = CheckpointSection(every_steps=1, keep=1, asynchronous=False, use="best")
    watched = MonitorSection(held_out_every_steps=4)  # and at every checkpoint, as that is what is compared
    out = run_with(tiny_base, tiny_store, tmp_path / "best", checkpoints=best, monitor=watched, **changes)
    losses = {row["step"]: row["loss"] for row in read_events(out / "events.jsonl", "held_out")}
    assert sorted(losses) == [1, 2, 3, 4]
    expected = min(losses, key=losses.__getitem__)
    assert expected < 4, "the run was meant to get worse"
    shorter = run_with(tiny_base, tiny_store, tmp_path / "last", **changes)
    different = [
        name
        for name, value in load_file(out / "weights.safetensors").items()
        if not torch.equal(value, load_file(shorter / "weights.safetensors")[name])
    ]
    assert different
    from genesis_sft.training.result import TrainingState

    assert TrainingState.open(out).weights_of_step == expected


def test_frozen_embeddings_stay_and_the_alarm_says_that_new_rows_do(
    tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    out = run_with(tiny_base, tiny_store, tmp_path / "run", embeddings=EmbeddingSection(train=False))
    before, after = load_file(tiny_base.path / "model.safetensors"), load_file(out / "weights.safetensors")
    name = "model.embed_tokens.weight"
    assert torch.equal(before[name], after[name])
    assert not torch.equal(before["model.norm.weight"], after["model.norm.weight"])
    assert [row["name"] for row in read_events(out / "events.jsonl", "alarm")] == ["rows_frozen"]


def test_memory_is_compared_with_the_estimate_when_the_peak_is_known(
    tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_with(tiny_base, tiny_store, tmp_path / "run")
    said = [line for line in capsys.readouterr().err.splitlines() if "the estimate" in line or "first step" in line]
    assert len(said) == 2
    assert re.search(r"memory of a process after the first step: [\d.]+ GB$", said[0])
    assert re.search(r"memory of a process at its peak: [\d.]+ GB, \d+ % (above|below) the estimate$", said[1])
    run_with(tiny_base, tiny_store, tmp_path / "short", max_steps=1)
    said = [line for line in capsys.readouterr().err.splitlines() if "the estimate" in line or "first step" in line]
    assert ["at its peak" in line for line in said] == [True]


def test_no_utilization_above_one_on_a_cpu(
    tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flops, "device_peak_flops", lambda *_, **__: (1.0, "of a machine that is busy"))
    rows = read_metrics(run_with(tiny_base, tiny_store, tmp_path / "run") / "metrics.jsonl")
    assert rows[0]["mfu"] == 1.0
    assert all(0 < row["mfu"] <= 1 for row in rows)


def test_resume_is_what_the_recipe_says(tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a checkpoint to go on from"):
        run_with(tiny_base, tiny_store, tmp_path / "none", resume="required")
    out = run_with(tiny_base, tiny_store, tmp_path / "run", resume="never")
    assert len(read_metrics(out / "metrics.jsonl")) == 4


def test_a_step_in_tokens_trains_as_many_conversations_as_fit(
    tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    out = run_with(tiny_base, tiny_store, tmp_path / "run", batch=BatchSection(tokens=200), max_steps=None)
    tokens = [row["tokens"] for row in read_metrics(out / "metrics.jsonl")]
    assert sum(tokens) == int(tiny_store.train.num_tokens_per_row.sum())
    assert max(tokens) <= 200
