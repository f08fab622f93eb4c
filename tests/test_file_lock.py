"""A lock that one process holds, and that is free when the process is gone."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest

from genesis_sft.errors import RunDirError
from genesis_sft.file_lock import lock_file, require_lock


def refuse(holder: str) -> NoReturn:
    raise RunDirError(f"process {holder} has it")


def test_a_second_holder_is_told_of_the_first(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with lock_file(path, refuse), pytest.raises(RunDirError, match=f"process {os.getpid()} has it"):
        lock_file(path, refuse)
    lock_file(path, refuse).close()


def test_a_killed_process_holds_nothing(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom genesis_sft.file_lock import lock_file\n"
        "held = lock_file(Path(sys.argv[1]), print)\nprint('held', flush=True)\ntime.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(RunDirError, match=f"process {process.pid} has it"):
            lock_file(path, refuse)
        process.send_signal(signal.SIGKILL)
        process.wait()
    with lock_file(path, refuse):
        assert path.read_text() == str(os.getpid())


def test_it_is_waited_for_where_nothing_is_raised(tmp_path: Path) -> None:
    path, told, got = tmp_path / "lock", threading.Event(), threading.Event()

    def wait_for_it() -> None:
        with lock_file(path, lambda _: told.set()):
            got.set()

    waiting = threading.Thread(target=wait_for_it)
    with lock_file(path, refuse):
        waiting.start()
        assert told.wait(30)
        waiting.join(0.3)  # in which it would get what it must not
        assert not got.is_set()
    waiting.join(30)
    assert got.is_set()


def test_a_lock_that_is_removed_while_it_is_waited_for_is_made_again(tmp_path: Path) -> None:
    path, told, got, done = tmp_path / "lock", threading.Event(), threading.Event(), threading.Event()

    def wait_for_it() -> None:
        with lock_file(path, lambda _: told.set()):
            got.set()
            done.wait(30)

    waiting = threading.Thread(target=wait_for_it)
    with lock_file(path, refuse):
        waiting.start()
        assert told.wait(30)
        path.unlink()
    assert got.wait(30)
    try:
        with pytest.raises(RunDirError, match="has it"):
            lock_file(path, refuse)
    finally:
        done.set()
        waiting.join(30)


def link_to_notes(path: Path) -> None:
    path.symlink_to(path.with_name("notes"))


def link_to_nothing(path: Path) -> None:
    path.symlink_to(path.with_name("nothing"))


def text(path: Path) -> None:
    path.write_text("12 eggs")


def long_number(path: Path) -> None:
    path.write_text("7" * 100)


@pytest.mark.parametrize("make", [link_to_notes, link_to_nothing, text, long_number, os.mkfifo, Path.mkdir])
def test_what_is_no_lock_is_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    path, notes = tmp_path / "lock", tmp_path / "notes"
    notes.write_text("42")  # which a lock might hold
    make(path)
    before = path.lstat()
    for use in (lambda: lock_file(path, refuse), lambda: require_lock(path)):
        with pytest.raises(RunDirError, match=f"expected no file {path}, or the lock .*; found something else"):
            use()
    assert (path.lstat().st_ino, path.lstat().st_size) == (before.st_ino, before.st_size)
    assert notes.read_text() == "42"
    assert not (tmp_path / "nothing").exists()


def test_a_holder_that_left_no_number_is_unknown(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    path.write_bytes(b"\xff\xfe\x80" * 10)
    with open(path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(RunDirError, match="process unknown has it"):
            lock_file(path, refuse)


def test_a_file_system_without_locks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: int) -> NoReturn:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with pytest.raises(RunDirError, match=f"could not lock {tmp_path}/lock: No locks available") as raised:
        lock_file(tmp_path / "lock", refuse)
    assert "Network file systems may have no locks" in str(raised.value.hint)


def test_a_lock_is_looked_at_without_being_made_or_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    require_lock(path)
    assert not path.exists()
    with lock_file(path, refuse):
        require_lock(path)
        with pytest.raises(RunDirError, match=f"process {os.getpid()} has it"):
            lock_file(path, refuse)
