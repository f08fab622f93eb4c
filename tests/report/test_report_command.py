"""``genesis-sft report`` as a user meets it: exit status, what stands on stdout, what on stderr."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from genesis_sft.cli import main
from tests.report.finished_run import make_run


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def status(monkeypatch: pytest.MonkeyPatch, *words: object) -> object:
    monkeypatch.setattr(sys, "argv", ["genesis-sft", "report", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return stop.value.code


def test_a_report_that_agrees_ends_with_0(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "verify", run) == 0
    assert capsys.readouterr().out.startswith("The report says what the records say")


def test_a_report_that_differs_ends_with_1_and_says_where(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "report" / "report.json"
    file.write_text(file.read_text().replace('"n": 4,', '"n": 40,', 1))
    assert status(monkeypatch, "verify", run) == 1
    assert capsys.readouterr().out.splitlines()[0] == "report/report.json: comparison.tasks.0.n: found 40, expected 4"
    assert status(monkeypatch, "verify", run, "--json") == 1
    (one,) = json.loads(capsys.readouterr().out)["differences"]
    assert one == {"file": "report/report.json", "field": "comparison.tasks.0.n", "found": "40", "expected": "4"}


def test_what_is_changed_cannot_write_to_the_terminal(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = run / "report" / "report.json"
    file.write_text(file.read_text().replace('"recipe": "tiny"', '"recipe": "\\u001b[2J\\u202e"'))
    assert status(monkeypatch, "verify", run) == 1
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "\u202e" not in shown


@pytest.mark.parametrize("words", [("verify",), ("write", "--out", "out")])
def test_what_is_no_run_ends_with_2_and_a_hint(
    words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert status(monkeypatch, words[0], tmp_path / "none", *words[1:]) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "expected the folder of a finished run" in shown.err
    assert "hint:" in shown.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [("verify",), ("write", "--out", "out")])
@pytest.mark.parametrize(("change", "which"), [(-1, "an earlier"), (1, "a later")])
def test_a_run_of_another_version_is_said_to_be_one(
    words: tuple[str, ...],
    change: int,
    which: str,
    run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for stage in ("before", "after", "held_out"):
        file = run / stage / "manifest.json"
        manifest = json.loads(file.read_text())
        file.write_text(json.dumps(manifest | {"version": manifest["version"] + change}))
    assert status(monkeypatch, words[0], run, *words[1:]) == 2
    shown = capsys.readouterr()
    assert (shown.out, (tmp_path / "out").exists()) == ("", False)
    assert f"was written by {which} version of genesis-sft (stage before, version {2 + change}; this" in shown.err
    assert "hint: Use that version for it, or run `genesis-sft run RECIPE` again with this one." in shown.err


def test_a_recipe_of_another_version_is_not_blamed(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with open(run / "recipe.yaml", "a") as recipe:
        recipe.write("alignment: {steps: 3}\n")
    assert status(monkeypatch, "verify", run) == 2
    shown = capsys.readouterr().err
    assert "was written by an earlier version of genesis-sft (or its recipe.yaml was changed since: " in shown
    assert "alignment is no known key" in shown


def test_a_report_is_written_to_another_folder_and_the_run_stays_as_it_is(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert status(monkeypatch, "write", run, "--out", tmp_path / "shown") == 0
    files = capsys.readouterr().out.split()
    assert files == [str(tmp_path / "shown" / f"report.{kind}") for kind in ("html", "md", "json")]
    assert all(Path(file).is_file() for file in files)
    assert status(monkeypatch, "verify", run) == 0
