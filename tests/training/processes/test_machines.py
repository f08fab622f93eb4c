"""Training across two machines: the same losses as on one, and a machine that is lost costs a restart, not the run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.training.processes.machines import SIDES, Machines, two_machines

pytestmark = pytest.mark.slow

RECIPE = """\
name: machines
seed: 3
base: {{model: {model}, verify: warn}}
evals: {{data: package, tasks: [], chat_prompts: 0}}
data:
  decontaminate: "off"
  held_out: 0.2
  sources:
    - {{name: sums, path: sums.jsonl}}
training:
  batch: {{sequences: 4}}
  epochs: 10
  micro_batch_tokens: 120
  learning_rate: 1e-3
  min_learning_rate: 1e-4
  warmup_steps: 2
  precision: float32
  device: cpu
  timeout_seconds: {timeout_seconds}
  checkpoints: {{every_steps: 5}}
"""
NUM_STEPS = 50
TIMEOUT_SECONDS = 20
START_SECONDS = 240
"""Bound of a whole run, of which most is importing PyTorch four times on a busy machine."""

SPEED = ("elapsed_seconds", "tokens_per_second", "mfu", "memory_bytes")
COMMAND = ["train", "recipe.yaml", "--run-dir", "run"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, tiny_folder: Path) -> Path:
    """Recipe and rows, and the run of one process, as the first of all tests."""
    folder = tmp_path_factory.mktemp("machines") / "alone"
    folder.mkdir()
    rows = [
        {
            "query": f"What is {n} plus {n}?",
            "response": f"It is {2 * n}, {'quite ' * (n % 7)}exactly.",
            "type": "made up",
        }
        for n in range(24)
    ]
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "recipe.yaml").write_text(RECIPE.format(model=tiny_folder, timeout_seconds=TIMEOUT_SECONDS))
    command = [sys.executable, "-m", "genesis_sft", *COMMAND]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=START_SECONDS, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def machines() -> Iterator[Machines]:
    with two_machines() as found:
        yield found


@pytest.fixture(scope="module")
def together(machines: Machines, folder: Path) -> Path:
    """The run of two machines that nothing happened to."""
    place = untrained(folder, "together")
    assert train(machines, "static", place) == [0, 0], words(place)
    return place


def untrained(folder: Path, name: str) -> Path:
    """A copy of the run of one process, without its training."""
    place = folder.parent / name
    shutil.copytree(folder, place)
    shutil.rmtree(place / "run" / "train")
    return place


def train(machines: Machines, rendezvous: str, place: Path) -> list[int]:
    """Train to the end on both sides; return the exit statuses of both torchruns."""
    processes = [machines.start(side, rendezvous, place, COMMAND) for side in SIDES]
    return [process.wait(START_SECONDS) for process in processes]


def words(place: Path) -> str:
    return "\n".join(f"{side}:\n{(place / f'{side}.out').read_text()}" for side in SIDES)


def metrics(place: Path) -> list[dict[str, Any]]:
    """The rows of the run, without what is about speed."""
    found = (place / "run" / "train" / "metrics.jsonl").read_text().splitlines()
    return [{key: value for key, value in json.loads(row).items() if key not in SPEED} for row in found]


def wait_until(condition: Callable[[], bool], seconds: float, place: Path) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, words(place)
        time.sleep(0.05)


def steps_so_far(place: Path) -> int:
    found = list((place / "run" / "partial").glob("train-*/metrics.jsonl"))
    return found[0].read_bytes().count(b"\n") if found else 0


def assert_losses_equal(place: Path, folder: Path) -> None:
    losses, expected = ([row["loss"] for row in metrics(of)] for of in (place, folder))
    assert len(losses) == NUM_STEPS
    assert losses == pytest.approx(expected, rel=1e-5)


def test_two_machines_train_as_one_process_does(together: Path, folder: Path) -> None:
    assert_losses_equal(together, folder)


def test_machines_may_meet_elastically(machines: Machines, folder: Path) -> None:
    place = untrained(folder, "elastic")
    assert train(machines, "elastic", place) == [0, 0], words(place)
    assert_losses_equal(place, folder)


@pytest.mark.parametrize("rendezvous", ["static", "elastic"])
def test_a_machine_that_is_killed_costs_a_restart_and_not_the_run(
    machines: Machines, folder: Path, together: Path, rendezvous: str
) -> None:
    place = untrained(folder, f"killed-{rendezvous}")
    left, _ = (machines.start(side, rendezvous, place, COMMAND) for side in SIDES)
    wait_until(lambda: steps_so_far(place) >= 12, START_SECONDS, place)
    machines.kill("right")
    assert left.wait(TIMEOUT_SECONDS + 60) == 1, words(place)
    said = (place / "left.out").read_text()
    assert "error: lost contact with another process" in said
    assert "start the same command again on all machines" in said
    assert not (place / "run" / "train").exists()
    assert train(machines, rendezvous, place) == [0, 0], words(place)
    assert "going on after step " in (place / "left.out").read_text()
    assert metrics(place) == metrics(together)  # bit for bit


def test_an_error_on_the_first_machine_ends_the_second(machines: Machines, folder: Path) -> None:
    place = untrained(folder, "broken")
    (place / "sums.jsonl").unlink()
    left, right = (machines.start(side, "static", place, COMMAND) for side in SIDES)
    assert left.wait(START_SECONDS) == 1
    right.wait(60)
    assert "sums.jsonl" in (place / "left.out").read_text()
    assert "/genesis_sft/" not in (place / "right.out").read_text()  # no traceback of ours


def test_a_cable_that_is_cut_is_noticed_on_both_sides(machines: Machines, folder: Path) -> None:
    place = untrained(folder, "cut")
    for side in SIDES:
        machines.start(side, "static", place, COMMAND)
    wait_until(lambda: steps_so_far(place) >= 3, START_SECONDS, place)
    machines.cut_cable()
    try:
        wait_until(
            lambda: all("lost contact" in (place / f"{side}.out").read_text() for side in SIDES),
            TIMEOUT_SECONDS + 60,
            place,
        )
    finally:
        for side in SIDES:
            machines.kill(side)
        machines.join_cable()
