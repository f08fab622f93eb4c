"""A result exists when its manifest does; a change of key redoes a stage, a kill leaves nothing that looks finished."""

import json
import multiprocessing
from dataclasses import replace
from pathlib import Path

import pytest

from genesis_sft.errors import RunDirError
from genesis_sft.run_dir import RunDir, StageSpec

SPEC = StageSpec("tokens", 1, {"max_length": 2048}, {"stage data": "abc"})


class Work:
    """Writes one file and counts how often it was asked to."""

    def __init__(self, text: str = "hello") -> None:
        self.calls, self.text = 0, text

    def __call__(self, out: Path) -> str:
        self.calls += 1
        (out / "result.txt").write_text(self.text)
        return f"wrote {self.text}"


def test_finished_work_is_not_done_again(tmp_path: Path) -> None:
    run, work = RunDir(tmp_path), Work()
    for _ in range(2):
        folder = run.make(SPEC, work)
    assert work.calls == 1
    assert (folder / "result.txt").read_text() == "hello"
    assert run.status(SPEC).done
    assert run.result_line("tokens") == "wrote hello"


def test_a_changed_setting_redoes_the_stage_and_says_what_changed(tmp_path: Path) -> None:
    run, work = RunDir(tmp_path), Work()
    run.make(SPEC, work)
    changed = replace(SPEC, settings={"max_length": 1024})
    assert run.status(changed).why == "max_length was 2048, is 1024"
    tasks = [{"task": "piqa", "limit": None}]
    more = replace(SPEC, settings={"max_length": 2048, "tasks": tasks})
    assert run.status(more).why == 'tasks was absent, is [{"task": "piqa", "limit": null}]'
    assert run.status(replace(SPEC, inputs={"stage data": "new"})).why == "stage data changed"
    run.make(changed, work)
    assert work.calls == 2


def test_going_back_to_an_earlier_recipe_takes_its_result_back(tmp_path: Path) -> None:
    run, work = RunDir(tmp_path), Work()
    run.make(SPEC, work)
    run.make(replace(SPEC, settings={}), Work("other"))
    assert run.status(SPEC).done
    assert (run.make(SPEC, work) / "result.txt").read_text() == "hello"
    assert work.calls == 1


def test_work_that_fails_leaves_no_result(tmp_path: Path) -> None:
    run = RunDir(tmp_path)

    def fail(out: Path) -> str:
        (out / "result.txt").write_text("half")
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        run.make(SPEC, fail)
    assert not run.status(SPEC).done
    assert not run.folder("tokens").exists()
    assert (run.make(SPEC, Work()) / "result.txt").read_text() == "hello"


def test_only_a_resumable_stage_sees_what_an_earlier_try_left(tmp_path: Path) -> None:
    run, seen = RunDir(tmp_path), []

    def fail(out: Path) -> str:
        seen.append(sorted(path.name for path in out.iterdir()))
        (out / "checkpoint").write_text("1")
        raise RuntimeError("power cut")

    for spec in (SPEC, replace(SPEC, name="train", resumable=True)):
        for _ in range(2):
            with pytest.raises(RuntimeError):
                run.make(spec, fail)
    assert seen == [[], [], [], ["checkpoint"]]


def test_a_result_with_a_missing_or_cut_file_is_not_a_result(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    folder = run.make(SPEC, Work())
    (folder / "result.txt").write_text("hell")
    assert run.status(SPEC).why == "its files are damaged"
    assert (run.make(SPEC, Work()) / "result.txt").read_text() == "hello"
    (folder / "manifest.json").write_text("{")
    assert not run.status(SPEC).done


def test_the_manifest_names_everything_that_decided_the_result(tmp_path: Path) -> None:
    manifest = json.loads((RunDir(tmp_path).make(SPEC, Work()) / "manifest.json").read_text())
    assert manifest["settings"] == {"max_length": 2048}
    assert manifest["inputs"] == {"stage data": "abc"}
    # sha256 of b"hello"
    digest = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"
    assert manifest["files"] == {"result.txt": {"bytes": 5, "sha256": digest}}
    assert {"python", "torch", "transformers"} <= manifest["versions"].keys()


def _hold(path: str, held: "multiprocessing.synchronize.Event", release: "multiprocessing.synchronize.Event") -> None:
    with RunDir(path).locked():
        held.set()
        release.wait(30)


def test_two_processes_cannot_work_in_one_folder(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), held, release))
    process.start()
    try:
        assert held.wait(30)
        with pytest.raises(RunDirError, match=f"process {process.pid}"), RunDir(tmp_path).locked():
            pass
    finally:
        release.set()
        process.join(30)
    with RunDir(tmp_path).locked():
        pass


def test_a_folder_with_other_things_in_it_is_never_used(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.jsonl").write_text("years of work")
    with pytest.raises(RunDirError, match="found other files"), RunDir(tmp_path).locked():
        pass
    assert (tmp_path / "data" / "mine.jsonl").read_text() == "years of work"


def test_what_is_no_result_is_moved_not_removed(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    run.folder("tokens").mkdir()
    (run.folder("tokens") / "notes.txt").write_text("mine")
    run.make(SPEC, Work())
    assert (tmp_path / "replaced" / "tokens-damaged" / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    "damage",
    ["[]", "{}", '{"key": 1}', "[" * 100_000, '{"key": "k", "result": "r", "settings": {}, "inputs": {}, "files": []}'],
)
def test_a_damaged_manifest_is_no_manifest(tmp_path: Path, damage: str) -> None:
    run = RunDir(tmp_path)
    (run.make(SPEC, Work()) / "manifest.json").write_text(damage)
    assert not run.status(SPEC).done
    run.make(SPEC, Work())
    assert run.status(SPEC).done


def test_a_changed_byte_in_a_small_file_is_seen(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    (run.make(SPEC, Work()) / "result.txt").write_text("jello")
    assert run.status(SPEC).why == "its files are damaged"
