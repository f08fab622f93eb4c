"""Experiment trackers: they get the numbers and nothing else, and no run ends because one of them fails."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from genesis_sft.errors import InputError
from genesis_sft.training.watching import trackers
from genesis_sft.training.watching.trackers import TrackedRun, flat_numbers, open_trackers, require_trackers


class Failing:
    """A tracker that takes two steps, and no end."""

    def __init__(self, run: TrackedRun) -> None:
        self.steps: list[int] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.steps.append(step)
        if len(self.steps) > 2:
            raise ConnectionError("the line is dead")

    def close(self) -> None:
        raise ConnectionError("still dead")


def test_numbers_are_taken_out_of_a_row() -> None:
    row = {
        "step": 3,
        "loss": 1.5,
        "mfu": None,
        "skipped": True,
        "grad_norm": float("inf"),
        "health": {"<|im_end|>": {"norm": 0.2}, "note": "text"},
    }
    assert flat_numbers(row) == {"loss": 1.5, "skipped": 1.0, "health/<|im_end|>/norm": 0.2}


def test_no_trackers_are_fine(tmp_path: Path) -> None:
    with open_trackers((), tmp_path, "tiny", {}) as log:
        log(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


def test_a_missing_package_is_an_error_at_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    with pytest.raises(InputError, match=r"the package wandb .* not installed") as caught:
        require_trackers(["wandb"])
    assert caught.value.hint == "pip install 'genesis-sft[wandb]', or leave wandb out."
    with pytest.raises(InputError, match="the package wandb"), open_trackers(["wandb"], tmp_path, "tiny", {}):
        pass


def test_a_tracker_that_does_not_start_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: TrackedRun) -> trackers.Tracker:
        print("words of a foreign package")
        raise PermissionError("no entry")

    monkeypatch.setitem(trackers.TRACKERS, "json", fail)  # a package that is always there
    with (
        pytest.raises(InputError, match="json could not be started: PermissionError: no entry"),
        open_trackers(["json"], tmp_path, "tiny", {}),
    ):
        pass


def test_a_tracker_that_fails_later_is_reported_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: dict[str, Failing] = {}

    def open_failing(run: TrackedRun, name: str) -> Failing:
        return opened.setdefault(name, Failing(run))

    monkeypatch.setitem(trackers.TRACKERS, "json", lambda run: open_failing(run, "json"))
    monkeypatch.setitem(trackers.TRACKERS, "math", lambda run: open_failing(run, "math"))
    with open_trackers(["json", "math"], tmp_path, "tiny", {}) as log:
        for step in range(1, 6):
            log(step, {"loss": 1.0})
        opened["math"].steps.clear()
    assert opened["json"].steps == [1, 2, 3]  # and was not asked again
    assert capsys.readouterr().err.splitlines() == [
        f"{name} failed (ConnectionError: the line is dead); the run goes on without it, metrics.jsonl has all"
        for name in ("json", "math")
    ]


def test_a_tracker_that_does_not_end_well_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(trackers.TRACKERS, "json", Failing)
    with open_trackers(["json"], tmp_path, "tiny", {}):
        pass
    assert "json failed (ConnectionError: still dead)" in capsys.readouterr().err


def test_tensorboard_has_each_step_once_after_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for first, last in ((1, 4), (3, 6)):  # killed after step 4, gone on from the checkpoint of step 2
        with open_trackers(["tensorboard"], tmp_path, "tiny", {"seed": 7}, first_step=first) as log:
            for step in range(first, last + 1):
                log(step, {"loss": 1 / step, "health/<|im_end|>/norm": 0.5})
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert sorted(events.Tags()["scalars"]) == ["health/<|im_end|>/norm", "loss"]
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(s, pytest.approx(1 / s)) for s in range(1, 7)]
    assert b'"seed": 7' in events.Tensors("settings/text_summary")[-1].tensor_proto.string_val[0]


FOREIGN = """
import sys
from pathlib import Path
from genesis_sft.training.watching.trackers import open_trackers
name, folder = sys.argv[1], Path(sys.argv[2])
for first, last in ((1, 4), (3, 6)):
    with open_trackers([name], folder, "tiny", {"seed": 7}, first_step=first) as log:
        for step in range(first, last + 1):
            log(step, {"loss": 1 / step})
"""


def log_to(name: str, folder: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Log steps 1 to 4 and, as a resumed run, 3 to 6; in a process of its own, with a secret in its environment."""
    return subprocess.run(
        [sys.executable, "-c", FOREIGN, name, folder],
        env=os.environ | {"HOME": str(folder), "MY_SECRET": "hunter2hunter2"} | env,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_wandb_offline_keeps_one_run_over_a_resume_and_no_secrets(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    result = log_to("wandb", tmp_path, WANDB_MODE="offline", WANDB_API_KEY="a" * 40)
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    runs = sorted(tmp_path.glob("wandb/offline-run-*/run-*.wandb"))
    assert len(runs) == 2
    assert {run.stem for run in runs} == {f"run-{(tmp_path / 'wandb_run_id.txt').read_text()}"}
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert written.count(b"loss") >= 8
    assert b"seed" in written
    for not_sent in (b"hunter2", b"a" * 40, b"open_trackers"):
        assert not_sent not in written


@pytest.mark.slow
def test_wandb_without_a_key_is_an_error_at_the_start(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    result = log_to("wandb", tmp_path, WANDB_MODE="online", WANDB_API_KEY="")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith("InputError: expected an API key for wandb, found none")


@pytest.mark.slow
def test_trackio_has_one_run_over_a_resume(tmp_path: Path) -> None:
    pytest.importorskip("trackio")
    import sqlite3

    result = log_to("trackio", tmp_path, TRACKIO_DIR=str(tmp_path / "db"), HF_HUB_OFFLINE="1")
    assert (result.returncode, result.stdout) == (0, ""), result.stderr
    with sqlite3.connect(tmp_path / "db" / "genesis-sft.db") as data:
        rows = data.execute("select run_name, step from metrics order by id").fetchall()
        names = data.execute("select distinct run_id from metrics").fetchall()
    assert rows == [("tiny", step) for step in (1, 2, 3, 4, 3, 4, 5, 6)]
    assert len(names) == 1
