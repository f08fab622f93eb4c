"""A report is checked against the records of its run: whatever is changed afterwards is found and named."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from genesis_sft.errors import RunDirError
from genesis_sft.report.run_report import STAGES_READ, write_again
from genesis_sft.report.verify import REPORT_VERSION, verify_run
from genesis_sft.run_dir import RunDir, hash_file, read_manifest, write_json
from genesis_sft.stages import STAGES
from tests.report.finished_run import make_run

THIS = metadata.version("genesis-sft")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def named(run: Path) -> list[tuple[str, str]]:
    return [(one.file, one.field) for one in verify_run(run).differences]


def change(path: Path, old: str, new: str) -> None:
    """Change one place of a file, and its hash in the manifest with it, as someone would who hides it."""
    place = re.escape(old).replace(r",\ ", r",\s+")  # fields may stand on lines of their own
    text, count = re.subn(place, lambda _: new, path.read_text(encoding="utf-8"), count=1)
    assert count, f"{old} does not stand in {path.name}"
    rewrite(path, text)


def rewrite(path: Path, text: str) -> None:
    """Write other text into a file, and its hash into the manifest."""
    path.write_text(text, encoding="utf-8")
    stage = next(folder for folder in path.parents if (folder / "manifest.json").exists())
    manifest = read_manifest(stage)
    assert manifest
    name = path.relative_to(stage).as_posix()
    manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": hash_file(path)}
    write_json(stage / "manifest.json", manifest)


def test_a_run_as_it_was_written_agrees(run: Path) -> None:
    verification = verify_run(run)
    assert verification.differences == ()
    assert verification.num_files == sum(1 for path in run.rglob("*") if path.is_file()) - len(
        [*run.glob("*/manifest.json"), run / "recipe.yaml"]
    )


_LAW = '"name": "law", "group": "humanities", "value": 0.'
_STEM = '"name": "stem", "group": "stem", "value": 0.'
_OUTCOMES = '"acc": 1.0, "acc_norm": '


@pytest.mark.parametrize(
    ("file", "old", "new", "field"),
    [
        ("report/report.json", '"n": 4,', '"n": 5,', r"comparison\.tasks\.0\.n"),
        ("report/report.json", '"loss": 2.9375', '"loss": 2.9374', r"training_loss\.0\.loss"),
        ("report/report.md", "| 20 |", "| 21 |", r"line \d+"),
        ("report/report.html", '<td class="r">20</td>', '<td class="r">21</td>', r"line \d+"),
        ("before/record.json", '"value": 0.25,', '"value": 0.26,', r"tasks\.0 \(piqa, acc_norm\)\.value"),
        ("before/record.json", "[0.0, 1.0, 0.0, 0.0]", "[1.0, 1.0, 0.0, 0.0]", r"tasks\.0 .*\.items\.0"),
        ("before/record.json", f"{_LAW}5", f"{_LAW}6", r"tasks\.1 .*\.subjects\.0\.value"),
        ("before/record.json", f"{_STEM}5", f"{_STEM}4", r"tasks\.1 .*\.groups\.1\.value"),
        ("before/record.json", "doc-piqa-2", "doc-piqa-9", r"tasks\.0 .*\.doc_hashes\.2"),
        ("after/record.json", '"losses": [31.0', '"losses": [32.0', r"plain_text\.tale\.nats_per_token"),
        ("held_out/after/record.json", '"losses": [24.0', '"losses": [23.0', r"held_out\.sums\.nats_per_token"),
        ("before/samples.jsonl", f"{_OUTCOMES}0.0", f"{_OUTCOMES}1.0", r"line 1: outcomes\.acc_norm"),
        ("before/samples.jsonl", "[-20.0, -24.0]", "[-25.0, -24.0]", r"line 1: outcomes\.acc"),
        ("before/samples.jsonl", "[-5.0]", "[-5.5]", r"line 12: outcomes\.perplexity"),
        ("before/samples.jsonl", '"target": 0', '"target": 1', r"line 1: outcomes\.acc"),
        ("after/answers.jsonl", '"num_tokens": 5', '"num_tokens": 6', r"line 1\.num_tokens"),
    ],
)
def test_one_changed_digit_is_found_and_named(run: Path, file: str, old: str, new: str, field: str) -> None:
    change(run / file, old, new)
    found = named(run)
    assert any(name == file and re.fullmatch(field, where) for name, where in found), found


@pytest.mark.parametrize(
    ("file", "old", "new", "field"),
    [
        ("train/metrics.jsonl", '"loss": 2.9375', '"loss": 2.9374', r"training_loss\.0\.loss"),
        ("train/events.jsonl", '"loss": 3.0', '"loss": 3.5', r"held_out_during_training\.0\.loss"),
        ("data/ledger.json", '"rows_read": 20', '"rows_read": 21', r"ledger\.sources\.0\.rows_read"),
        ("base/check.json", "3.7", "3.8", r"base_check\.nats_per_token"),
        ("recipe.yaml", "MIT", "BSD", r"ledger\.sources\.0\.licence"),
    ],
)
def test_a_changed_input_of_the_report_shows_where_the_report_says_otherwise(
    run: Path, file: str, old: str, new: str, field: str
) -> None:
    if file == "recipe.yaml":
        (run / file).write_text((run / file).read_text().replace(old, new))
    else:
        change(run / file, old, new)
    found = named(run)
    assert any(name == "report/report.json" and re.fullmatch(field, where) for name, where in found), found


def rewrite_rows(run: Path, change_row: Callable[[dict[str, Any]], Any]) -> None:
    path = run / "before" / "samples.jsonl"
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for row in rows:
        change_row(row)
    rewrite(path, "".join(json.dumps(row) + "\n" for row in rows))


def rewrite_task(run: Path, number: int, **fields: Any) -> None:
    path = run / "before" / "record.json"
    record = json.loads(path.read_text(encoding="utf-8"))
    record["tasks"][number] |= fields
    rewrite(path, json.dumps(record))


def test_words_said_to_be_right_are_found_even_when_rows_and_record_agree(run: Path) -> None:
    rewrite_rows(run, lambda row: row["outcomes"].update(acc=1.0))
    rewrite_task(run, 2, items=[1.0] * 3, value=1.0, standard_error=0.0)
    found = [where for file, where in named(run) if file.startswith("before/")]
    assert found == [f"line {line}: outcomes.acc" for line in (11, 12, 13)]  # of LAMBADA; all choices were right before


def test_rows_that_do_not_say_whether_a_word_is_the_likeliest_are_named_once(run: Path) -> None:
    rewrite_rows(run, lambda row: row.pop("is_greedy"))
    assert [where for file, where in named(run) if file == "before/samples.jsonl"] == ["line 11: is_greedy"]


@pytest.mark.parametrize(("num_choices", "chance"), [([50] * 4, 0.02), ([], 0.01), ([], None), ([2] * 3 + [3], 0.5)])
def test_chance_follows_from_the_choices_that_there_were(
    run: Path, num_choices: list[int], chance: float | None
) -> None:
    rewrite_task(run, 0, num_choices=num_choices, chance=chance)
    found = {where for file, where in named(run) if file == "before/record.json"}
    assert any(re.fullmatch(r"tasks\.0 .*\.num_choices.*", where) for where in found), found
    assert any(where.endswith("chance") for where in found) == (chance != 0.5), found


def test_a_chance_where_there_are_no_choices_is_found(run: Path) -> None:
    rewrite_task(run, 2, chance=0.25)
    assert ("before/record.json", "tasks.2 (lambada_openai, acc).chance") in named(run)


def test_a_row_of_a_task_that_the_record_does_not_have_is_found(run: Path) -> None:
    path = run / "before" / "samples.jsonl"
    text = path.read_text(encoding="utf-8")
    row = json.loads(text.splitlines()[0])
    rewrite(path, text + json.dumps(row | {"num_fewshot": 5}) + "\n" + json.dumps(row | {"task": "arc"}) + "\n")
    found = [(one.field, one.found) for one in verify_run(run).differences if one.file == "before/samples.jsonl"]
    assert found == [("line 14: task", "piqa, raw, 5-shot"), ("line 15: task", "arc, raw, 0-shot")]


def write_manifest(run: Path, **fields: Any) -> None:
    manifest = read_manifest(run / "report")
    assert manifest
    write_json(run / "report" / "manifest.json", manifest | fields)


@pytest.mark.parametrize(
    "fields", [{"version": REPORT_VERSION - 1}, {"versions": {"genesis-sft": "0.0.1"}}, {"versions": None}]
)
def test_pages_of_another_version_are_not_compared_but_all_else_is(run: Path, fields: dict[str, Any]) -> None:
    rewrite(run / "report" / "report.md", "laid out otherwise\n")
    assert named(run) == [("report/report.md", "line 1")]
    write_manifest(run, **fields)
    verification = verify_run(run)
    assert verification.differences == ()
    says = verification.table()
    assert "The report says what the records say" not in says
    assert says.count("its pages are not compared. `genesis-sft report write` writes them again.") == 1
    (run / "report" / "report.html").write_text("changed", encoding="utf-8")
    change(run / "before" / "record.json", '"value": 0.25,', '"value": 0.26,')
    found = [("before/record.json", "tasks.0 (piqa, acc_norm).value"), ("report/report.html", "SHA-256")]
    assert named(run) == found
    assert "its pages are not compared" in verify_run(run).table()


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        (
            {"version": REPORT_VERSION - 1},
            f"is in version {REPORT_VERSION - 1} of its format, this program writes version {REPORT_VERSION}:",
        ),
        ({"versions": {"genesis-sft": "0.0.1"}}, f"was written by genesis-sft 0.0.1, this is {THIS}:"),
        ({"versions": None}, f"was written by an unknown version, this is {THIS}:"),
    ],
)
def test_what_differs_of_the_versions_is_what_is_named(run: Path, fields: dict[str, Any], words: str) -> None:
    write_manifest(run, **fields)
    note = verify_run(run).note
    assert note.startswith(f"The report {words}")
    assert (THIS in note) == ("version" not in fields)


def test_the_versions_that_are_read_are_those_that_the_stages_write() -> None:
    assert {stage.name: stage.version for stage in STAGES} == STAGES_READ | {"report": REPORT_VERSION}


def test_a_value_that_nothing_is_computed_from_is_found_by_its_hash(run: Path) -> None:
    metrics = run / "train" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().replace('"mfu": 0.25', '"mfu": 0.26', 1))
    assert named(run) == [("train/metrics.jsonl", "SHA-256")]


def test_another_model_is_found(run: Path) -> None:
    (run / "export" / "model" / "model.safetensors").write_bytes(b"other")
    assert {("after/record.json", "model"), ("export/model/model.safetensors", "SHA-256")} <= set(named(run))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _nonsense(path: Path) -> None:
    path.write_bytes(b"[1, {\xff")


@pytest.mark.parametrize("spoil", [_cut, _empty, _nonsense, Path.unlink])
@pytest.mark.parametrize(
    "file",
    [
        "before/record.json", "after/samples.jsonl", "before/answers.jsonl", "train/metrics.jsonl",
        "data/ledger.json", "data/touched.json", "base/check.json", "train/training.json", "report/report.json",
        "report/report.md", "export/model/config.json",
    ],
)  # fmt: skip
def test_a_damaged_file_is_named_and_never_a_crash(run: Path, file: str, spoil: Callable[[Path], Any]) -> None:
    spoil(run / file)
    assert file in {name for name, _ in named(run)}


def test_what_is_no_finished_run_is_refused(run: Path, tmp_path: Path) -> None:
    with pytest.raises(RunDirError, match="found no finished stage base"):
        verify_run(tmp_path)
    (run / "report" / "manifest.json").unlink()
    with pytest.raises(RunDirError, match="found no finished stage report"):
        verify_run(run)


@pytest.mark.parametrize("check", [verify_run, lambda run: write_again(run, run.parent / "again")])
def test_of_a_run_that_is_not_finished_the_next_stage_is_said(run: Path, check: Callable[[Path], Any]) -> None:
    with RunDir(run.parent / "marked").locked():  # as `genesis-sft run` marks its folder
        pass
    shutil.copytree(run, run.parent / "marked", dirs_exist_ok=True)
    for stage in ("held_out", "after"):
        (run.parent / "marked" / stage / "manifest.json").unlink()
    with pytest.raises(RunDirError, match=r"this run is not finished, its next stage is after$") as refused:
        check(run.parent / "marked")
    assert refused.value.hint == "The same `genesis-sft run RECIPE` goes on with it."
    assert not (run.parent / "again").exists()


def test_what_it_found_reads_as_lines_and_as_json(run: Path) -> None:
    change(run / "report" / "report.json", '"loss": 2.9375', '"loss": 2.9374')
    verification = verify_run(run)
    line = "report/report.json: training_loss.0.loss: found 2.9374, expected 2.9375"
    assert verification.table().splitlines() == [line, "1 value differs."]
    assert json.loads(json.dumps(verification.to_json()))["differences"][0]["expected"] == "2.9375"


def test_a_report_can_be_written_again_elsewhere(run: Path, tmp_path: Path) -> None:
    files = write_again(run, tmp_path / "again")
    assert {path.name: path.read_bytes() for path in files} == {
        path.name: path.read_bytes() for path in (run / "report").glob("report.*")
    }
