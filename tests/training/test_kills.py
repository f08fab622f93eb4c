"""Killed at any moment, also inside a save, in one process or two: what it ends in is what it would have ended in."""

import os
import random
import sys
import time
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from genesis_sft.checkpoint.model_dir import ModelDir
from genesis_sft.errors import GenesisError
from genesis_sft.mixture.store import TokenStore
from genesis_sft.recipe import BatchSection, CheckpointSection, MonitorSection, TrainingSection
from genesis_sft.training import loop
from genesis_sft.training.saving import checkpoints
from genesis_sft.training.watching.metrics import read_events, read_metrics
from tests.forked import CONTEXT

SECTION = TrainingSection(
    batch=BatchSection(sequences=4),
    epochs=6,
    micro_batch_tokens=60,
    learning_rate=1e-3,
    min_learning_rate=1e-4,
    warmup_steps=2,
    precision="float32",
    timeout_seconds=30,
    certificate=False,
    checkpoints=CheckpointSection(every_steps=2),
    monitor=MonitorSection(held_out_every_steps=5, held_out_tokens=100, health_every_steps=4),
)
NUM_STEPS = 54
NUM_KILLS = 20
SPEED = {"elapsed_seconds", "tokens_per_second", "mfu", "memory_bytes"}


def child(run: Path, out: Path, environment: dict[str, str]) -> None:
    """Train, slowly enough to be hit in a step or a save; the optimizer's states are written down beside the rest."""
    os.environ.update(environment)
    torch.set_num_threads(1)
    step, write_state, run_steps = loop.train_step, checkpoints.write_state, loop._run_steps

    def slow_step(*args: Any, **kwargs: Any) -> Any:
        time.sleep(0.15)
        return step(*args, **kwargs)

    def slow_state(*args: Any, **kwargs: Any) -> None:
        time.sleep(0.05)
        write_state(*args, **kwargs)
        time.sleep(0.05)

    def kept_steps(prepared: Any, *args: Any) -> None:
        run_steps(prepared, *args)
        states = prepared.optimizer.state_dict()["state"]
        torch.save(states, out / f".optimizer-{prepared.ranks.rank}.pt")

    loop.train_step, loop._run_steps, checkpoints.write_state = slow_step, kept_steps, slow_state
    with open(out / "log.txt", "a") as log:
        os.dup2(log.fileno(), 2)
    try:
        loop.train(SECTION, ModelDir.open(run / "base" / "model"), TokenStore.open(run / "data"), out, seed=5)
    except GenesisError as error:
        print("error:", error, file=sys.stderr)
        sys.exit(error.exit_status)


class Processes:
    """The processes of one run; the meeting place is held here, as torchrun's agent does."""

    def __init__(self, run: Path, out: Path, count: int) -> None:
        environment: dict[str, str] = {}
        if count > 1:
            self._store = torch.distributed.TCPStore(
                "127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60)
            )
            environment = {
                "WORLD_SIZE": str(count),
                "LOCAL_WORLD_SIZE": str(count),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "TORCHELASTIC_RESTART_COUNT": "0",
            }
        ranks = [environment | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        self.running = [CONTEXT.Process(target=child, args=(run, out, own if count > 1 else {})) for own in ranks]
        for process in self.running:
            process.start()

    def wait(self, seconds: float) -> list[int | None]:
        """Return the exit statuses; what still runs by then is killed, and fails the test."""
        deadline = time.monotonic() + seconds
        for process in self.running:
            process.join(max(0.1, deadline - time.monotonic()))
        statuses = [process.exitcode for process in self.running]
        self.kill(range(len(self.running)))
        assert None not in statuses, f"a process was still there after {seconds} s"
        return statuses

    def kill(self, victims: Iterable[int]) -> None:
        for victim in victims:
            self.running[victim].kill()  # SIGKILL


def run_to_the_end(run: Path, out: Path, count: int) -> None:
    assert Processes(run, out, count).wait(180) == [0] * count, (out / "log.txt").read_text()[-2000:]


def assert_equal_ends(one: Path, other: Path, count: int) -> None:
    metrics = [
        [{k: v for k, v in row.items() if k not in SPEED} for row in read_metrics(folder / "metrics.jsonl")]
        for folder in (one, other)
    ]
    assert metrics[0] == metrics[1]
    assert len(metrics[0]) == NUM_STEPS
    assert read_events(one / "events.jsonl") == read_events(other / "events.jsonl")
    ours, theirs = (load_file(folder / "weights.safetensors") for folder in (one, other))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours.keys() | theirs.keys())
    for rank in range(count):
        states = [torch.load(folder / f".optimizer-{rank}.pt", weights_only=True) for folder in (one, other)]
        assert states[0].keys() == states[1].keys()
        for number, values in states[0].items():
            assert all(torch.equal(value, states[1][number][name]) for name, value in values.items())


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2])
def test_killed_at_random_moments_it_ends_bit_equal(
    tiny_run: Path, tmp_path: Path, count: int, request: pytest.FixtureRequest
) -> None:
    # minutes: the other half in `make test-all`
    num_kills = NUM_KILLS if request.config.getoption("--real-model") else NUM_KILLS // 2
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for folder in (straight, killed):
        folder.mkdir()
    run_to_the_end(tiny_run, straight, count)
    seed = random.randrange(10**6)
    print(f"seed of the kills: {seed}")  # shown if the test fails
    draw, kills = random.Random(seed), 0
    while kills < num_kills and not (killed / "training.json").exists():
        done = len(read_metrics(killed / "metrics.jsonl"))
        processes = Processes(tiny_run, killed, count)
        # somewhere in the start, or after about one more step: 20 kills have to fit into the run
        deadline = time.monotonic() + 60
        goal = min(done + draw.choice([0, 1, 1, 2]), NUM_STEPS - 1)
        while len(read_metrics(killed / "metrics.jsonl")) < goal and time.monotonic() < deadline:
            if not processes.running[0].is_alive():
                break
            time.sleep(0.005)
        time.sleep(draw.random() * 0.3)
        # one of them, as the kernel kills what needs too much memory, or all, as a power cut does
        processes.kill(draw.choice([[0], list(range(count)), [count - 1]]))
        processes.wait(90)
        kills += 1
    assert kills >= num_kills, "the run ended before it had been killed often enough"
    run_to_the_end(tiny_run, killed, count)
    assert_equal_ends(killed, straight, count)


@pytest.mark.slow
def test_gone_on_with_by_other_numbers_of_processes(tiny_run: Path, tmp_path: Path) -> None:
    """Two processes, then one, then three: the same conversations in every step, and the same losses to rounding."""
    straight, handed_on = tmp_path / "straight", tmp_path / "handed-on"
    for folder in (straight, handed_on):
        folder.mkdir()
    run_to_the_end(tiny_run, straight, 1)
    for count, goal in ((2, 9), (1, 18)):
        processes = Processes(tiny_run, handed_on, count)
        deadline = time.monotonic() + 90
        while len(read_metrics(handed_on / "metrics.jsonl")) < goal and time.monotonic() < deadline:
            time.sleep(0.01)
        processes.kill(range(count))
        processes.wait(30)
    run_to_the_end(tiny_run, handed_on, 3)
    expected, found = (read_metrics(folder / "metrics.jsonl") for folder in (straight, handed_on))
    for name in ("step", "tokens", "trained_tokens", "learning_rate"):
        assert [row[name] for row in found] == [row[name] for row in expected], name
    assert [row["loss"] for row in found] == pytest.approx([row["loss"] for row in expected], rel=1e-5)
    assert "going on after step" in (handed_on / "log.txt").read_text()
