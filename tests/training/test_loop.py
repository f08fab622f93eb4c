"""A run is defined by recipe and seed: however it is cut, killed and gone on with, it ends in the same weights."""

import json
import os
import signal
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import EXIT_TRY_AGAIN, CheckFailed, DataError, GenesisError, ModelError, RunDirError, Stopped
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import BatchSection, CheckpointSection, MonitorSection, TrainingSection
from genesis_sft.training import loop
from genesis_sft.training.loop import train
from genesis_sft.training.result import TrainingState
from genesis_sft.training.watching.metrics import read_events
from tests.forked import CONTEXT

SECTION = TrainingSection(
    batch=BatchSection(sequences=4),
    epochs=3,
    micro_batch_tokens=120,
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    warmup_steps=2,
    precision="float32",
    checkpoints=CheckpointSection(every_steps=3),
    monitor=MonitorSection(held_out_every_steps=5, held_out_tokens=100, health_every_steps=4),
)
SPEED = {"elapsed_seconds", "tokens_per_second", "mfu", "memory_bytes"}


def comparable(state: TrainingState) -> list[dict[str, object]]:
    """The metrics without what is about speed."""
    return [{k: v for k, v in row.items() if k not in SPEED} for row in state.metrics()]


def assert_same_run(one: TrainingState, other: TrainingState) -> None:
    assert comparable(one) == comparable(other)
    assert read_events(one.folder / "events.jsonl") == read_events(other.folder / "events.jsonl")
    ours, theirs = load_file(one.weights), load_file(other.weights)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture(scope="module")
def straight(tiny_base: ModelDir, tiny_store: TokenStore, tmp_path_factory: pytest.TempPathFactory) -> TrainingState:
    return train(SECTION, tiny_base, tiny_store, tmp_path_factory.mktemp("straight"), seed=5)


def test_a_run_learns_and_accounts_for_every_token(straight: TrainingState, tiny_store: TokenStore) -> None:
    assert straight.last_loss < straight.first_loss - 0.5
    assert straight.num_tokens == 3 * int(tiny_store.train.num_tokens_per_row.sum())
    assert straight.num_trained == 3 * int(tiny_store.train.num_trained_per_row.sum())
    assert not (straight.folder / "checkpoints").exists()
    assert TrainingState.open(straight.folder) == straight


def test_the_cut_into_forward_passes_changes_nothing_but_rounding(
    straight: TrainingState, tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    other = train(SECTION.model_copy(update={"micro_batch_tokens": 4096}), tiny_base, tiny_store, tmp_path, seed=5)
    losses = [[row["loss"] for row in state.metrics()] for state in (straight, other)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_another_seed_is_another_order(
    straight: TrainingState, tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path
) -> None:
    other = train(SECTION, tiny_base, tiny_store, tmp_path, seed=6)
    assert comparable(other) != comparable(straight)


def train_slowly(run: Path, out: Path) -> None:
    """Train in a process of its own, with time for the test to shoot."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    step = loop.train_step

    def slow_step(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.05)
        return step(*args, **kwargs)

    loop.train_step = slow_step
    try:
        train(SECTION, ModelDir.open(run / "base" / "model"), TokenStore.open(run / "data"), out, seed=5)
    except GenesisError as error:
        sys.exit(error.exit_status)


def wait_for_lines(path: Path, count: int, process: BaseProcess) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.is_alive():
        if path.exists() and path.read_text().count("\n") >= count:
            return
        time.sleep(0.01)
    raise AssertionError("the run ended before it could be shot")


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "status"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGTERM, EXIT_TRY_AGAIN)])
def test_killed_and_started_again_it_ends_bit_equal(
    straight: TrainingState,
    tiny_base: ModelDir,
    tiny_store: TokenStore,
    tiny_run: Path,
    tmp_path: Path,
    sent: signal.Signals,
    status: int,
) -> None:
    for lines in (2, 8, 14):
        process = CONTEXT.Process(target=train_slowly, args=(tiny_run, tmp_path))
        process.start()
        wait_for_lines(tmp_path / "metrics.jsonl", lines, process)
        assert process.pid is not None
        os.kill(process.pid, sent)
        process.join(60)
        assert process.exitcode == status
    resumed = train(SECTION, tiny_base, tiny_store, tmp_path, seed=5)
    assert_same_run(resumed, straight)


def stop_at_step_five(
    base: ModelDir,
    store: TokenStore,
    out: Path,
    monkeypatch: pytest.MonkeyPatch,
    section: TrainingSection = SECTION,
) -> None:
    """Leave what a power cut in the fifth step leaves: the checkpoint of step 3 and four rows of metrics."""
    from genesis_sft.training import loop

    original, calls = loop.train_step, []

    def stop_at_five(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == 5:
            raise RuntimeError("power cut")
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_step", stop_at_five)
    at_once = section.model_copy(update={"checkpoints": CheckpointSection(every_steps=3, asynchronous=False)})
    with pytest.raises(RuntimeError):
        train(at_once, base, store, out, seed=5)
    monkeypatch.setattr(loop, "train_step", original)


def test_a_damaged_checkpoint_is_left_aside(
    straight: TrainingState,
    tiny_base: ModelDir,
    tiny_store: TokenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    stop_at_step_five(tiny_base, tiny_store, tmp_path, monkeypatch)
    largest = max((tmp_path / "checkpoints" / "step-000003").iterdir(), key=lambda path: path.stat().st_size)
    with open(largest, "r+b") as handle:
        handle.seek(-4, os.SEEK_END)
        handle.write(b"\0\0\0\1")
    assert_same_run(train(SECTION, tiny_base, tiny_store, tmp_path, seed=5), straight)
    assert "step-000003 is damaged" in capfd.readouterr().err


def test_too_little_data_is_refused(tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"batch": BatchSection(sequences=1000), "drop_last": True})
    with pytest.raises(DataError, match="at least 1000 conversations"):
        train(section, tiny_base, tiny_store, tmp_path, seed=0)
    with pytest.raises(DataError, match="all of them warmup"):
        train(SECTION.model_copy(update={"warmup_steps": 99}), tiny_base, tiny_store, tmp_path, seed=0)


def test_a_conversation_beyond_the_context_is_refused(
    tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    import shutil

    short = tmp_path_factory.mktemp("short") / "model"
    shutil.copytree(tiny_base.path, short)
    config = json.loads((short / "config.json").read_text())
    (short / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8}))
    with pytest.raises(ModelError, match="context is 8"):
        train(SECTION, ModelDir.open(short), tiny_store, tmp_path, seed=0)


def test_killed_after_the_last_step_it_is_not_trained_again(
    straight: TrainingState, tiny_base: ModelDir, tiny_store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    from genesis_sft.training import loop

    monkeypatch.setattr(loop, "train_step", None)  # would fail if it were asked to
    assert train(SECTION, tiny_base, tiny_store, straight.folder, seed=5) == straight


@pytest.mark.parametrize("state", ["[]", "null", '{"step": 99, "sha256": {}}', '{"step": "x"}', "[" * 100_000])
def test_a_checkpoint_that_contradicts_itself_is_left_aside(
    straight: TrainingState, tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path, state: str
) -> None:
    checkpoint = tmp_path / "checkpoints" / "step-000003"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text(state)
    assert_same_run(train(SECTION, tiny_base, tiny_store, tmp_path, seed=5), straight)


def test_a_run_whose_metrics_are_lost_does_not_start_anew_by_itself(
    straight: TrainingState,
    tiny_base: ModelDir,
    tiny_store: TokenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stop_at_step_five(tiny_base, tiny_store, tmp_path, monkeypatch)
    metrics = tmp_path / "metrics.jsonl"
    metrics.rename(tmp_path / "elsewhere")
    with pytest.raises(RunDirError, match="found 0 whole lines"):
        train(SECTION, tiny_base, tiny_store, tmp_path, seed=5)
    (tmp_path / "elsewhere").rename(metrics)
    assert_same_run(train(SECTION, tiny_base, tiny_store, tmp_path, seed=5), straight)


def test_ruined_weights_are_refused(tiny_base: ModelDir, tiny_store: TokenStore, tmp_path: Path) -> None:
    section = SECTION.model_copy(update={"learning_rate": 1e30, "max_steps": 4, "warmup_steps": 0})
    with pytest.raises(CheckFailed, match="not finite"):
        train(section, tiny_base, tiny_store, tmp_path, seed=5)


def test_asked_to_stop_in_its_last_step_it_says_so_and_is_done(
    straight: TrainingState,
    tiny_base: ModelDir,
    tiny_store: TokenStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Or what follows training would go on for hours after a request to stop."""
    from genesis_sft.training import loop

    original, calls = loop.train_step, []

    def ask_in_the_last(*args: object, **kwargs: object) -> object:
        calls.append(1)
        if len(calls) == straight.num_steps:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*args, **kwargs)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "train_step", ask_in_the_last)
    with pytest.raises(Stopped, match="after the last step"):
        train(SECTION, tiny_base, tiny_store, tmp_path, seed=5)
    assert_same_run(train(SECTION, tiny_base, tiny_store, tmp_path, seed=5), straight)
    assert len(calls) == straight.num_steps
    assert not (tmp_path / "checkpoints").exists()
