"""A run that is killed goes on from its newest whole checkpoint, and ends in the same bits."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Literal

import pytest
import torch

from genesis_sft.errors import InputError, RunDirError
from genesis_sft.recipe.training import CheckpointSection
from genesis_sft.training.saving import checkpoints
from genesis_sft.training.saving.checkpoints import Checkpoints
from genesis_sft.training.saving.storage import Writer
from tests.forked import CONTEXT
from tests.training.saving.saved_tuning import (
    MANY,
    SECTION,
    checkpoints_in,
    cut,
    differences,
    flip_a_bit,
    saved_at,
    tuning,
)

IN_BACKGROUND = CheckpointSection(asynchronous=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("asynchronous", [True, False])
def test_a_run_that_goes_on_ends_bit_equal(
    tmp_path: Path, asynchronous: bool, tied: bool, dtype: torch.dtype, capfd: pytest.CaptureFixture[str]
) -> None:
    section = CheckpointSection(asynchronous=asynchronous)
    straight, checkpoints = tuning(tied=tied, dtype=dtype), checkpoints_in(tmp_path, section)
    assert straight.restore(checkpoints) == 0
    straight.steps(0, 3)
    straight.save(checkpoints, 3)
    saved = straight.state()
    straight.steps(3, 5)
    checkpoints.wait()
    resumed = tuning(tied=tied, dtype=dtype, seed=1)
    assert resumed.restore(checkpoints_in(tmp_path, section)) == 3
    assert differences(resumed.state(), saved) == []
    resumed.steps(3, 5)
    assert differences(resumed.state(), straight.state()) == []
    digest = json.loads((tmp_path / "checkpoints" / "step-000003" / "state.json").read_text())["sha256"]
    assert capfd.readouterr().err.splitlines() == [
        "  starting at step 1",
        f"  going on after step 3 (checkpoint sha256 {digest[:12]})",
    ]


def test_what_is_written_in_the_background_is_the_state_when_it_was_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digests, write = [], Writer.write_data

    def write_late(self: Writer, *args: Any, **kwargs: Any) -> Any:
        time.sleep(0.3)
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Writer, "write_data", write_late)
    for asynchronous in (True, False):
        run, folder = tuning(), tmp_path / str(asynchronous)
        run.steps(0, 2)
        checkpoints = checkpoints_in(folder, CheckpointSection(asynchronous=asynchronous))
        run.save(checkpoints, 2)
        assert (folder / "checkpoints" / "step-000002").exists() != asynchronous
        run.steps(2, 4)
        run.save(checkpoints, 4)  # waits for the one before
        assert (folder / "checkpoints" / "step-000002").exists()
        checkpoints.wait()
        states = [folder / "checkpoints" / name / "state.json" for name in names(folder)]
        digests.append([json.loads(state.read_text())["sha256"] for state in states])
    assert digests[0] == digests[1]
    assert len(set(digests[0])) == 2


def test_steps_that_were_all_skipped_are_not_counted_by_the_optimizer(tmp_path: Path) -> None:
    fresh, saved, checkpoints = tuning(), tuning(), checkpoints_in(tmp_path)
    for parameter in saved.trainable.module.parameters():  # a step that was refused leaves its gradient
        parameter.grad = torch.full_like(parameter, float("nan"))
    saved.save(checkpoints, 1)
    resumed = tuning(seed=1)
    assert resumed.restore(checkpoints) == 1
    for run in (fresh, saved, resumed):
        run.steps(1, 3)
    assert differences(saved.state(), fresh.state()) == []
    assert differences(resumed.state(), fresh.state()) == []


def test_what_is_no_checkpoint_of_ours_is_left_alone(tmp_path: Path) -> None:
    """A copy that somebody made, and a note: neither is removed, nor taken for a checkpoint."""
    run, checkpoints = tuning(), checkpoints_in(tmp_path, CheckpointSection(asynchronous=False, keep=1))
    run.save(checkpoints, 2)
    folder = tmp_path / "checkpoints"
    shutil.copytree(folder / "step-000002", folder / "step-000009-copy")
    (folder / "step-000008").write_text("mine")
    for step in (4, 6):
        run.save(checkpoints, step)
    assert sorted(path.name for path in folder.iterdir()) == ["step-000006", "step-000008", "step-000009-copy"]
    assert run.restore(checkpoints) == 6


def test_settings_are_those_of_the_recipe(tmp_path: Path) -> None:
    saved_at(tmp_path, 1)
    other = tuning(section=SECTION.model_copy(update={"learning_rate": 3e-3, "betas": (0.8, 0.9)}))
    before = [{k: v for k, v in group.items() if k != "params"} for group in other.optimizer.param_groups]
    other.restore(checkpoints_in(tmp_path))
    after = [{k: v for k, v in group.items() if k != "params"} for group in other.optimizer.param_groups]
    assert before == after
    assert after[0]["betas"] == (0.8, 0.9)


@pytest.mark.parametrize(("logged_steps", "expected"), [(6, 6), (5, 4), (2, 2)])
def test_a_checkpoint_beyond_the_metrics_is_left_aside(
    tmp_path: Path, logged_steps: int, expected: int, capfd: pytest.CaptureFixture[str]
) -> None:
    saved_at(tmp_path, 2, 4, 6)
    assert tuning().restore(checkpoints_in(tmp_path, MANY), logged_steps=logged_steps) == expected
    beyond = [line for line in capfd.readouterr().err.splitlines() if "lies beyond" in line]
    assert len(beyond) == 3 - expected // 2
    assert names(tmp_path) == ["step-000002", "step-000004", "step-000006"]


@pytest.mark.parametrize("resume", ["auto", "required"])
@pytest.mark.parametrize(("logged_steps", "damaged", "earliest"), [(1, None, 2), (0, "step-000002", 4)])
def test_metrics_that_are_lost_are_said_before_the_run_is(
    tmp_path: Path, resume: str, logged_steps: int, damaged: str | None, earliest: int
) -> None:
    saved_at(tmp_path, 2, 4)
    if damaged:
        cut(tmp_path / "checkpoints" / damaged, "state.json")
    with pytest.raises(
        RunDirError, match=f"{logged_steps} whole lines, and the earliest undamaged checkpoint is of step {earliest}"
    ):
        tuning().restore(checkpoints_in(tmp_path, MANY), resume=resume, logged_steps=logged_steps)
    assert names(tmp_path) == ["step-000002", "step-000004"]
    assert tuning().restore(checkpoints_in(tmp_path, MANY), resume="never", logged_steps=logged_steps) == 0


def test_resume_required_refuses_to_start_anew(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"expected a checkpoint .*required.*found none"):
        tuning().restore(checkpoints_in(tmp_path), resume="required")
    saved_at(tmp_path, 1)
    assert tuning().restore(checkpoints_in(tmp_path), resume="required") == 1
    cut(tmp_path / "checkpoints" / "step-000001", "state.json")
    with pytest.raises(InputError, match="found none"):
        tuning().restore(checkpoints_in(tmp_path), resume="required")


def test_resume_never_removes_what_there_is(tmp_path: Path) -> None:
    saved_at(tmp_path, 1, 2)
    run, untouched = tuning(), tuning()
    assert run.restore(checkpoints_in(tmp_path), resume="never") == 0
    assert differences(run.state(), untouched.state()) == []
    assert not (tmp_path / "checkpoints").exists()


def test_the_newest_are_kept_and_all_go_at_the_end(tmp_path: Path) -> None:
    saved_at(tmp_path, 1, 2, 3, 4, section=CheckpointSection(keep=2))
    assert names(tmp_path) == ["step-000003", "step-000004"]
    checkpoints_in(tmp_path).remove()
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(("use", "kept"), [("best", [2, 5]), ("last", [5])])
def test_the_best_is_kept_apart(tmp_path: Path, use: Literal["best", "last"], kept: list[int]) -> None:
    section = CheckpointSection(asynchronous=False, keep=1, use=use)
    run, checkpoints, weights = tuning(), checkpoints_in(tmp_path, section), {}
    for step, loss in enumerate([3.0, 1.0, 2.0, None, float("nan")]):
        run.steps(step, step + 1)
        run.save(checkpoints, step + 1, held_out_loss=loss)
        weights[step + 1] = run.state()
    assert names(tmp_path) == [f"step-{step:06d}" for step in kept]
    assert checkpoints.restore_best(run.trainable) == (2 if use == "best" else None)
    found = {name: value for name, value in run.state().items() if ":" not in name}
    assert differences(found, {name: weights[kept[0]][name] for name in found}) == []


def test_where_the_best_is_damaged_the_next_best_is_taken(tmp_path: Path) -> None:
    run, checkpoints = tuning(), checkpoints_in(tmp_path, MANY)
    for step, loss in enumerate([3.0, 1.0, 2.0], 1):
        run.save(checkpoints, step, held_out_loss=loss)
    flip_a_bit(tmp_path / "checkpoints" / "step-000002", "__0_0.distcp")
    assert checkpoints.restore_best(run.trainable) == 3


def save_until_killed(moment: str, folder: Path, asynchronous: bool) -> None:
    """Save after two steps and after four, and stand still at a moment of the second save."""
    torch.set_num_threads(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)

    def wait_to_be_killed(*_: object, **__: object) -> Any:
        (folder / "now").touch()
        time.sleep(60)

    run = tuning()
    saved = checkpoints_in(folder, CheckpointSection(asynchronous=asynchronous, keep=1))
    run.restore(saved)
    run.steps(0, 2)
    run.save(saved, 2)
    saved.wait()
    run.steps(2, 4)
    if moment == "tensors":
        write_data = Writer.write_data

        def write(self: Writer, plan: Any, planner: Any) -> Any:
            planner.resolve_data = wait_to_be_killed
            return write_data(self, plan, planner)

        Writer.write_data = write  # type: ignore[method-assign]
    elif moment == "hashes":
        checkpoints.write_state = wait_to_be_killed
    elif moment == "name":
        write_state = checkpoints.write_state
        checkpoints.write_state = lambda *args, **kwargs: wait_to_be_killed(write_state(*args, **kwargs))
    elif moment == "older":
        shutil.rmtree = wait_to_be_killed  # type: ignore[assignment]
    run.save(saved, 4)
    saved.wait()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moment", "asynchronous", "left"),
    [("tensors", True, 2), ("tensors", False, 2), ("hashes", True, 2), ("name", True, 2), ("older", False, 4)],
)
def test_killed_within_a_save_there_is_the_one_before_or_this_one(
    tmp_path: Path, moment: str, asynchronous: bool, left: int
) -> None:
    child = CONTEXT.Process(target=save_until_killed, args=(moment, tmp_path, asynchronous))
    child.start()
    deadline = time.monotonic() + 60
    while not (tmp_path / "now").exists() and time.monotonic() < deadline and child.is_alive():
        time.sleep(0.02)
    child.kill()  # SIGKILL
    child.join(60)
    assert child.exitcode == -signal.SIGKILL
    straight, resumed = tuning(), tuning(seed=1)
    straight.steps(0, 6)
    assert resumed.restore(checkpoints_in(tmp_path)) == left
    resumed.steps(left, 6)
    assert differences(resumed.state(), straight.state()) == []
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_a_full_disk_is_named_and_the_earlier_checkpoint_stays(tmp_path: Path) -> None:
    straight = saved_at(tmp_path, 2)
    checkpoints = checkpoints_in(tmp_path, IN_BACKGROUND)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))  # what a full disk is to a writer
    try:
        straight.save(checkpoints, 3)
        deadline = time.monotonic() + 30
        while not checkpoints.failed:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        with pytest.raises(RunDirError, match=r"could not write to .*\.step-000003\.tmp: .*") as caught:
            checkpoints.wait()
        with pytest.raises(RunDirError, match="could not write to"):
            straight.save(checkpoints_in(tmp_path), 3)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "Is the disk full?" in str(caught.value.hint)
    assert names(tmp_path) == ["step-000002"]
    assert not checkpoints.failed
    straight.save(checkpoints, 3)  # now there is room
    checkpoints.wait()
    assert tuning().restore(checkpoints) == 3


ON_A_DISK = """
import sys, torch
from pathlib import Path
from genesis_sft.errors import RunDirError
from tests.training.saving.saved_tuning import checkpoints_in, tuning
torch.set_num_threads(1)
try:
    tuning().save(checkpoints_in(Path(sys.argv[1])), 3)
except RunDirError as error:
    print(error)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "reason"), [("size=64k", "No space left on device|file write failed"), ("ro", "Read-only file system")]
)
def test_a_disk_that_cannot_be_written_is_named(tmp_path: Path, options: str, reason: str) -> None:
    if subprocess.run(["unshare", "-rm", "true"], capture_output=True, timeout=30).returncode:
        pytest.skip("no mount namespace of its own is permitted here")
    script = f'mount -t tmpfs -o {options} tmpfs "$1" && exec "$2" -c "$3" "$1"'
    done = subprocess.run(
        ["unshare", "-rm", "sh", "-c", script, "sh", str(tmp_path), sys.executable, ON_A_DISK],
        capture_output=True, text=True, timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"could not write to {tmp_path}/checkpoints/.step-000003.tmp: "), done.stdout
    assert any(part in done.stdout for part in reason.split("|")), done.stdout


def test_a_checkpoint_that_nothing_writes_is_no_failure(tmp_path: Path) -> None:
    checkpoints: Checkpoints = checkpoints_in(tmp_path, IN_BACKGROUND)
    assert not checkpoints.failed
    checkpoints.wait()
    checkpoints.remove()
