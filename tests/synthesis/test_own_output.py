"""What this command wrote it may replace, whatever happened; what another hand wrote or changed it may not."""

from __future__ import annotations

import errno
import json
import os
import resource
import signal
import threading
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from genesis_sft.errors import InputError, RunDirError
from genesis_sft.run_dir import replacing
from genesis_sft.synthesis.asking.chain import Chain
from genesis_sft.synthesis.output import own_output
from genesis_sft.synthesis.output.files import write_output, write_steps
from genesis_sft.synthesis.output.own_output import OwnOutput, require_own_output
from genesis_sft.synthesis.store.job_store import JobStore
from tests.forked import CONTEXT
from tests.synthesis.test_output import FRAMEWORK, PRICE, fill, recipe_of, refusing

RESULT = ("conversations.jsonl", "rejected.jsonl", "card.json", "card.md", "card.svg")
STEPS = "steps.jsonl"


def draw(card: Mapping[str, Any], path: Path) -> None:
    """Stand in for a plot, which takes longer than all else."""
    path.write_text(f"<svg>{card['conversations']}</svg>")


def export(folder: Path, steps: Path | None = None) -> None:
    """Write all that the command writes, from the store that lies in the folder; the steps beside it."""
    recipe = recipe_of()
    parts = (Chain(FRAMEWORK, recipe.synthesis), JobStore.read(folder / "requests.sqlite"), recipe, FRAMEWORK)
    with parts[1]:
        write_steps(folder, steps or folder.parent / STEPS, *parts)
        write_output(folder, *parts, PRICE, draw=draw)


def answer(folder: Path, *numbers: int) -> None:
    """Have some conversations finished."""
    with JobStore.open(folder / "requests.sqlite", budget=None) as store:
        fill(store, numbers, refusing)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in [*(folder / name for name in RESULT), folder.parent / STEPS]}


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """A folder with a result of five conversations, written by this command."""
    answer(tmp_path / "out", 0, 1, 2, 3, 4)
    export(tmp_path / "out")
    return tmp_path / "out"


def change_a_word(text: bytes) -> bytes:
    """Change one letter in the middle: within a row, a number or a word."""
    place = next(n for n in range(len(text) // 2, len(text)) if text[n : n + 1].isalnum())
    return text[:place] + (b"7" if text[place : place + 1] != b"7" else b"8") + text[place + 1 :]


CHANGES = {
    "a letter within a row": change_a_word,
    "a row more": lambda text: text + b'{"messages":[]}\n',
    "a row less": lambda text: b"".join(text.splitlines(keepends=True)[:-1]),
    "emptied": lambda text: b"",
}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        *((name, "a letter within a row") for name in (*RESULT, STEPS)),
        *(("conversations.jsonl", one) for one in list(CHANGES)[1:]),
    ],
)
def test_what_was_changed_by_hand_is_kept(out: Path, name: str, change: str) -> None:
    path = out.parent / STEPS if name == STEPS else out / name
    changed = CHANGES[change](path.read_bytes())
    assert changed != path.read_bytes()
    path.write_bytes(changed)
    answer(out, 5)
    before = contents(out)
    with pytest.raises(InputError, match=rf"{name}, or one that this command wrote; found another, or one that was"):
        export(out)
    after = contents(out)
    assert after.pop(name) == changed
    if name != STEPS:  # then the steps were written before it was found
        after.pop(STEPS)
    assert after.items() <= before.items()


@pytest.mark.parametrize("name", [*RESULT, STEPS])
@pytest.mark.parametrize("content", ['{"messages": []}\n', "", "mine"])
def test_somebody_elses_file_is_left_alone(tmp_path: Path, name: str, content: str) -> None:
    answer(tmp_path / "out", 0)
    path = tmp_path / STEPS if name == STEPS else tmp_path / "out" / name
    path.write_text(content)
    with pytest.raises(InputError, match=name):
        export(tmp_path / "out", steps=None if name == STEPS else tmp_path / "others.jsonl")
    assert path.read_text() == content
    assert not [found for found in (tmp_path / "out").iterdir() if found.name in RESULT and found != path]


def test_a_file_that_is_changed_while_its_successor_is_written_is_kept(out: Path) -> None:
    page = out / "card.md"
    with OwnOutput.hold(out) as own:
        replacement = own.replacing(page)
        replacement.__enter__().write_text("the next one")
        page.write_text("mine")
        with pytest.raises(InputError, match=r"card\.md"):
            replacement.__exit__(None, None, None)
    assert page.read_text() == "mine"
    assert not [path for path in out.iterdir() if path.name.endswith(".tmp")]


def test_each_file_is_listed_with_its_one_digest(out: Path) -> None:
    answer(out, 5)
    export(out)
    listed = json.loads((out / "written.json").read_text())["files"]
    expected = {name: [sha256((out / name).read_bytes()).hexdigest()] for name in RESULT}
    assert listed == expected | {str(out.parent / STEPS): [sha256((out.parent / STEPS).read_bytes()).hexdigest()]}


def test_a_result_is_known_in_another_place_and_when_parts_of_it_are_gone(out: Path) -> None:
    export(out, steps=out / STEPS)
    moved = out.rename(out.with_name("moved"))
    answer(moved, 5)
    export(moved, steps=moved / STEPS)
    before = contents(moved)
    (moved / "rejected.jsonl").unlink()
    (moved / "card.svg").unlink()
    export(moved, steps=moved / STEPS)
    assert contents(moved) == before


def test_steps_are_known_by_any_name_of_their_folder(out: Path) -> None:
    link = out.parent / "link"
    link.symlink_to(out.parent)
    export(out, steps=link / STEPS)


@pytest.mark.parametrize("name", [*RESULT, "written.json", "requests.sqlite-wal", "requests.sqlite"])
def test_steps_do_not_take_a_name_of_the_result(out: Path, name: str) -> None:
    before = contents(out)
    with pytest.raises(InputError, match=f"{name}, a name of the result"):
        export(out, steps=out / name)
    assert contents(out) == before


@pytest.mark.parametrize("name", RESULT)
def test_steps_do_not_replace_another_sets_result(out: Path, tmp_path: Path, name: str) -> None:
    answer(tmp_path / "another", 0)
    before = contents(out)
    with pytest.raises(InputError, match=name):
        export(tmp_path / "another", steps=out / name)
    assert contents(out) == before


@pytest.mark.parametrize("name", ["conversations.jsonl", "card.svg", STEPS])
def test_an_edit_in_the_last_moment_is_kept(out: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The file is changed when it was looked at and its next digest was listed, before it is replaced."""
    answer(out, 5)
    path, write = out.parent / STEPS if name == STEPS else out / name, own_output.write_json

    def write_json(list_of_digests: Path, value: Any) -> None:
        write(list_of_digests, value)
        if len(value["files"].get(name if name != STEPS else str(path), ())) == 2:
            path.write_text("mine")

    with monkeypatch.context() as patch:
        patch.setattr(own_output, "write_json", write_json)
        with pytest.raises(InputError, match=f"{name}, or one that this command wrote"):
            export(out)
    assert path.read_text() == "mine"


def test_a_name_without_a_digest_is_nobodys(out: Path) -> None:
    listed = json.loads((out / "written.json").read_text())
    listed["files"]["card.svg"] = [None]
    (out / "written.json").write_text(json.dumps(listed))
    (out / "card.svg").unlink()
    (out / "card.svg").mkdir()
    for use in (require_own_output, export):
        with pytest.raises(InputError, match=r"written\.json, or the list of digests"):
            use(out)
    assert (out / "card.svg").is_dir()


def test_a_pipe_is_not_waited_for(out: Path) -> None:
    (out / "written.json").unlink()
    os.mkfifo(out / "written.json")
    with pytest.raises(InputError, match=r"written\.json, or the list of digests"):
        require_own_output(out)


@pytest.mark.parametrize(
    "content", ["", "mine", "[" * 10**5, "[]", '{"files": {}}', '{"written_by": "genesis-sft synthesize", "files": 3}']
)
def test_a_list_of_digests_that_is_not_ours_is_left_alone(out: Path, content: str) -> None:
    (out / "written.json").write_text(content)
    with pytest.raises(InputError, match=r"written\.json, or the list of digests"):
        require_own_output(out)
    with pytest.raises(InputError, match=r"written\.json, or the list of digests"):
        export(out)
    assert (out / "written.json").read_text() == content


def test_without_the_list_nothing_is_replaced(out: Path) -> None:
    (out / "written.json").unlink()
    with pytest.raises(InputError, match="found another"):
        require_own_output(out)


def replace_all(folder: Path, text: str) -> None:
    with OwnOutput.hold(folder, folder.parent / STEPS) as own:
        for path in (folder / "card.md", folder / "card.json", folder.parent / STEPS):
            with own.replacing(path) as temporary:
                temporary.write_text(text + path.name)


def replace_all_until_killed(folder: Path, text: str, kill_at: int, moved: bool) -> None:
    """Be killed at a file's move to its place, counted from 0: before it, or when it has moved."""
    move, count = Path.replace, iter(range(1000))

    def replace(path: Path, target: Path) -> None:
        here = next(count) == kill_at
        if not here or moved:
            move(path, target)
        if here:
            os.kill(os.getpid(), signal.SIGKILL)

    Path.replace = replace  # type: ignore[method-assign, assignment]
    replace_all(folder, text)


@pytest.mark.slow
@pytest.mark.parametrize("moved", [False, True])
def test_killed_at_any_step_it_knows_its_files(tmp_path: Path, moved: bool) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    replace_all(folder, "first ")
    for kill_at in range(100):
        process = CONTEXT.Process(target=replace_all_until_killed, args=(folder, f"{kill_at} ", kill_at, moved))
        process.start()
        process.join(60)
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        require_own_output(folder)
        replace_all(folder, f"after {kill_at} ")
        assert not list(tmp_path.rglob("*.tmp"))
    assert kill_at == 9  # of each of three files: its list, itself, and its list again
    assert (folder / "card.md").read_text() == "9 card.md"


@pytest.mark.parametrize("full_at", range(10))
def test_a_full_disk_leaves_files_that_are_known(out: Path, monkeypatch: pytest.MonkeyPatch, full_at: int) -> None:
    """The list of digests is written twice for each of the five files that change, and fails each time in turn."""
    answer(out, 5)
    write, count = own_output.write_json, iter(range(1000))

    def write_json(path: Path, value: Any) -> None:
        if next(count) == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, value)

    with monkeypatch.context() as patch:
        patch.setattr(own_output, "write_json", write_json)
        with pytest.raises(RunDirError, match=f"could not write {out.parent}/.*: No space left on device") as raised:
            export(out)
    assert "Every answer is kept, and the same command goes on" in str(raised.value.hint)
    export(out)
    listed = json.loads((out / "written.json").read_text())["files"]
    assert {name: listed[name] for name in RESULT} == {
        name: [sha256((out / name).read_bytes()).hexdigest()] for name in RESULT
    }


def test_a_limit_on_the_size_of_files_names_the_file(out: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = contents(out)
    with OwnOutput.hold(out) as own:
        replacement = own.replacing(out / "card.svg")
        temporary = replacement.__enter__()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
        try:
            temporary.write_bytes(b"x" * 2000)
        except OSError as error:
            with pytest.raises(RunDirError, match=f"could not write {out}/card.svg: File too large") as raised:
                replacement.__exit__(type(error), error, None)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "ulimit -f" in str(raised.value.hint)
    assert "Every answer is kept, and the same command goes on" in str(raised.value.hint)
    assert contents(out) == before
    assert not temporary.exists()


def begin_and_be_killed(paths: Sequence[Path]) -> None:
    """Leave all that a killed process can leave of files it was about to replace, some by way of a further file."""
    for path in paths:
        temporary = replacing(path).__enter__()
        temporary.write_text("half")
        replacing(temporary).__enter__().write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)


def test_what_a_killed_process_left_is_removed(out: Path) -> None:
    ours = [out.parent / STEPS, *(out / name for name in (*RESULT, "written.json"))]
    others = [out / "notes", out / "card", out.parent / "card.md"]
    before = set(out.parent.rglob("*"))
    process = CONTEXT.Process(target=begin_and_be_killed, args=(others,))
    process.start()
    process.join(60)
    kept = set(out.parent.rglob("*"))
    assert len(kept - before) == 2 * len(others)
    living = out / f".card.md.{os.getppid()}.tmp"
    living.write_text("another process's")
    process = CONTEXT.Process(target=begin_and_be_killed, args=(ours,))
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    assert len(set(out.parent.rglob("*")) - kept) == 2 * len(ours) + 1
    export(out)
    assert set(out.parent.rglob("*")) == kept | {living}


def test_two_at_once_do_not_lose_each_others_entries(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The second waits, and says for whom."""
    folder, said = tmp_path / "out", ""
    folder.mkdir()
    second = threading.Thread(target=replace_all, args=(folder, "second "))
    with OwnOutput.hold(folder) as own, own.replacing(folder / "card.svg") as temporary:
        second.start()
        while "waiting for another" not in said:
            assert second.is_alive(), "it did not wait"
            said += capfd.readouterr().err
        assert f"process {os.getpid()}" in said
        temporary.write_text("first")
    second.join(60)
    assert json.loads((folder / "written.json").read_text())["files"].keys() == {
        "card.svg", "card.md", "card.json", str(tmp_path / STEPS)
    }  # fmt: skip


@pytest.mark.parametrize("below", ["", "below", "far/below"])
def test_a_place_below_a_file_is_refused(tmp_path: Path, below: str) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(InputError, match=f"expected a folder at {tmp_path}/taken, found a file"):
        require_own_output(tmp_path / "taken" / below)


def test_a_lock_that_is_another_users_is_refused_at_once(out: Path) -> None:
    out.chmod(0o777)
    for parent in out.parents[:-2]:
        parent.chmod(0o755)
    (out / "written.json.lock").chmod(0o444)
    user = os.geteuid()
    if user == 0:  # who may write everywhere
        os.seteuid(65534)
    try:
        with pytest.raises(RunDirError, match=rf"could not write {out}/written\.json\.lock: Permission denied"):
            require_own_output(out)
    finally:
        os.seteuid(user)


def test_a_lock_that_is_a_link_to_somebody_elses_file_is_refused_at_once(out: Path) -> None:
    notes = out.parent / "notes"
    notes.write_text("mine")
    (out / "written.json.lock").unlink()
    (out / "written.json.lock").symlink_to(notes)
    for use in (require_own_output, export):
        with pytest.raises(RunDirError, match=r"written\.json\.lock, or the lock"):
            use(out)
    assert notes.read_text() == "mine"


def test_a_place_where_nothing_may_be_made_is_refused(tmp_path: Path) -> None:
    closed = Path(tmp_path / "closed")
    closed.mkdir(mode=0o555)
    user = os.geteuid()
    if user == 0:  # who may write everywhere
        os.seteuid(65534)
    try:
        with pytest.raises(InputError, match="expected a folder to write to at"):
            require_own_output(closed / "out")
    finally:
        os.seteuid(user)
    require_own_output(tmp_path / "open" / "out")
