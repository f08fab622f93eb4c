"""Watching a run: what its files say, drawn at any width, while it lasts and later, without a trace."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from rich.cells import cell_len

from genesis_sft.errors import RunDirError
from genesis_sft.training.result import summarize
from genesis_sft.training.watching.curves import Curve, Line, Paper, curves_of, draw, thin
from genesis_sft.training.watching.metrics import EventsLog, MetricsLog
from genesis_sft.training.watching.watch import WatchedRun, find_training
from tests.training.watching.terminal import LINES, lines_of, run_on_terminal

ROOT = Path(__file__).resolve().parents[3]
RESULT = "8 steps, 8,000 tokens (5,000 trained), loss 0.500 -> 0.062"


def row(step: int) -> dict[str, Any]:
    return {
        "step": step,
        "loss": 0.5 / step,
        "learning_rate": 1e-5 * step,
        "grad_norm": 1.0,
        "tokens": 1000,
        "trained_tokens": 625,
        "skipped": False,
        "end_probability": 0.1 * step,
        "end_rank": 1.0,
        "elsewhere_probability": 0.01,
        "elapsed_seconds": 2.5,
        "tokens_per_second": 400.0,
        "mfu": None,
        "memory_bytes": 1_500_000_000,
    }


def write_training(folder: Path, num_steps: int, *, written_seconds_ago: float = 0.0) -> Path:
    """Write what eight steps, or the first of them, leave behind."""
    folder.mkdir(parents=True)
    with MetricsLog(folder / "metrics.jsonl", 1) as log:
        for step in range(1, num_steps + 1):
            log.write(row(step))
    with EventsLog(folder / "events.jsonl", 1) as events:
        events.write(0, "plan", num_steps=8)
        for step in range(2, num_steps + 1, 2):
            events.write(step, "held_out", loss=2 / step, sources={"safety": 1 / step, "sums": 3 / step})
        events.write(num_steps, "alarm", name="rows_frozen", message="the rows\nare frozen")
        events.write(num_steps, "sample", prompt="1 + 1?", answer="2", ended=True)
    then = time.time() - written_seconds_ago
    os.utime(folder / "metrics.jsonl", (then, then))
    return folder


def finish(folder: Path) -> None:
    summarize(folder, vocab_size=64, padded_vocab_size=64, weights_of_step=None, alarms=()).write()


def without_colour(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


def test_of_a_run_what_was_written_last_is_watched(tmp_path: Path) -> None:
    write_training(tmp_path / "run" / "train", 8, written_seconds_ago=100)
    assert find_training(tmp_path / "run") == tmp_path / "run" / "train"
    write_training(tmp_path / "run" / "partial" / "train-b", 3, written_seconds_ago=10)
    write_training(tmp_path / "run" / "partial" / "train-a", 3, written_seconds_ago=5)
    (tmp_path / "run" / "partial" / "train-c").mkdir()  # of another recipe, where nothing was done
    assert find_training(tmp_path / "run") == tmp_path / "run" / "partial" / "train-a"
    for folder in (tmp_path / "run" / "train", tmp_path / "run" / "partial" / "train-b"):
        assert find_training(folder) == folder


@pytest.mark.parametrize(("made", "found"), [(None, "nothing"), ("file", "a file"), ("folder", "a folder without any")])
def test_what_is_no_run_is_refused(tmp_path: Path, made: str | None, found: str) -> None:
    if made == "folder":
        (tmp_path / "x").mkdir()
    elif made == "file":
        (tmp_path / "x").write_text("")
    with pytest.raises(RunDirError, match=f"expected a run at .*/x: metrics.jsonl, .* found {found}") as caught:
        WatchedRun.open(tmp_path / "x")
    assert "runs/quickstart" in str(caught.value.hint)


@pytest.mark.parametrize("sign", [".genesis-run", "partial", "events.jsonl"])
def test_a_run_before_its_first_step(tmp_path: Path, sign: str) -> None:
    (tmp_path / sign).mkdir() if sign == "partial" else (tmp_path / sign).touch()
    run = WatchedRun.open(tmp_path)
    assert run.status() == [f"{tmp_path}: no step is done yet"]
    assert draw(curves_of(run), Paper(80)) == []
    assert (run.num_steps, run.eta_seconds, run.idle_seconds, run.is_idle) == (None, None, None, False)


def test_the_status_of_a_live_run(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "run" / "partial" / "train-abc", 5)
    assert WatchedRun.open(tmp_path / "run").status() == [
        f"{folder}: step 5 of 8, ETA 7.5 s",
        "loss 0.100 (smoothed 0.381)  learning rate 5e-05  gradient norm 1  400 tokens/s, 250 trained  memory 1.5 GB",
        "alarm (step 5): the rows are frozen",
    ]


def test_the_status_of_a_run_that_has_stopped(tmp_path: Path) -> None:
    write_training(tmp_path / "train", 5, written_seconds_ago=1000)
    run = WatchedRun.open(tmp_path)
    assert re.fullmatch(r".*/train: step 5 of 8, no new step for 16 min 4\d s", run.status()[0])
    assert run.eta_seconds is None
    os.utime(tmp_path / "train" / "metrics.jsonl", (time.time() - 50,) * 2)
    assert WatchedRun.open(tmp_path).eta_seconds == 7.5  # steps of 2.5 s, but a checkpoint may take a while


def test_the_status_of_a_finished_run(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "train", 8, written_seconds_ago=1e6)
    finish(folder)
    run = WatchedRun.open(tmp_path)
    assert run.status() == [f"{folder}: finished; {RESULT}", "alarm (step 8): the rows are frozen"]
    (folder / "training.json").write_text('{"num_steps"')  # a copy that is being made
    assert "step 8 of 8" in WatchedRun.open(tmp_path).status()[0]


def test_names_in_a_run_cannot_command_the_terminal(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "r\x1b[2J", 5)
    with EventsLog(folder / "events.jsonl", 6) as events:
        events.write(5, "alarm", name="x", message="\x1b[31mred")
        events.write(5, "held_out", loss=1.0, sources={"\x1b[5msums": 1.0, "b": 2.0})
    run = WatchedRun.open(folder)
    assert "\x1b" not in "".join([*run.status(), *draw(curves_of(run), Paper(80))])


def test_curves_are_those_of_the_files(tmp_path: Path) -> None:
    run = WatchedRun.open(write_training(tmp_path / "train", 3))
    assert [(curve.title, [line.name for line in curve.lines]) for curve in curves_of(run)] == [
        ("loss", ["smoothed", "each step"]),
        ("held-out loss", ["all", "safety", "sums"]),
        ("learning rate", [""]),
        ("gradient norm", [""]),
        ("tokens/s", [""]),
        ("probability of end of turn", ["at ends of turns", "elsewhere"]),
    ]
    points = {line.name or curve.title: line.points for curve in curves_of(run) for line in curve.lines}
    assert points["each step"] == [(1, 0.5), (2, 0.25), (3, 0.5 / 3)]
    assert points["smoothed"] == [(1, 0.5), (2, pytest.approx(0.475)), (3, pytest.approx(0.9 * 0.475 + 0.05 / 3))]
    assert (points["all"], points["safety"], points["sums"]) == ([(2, 1.0)], [(2, 0.5)], [(2, 1.5)])
    assert points["tokens/s"] == [(1, 400.0), (2, 400.0), (3, 400.0)]
    assert points["at ends of turns"] == [(1, 0.1), (2, 0.2), (3, pytest.approx(0.3))]


def test_what_was_not_measured_has_no_curve(tmp_path: Path) -> None:
    with MetricsLog(tmp_path / "metrics.jsonl", 1) as log:  # a row as an earlier version wrote it, and a ruined one
        log.write({"step": 1, "loss": 1.0, "learning_rate": 1e-5, "tokens": 10, "elapsed_seconds": 0.0})
        log.write({"step": 2, "loss": None, "learning_rate": "fast", "tokens": None, "elapsed_seconds": 1.0})
    curves = curves_of(WatchedRun.open(tmp_path))
    assert [(curve.title, curve.lines[0].points) for curve in curves] == [
        ("loss", [(1, 1.0)]),
        ("learning rate", [(1, 1e-5)]),
    ]


def test_of_a_single_source_there_is_one_held_out_curve(tmp_path: Path) -> None:
    with EventsLog(tmp_path / "events.jsonl", 1) as events:
        events.write(2, "held_out", loss=1.0, sources={"": 1.0, "sums": 1.0})
    assert curves_of(WatchedRun.open(tmp_path)) == [Curve("held-out loss", (Line("all", [(2, 1.0)]),))]


def test_a_long_legend_leaves_room_for_the_plot() -> None:
    curve = Curve("held-out loss", tuple(Line(f"source {n}", [(1, 1.0), (2, 2.0)]) for n in range(20)))
    lines = draw([curve], Paper(38))
    assert lines[0] == "held-out loss  ⣀ source 0 2           "
    assert lines[-2].strip().startswith("└┬─")


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("unicode", [False, True])
def test_lines_are_as_wide_as_the_paper_and_no_wider(tmp_path: Path, colour: bool, unicode: bool) -> None:
    folder = write_training(tmp_path / "train", 8)
    with EventsLog(folder / "events.jsonl", 9) as events:
        events.write(8, "held_out", loss=1.0, sources={"数学と推論のための長い名前": 1.0, "b": 2.0})
    curves = curves_of(WatchedRun.open(folder))
    for width in (*range(1, 42), 79, 80, 113, 200):
        lines = draw(curves, Paper(width, colour=colour, unicode=unicode))
        plain = [without_colour(line) for line in lines]
        assert max(map(cell_len, plain)) <= width
        assert "\x1b" not in "".join(plain)
        assert (lines != plain) == colour
        assert unicode or "".join(plain).isascii()
        assert len(lines) == 12 * (6 if width < 76 else 3 if width < 114 else 2)


def test_panels_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    curves = curves_of(WatchedRun.open(write_training(tmp_path / "train", 8)))
    for height, expected in ((100, 36), (36, 36), (30, 30), (21, 21), (20, 20), (14, 14), (13, 12), (3, 7)):
        assert len(draw(curves, Paper(80, height))) == expected


def test_lines_are_drawn_where_their_points_are() -> None:
    curve = Curve("two", (Line("a", [(1, 0.0), (9, 8.0)]), Line("b", [(1, 8.0), (9, 0.0)])))
    assert draw([curve], Paper(20, 11, unicode=False)) == [
        "two  * a 8  x b 0   ",
        "    +--------------+",
        "   8+x            *|",
        "    |           ** |",
        "5.33+         **   |",
        "    |       **     |",
        "2.67+     **       |",
        "    |   **         |",
        "   0+***          x|",
        "    ++------------++",
        "     1            9 ",
    ]


def test_thinning_keeps_what_stands_out() -> None:
    points = [(step, 1.0) for step in range(1, 10_001)]
    points[1234], points[7777] = (1235, 90.0), (7778, -5.0)
    kept = thin(points, 50)
    assert len(kept) <= 100
    assert kept == sorted(kept)
    assert {(1235, 90.0), (7778, -5.0)} <= set(kept)
    assert thin(points[:100], 50) == points[:100]


def watch(*arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "genesis_sft", "train", "watch", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | env,
        cwd=ROOT,
    )


def listing(folder: Path) -> list[tuple[str, int]]:
    return [(str(path), path.stat().st_mtime_ns) for path in sorted([folder, *folder.rglob("*")])]


@pytest.mark.slow
def test_a_copy_is_watched_without_a_trace(tmp_path: Path) -> None:
    write_training(tmp_path / "run" / "partial" / "train-abc", 5)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")  # as rsync would: times are those of now
    before = listing(tmp_path)
    shown = watch(tmp_path / "copy", COLUMNS="80", PYTHONUTF8="1")
    assert (shown.returncode, shown.stderr) == (0, "")
    lines = shown.stdout.splitlines()
    assert "".join(lines[:3]).replace(" ", "").startswith(f"{tmp_path}/copy/partial/train-abc:step5of8,ETA7.5s")
    assert max(map(len, lines)) == 80
    assert "\x1b" not in shown.stdout
    assert "held-out loss" in shown.stdout
    ascii_only = watch(tmp_path / "copy", COLUMNS="80", PYTHONIOENCODING="ascii")
    assert ascii_only.stdout.isascii()
    assert "\\" not in ascii_only.stdout.replace(str(tmp_path), "")
    assert listing(tmp_path) == before


@pytest.mark.slow
def test_the_numbers_as_json(tmp_path: Path) -> None:
    folder = write_training(tmp_path / "train", 5)
    answer = json.loads(watch(tmp_path, "--json").stdout)
    assert answer.pop("idle_seconds") < 120
    assert answer == {
        "folder": str(folder),
        "finished": False,
        "steps": 5,
        "num_steps": 8,
        "eta_seconds": 7.5,
        "alarms": [{"step": 5, "kind": "alarm", "name": "rows_frozen", "message": "the rows\nare frozen"}],
        "held_out": [
            {"step": 2, "kind": "held_out", "loss": 1.0, "sources": {"safety": 0.5, "sums": 1.5}},
            {"step": 4, "kind": "held_out", "loss": 0.5, "sources": {"safety": 0.25, "sums": 0.75}},
        ],
        "samples": [{"step": 5, "kind": "sample", "prompt": "1 + 1?", "answer": "2", "ended": True}],
        "metrics": [row(step) for step in range(1, 6)],
    }


@pytest.mark.slow
def test_what_cannot_be_watched_is_refused(tmp_path: Path) -> None:
    for arguments, words in (
        ([tmp_path / "gone"], "found nothing"),
        ([""], "empty name"),
        ([tmp_path, "--follow", "--json"], "expected --follow or --json, found both"),
        ([], "Missing argument 'RUN'"),
    ):
        refused = watch(*arguments)
        assert (refused.returncode, refused.stdout) == (2, "")
        assert words in refused.stderr
        assert "Traceback" not in refused.stderr


def start_following(path: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "genesis_sft", "train", "watch", str(path), "--follow"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)


@pytest.mark.slow
def test_a_live_run_is_followed_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "partial").mkdir()
    process = start_following(tmp_path)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{tmp_path}: no step is done yet\n"
        write_training(tmp_path / "partial" / "train-abc", 5)
        assert process.stdout.readline().startswith(f"{tmp_path}/partial/train-abc: step 5 of 8, ETA ")
        write_training(tmp_path / "aside", 8)
        finish(tmp_path / "aside")
        (tmp_path / "aside").rename(tmp_path / "train")  # as the stage does when it is done
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    assert (process.returncode, stderr) == (0, "")
    assert f"finished; {RESULT}" in " ".join(stdout.split())
    assert "tokens/s" in stdout


@pytest.mark.slow
@pytest.mark.parametrize(("columns", "no_colour"), [(100, ""), (31, "1")])
def test_on_a_terminal_a_run_is_drawn_as_large_as_that_is(tmp_path: Path, columns: int, no_colour: str) -> None:
    finish(write_training(tmp_path / "train", 8))
    command = [sys.executable, "-m", "genesis_sft", "train", "watch", str(tmp_path), "--follow"]
    colours = {"NO_COLOR": no_colour} if no_colour else {}
    sent = run_on_terminal(command, columns, stdout_too=True, **colours)[1]
    lines = lines_of(sent[sent.rindex("\x1b[2K") :])  # as it was drawn last
    assert max(map(len, lines)) == columns
    assert len(lines) < LINES
    assert any(line.startswith("loss  ") for line in lines)
    assert ("\x1b[38;5;39m" in sent) == (not no_colour)


@pytest.mark.slow
def test_one_stops_to_look_with_ctrl_c(tmp_path: Path) -> None:
    write_training(tmp_path / "train", 5)
    process = start_following(tmp_path)
    try:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1] == ""
    finally:
        process.kill()
    assert process.returncode == 0


@pytest.mark.slow
def test_watching_needs_no_torch(tmp_path: Path) -> None:
    write_training(tmp_path / "train", 5)
    code = (
        "import sys; sys.argv = ['genesis-sft', 'train', 'watch', sys.argv[1]]\n"
        "from genesis_sft.cli import main\n"
        "try: main()\nexcept SystemExit as stop: assert stop.code in (0, None), stop.code\n"
        "heavy = {'torch', 'transformers', 'pyarrow', 'numpy'} & set(sys.modules)\nassert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, capture_output=True, timeout=60, cwd=ROOT)


@pytest.mark.slow
def test_train_takes_a_recipe_unless_its_first_word_is_a_command() -> None:
    for arguments in (["--help"], ["recipes/quickstart.yaml", "-h"]):
        command = [sys.executable, "-m", "genesis_sft", "train", *arguments]
        shown = " ".join(subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT).stdout.split())
        assert "Example: genesis-sft train recipes/quickstart.yaml" in shown
        assert "Example: genesis-sft train watch runs/quickstart --follow" in shown
        assert "--run-dir DIR" in shown
    for arguments, missing in ((["./watch"], "at watch"), (["RECIPE"], "at RECIPE"), (["--json", "x"], "at x")):
        command = [sys.executable, "-m", "genesis_sft", "train", *arguments]
        refused = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
        assert refused.returncode == 2
        assert f"expected a recipe {missing}: " in refused.stderr
