"""A lock that one process holds, and that is free when the process is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import NoReturn

import pytest

from genesis_sft.errors import RunDirError
from genesis_sft.file_lock import lock_file


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
