"""`genesis-sft` in a process of its own, forked from one that has imported the program; see `tests.forked`."""

from __future__ import annotations

import importlib
import multiprocessing.process
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from genesis_sft.cli import main
from tests.forked import CONTEXT

ROOT = Path(__file__).resolve().parents[1]

Result = subprocess.CompletedProcess[str]


def run_program(
    *arguments: object, env: Mapping[str, str], cwd: Path = ROOT, stdin: str = "", timeout: float = 120
) -> Result:
    """Run it to its end.

    Args:
        arguments: Of the command line, without the program's name.
        env: All of its environment; what Python itself reads at its start (``PYTHON...``) comes too late.
        cwd: Its folder.
        stdin: What it can read.
        timeout: Seconds after which it is killed, and the test fails.
    """
    with tempfile.TemporaryDirectory() as folder:
        stdout, stderr = Path(folder, "stdout"), Path(folder, "stderr")
        process = start_program(*arguments, stdout=stdout, stderr=stderr, env=env, cwd=cwd, stdin=stdin)
        try:
            process.join(timeout)
            assert process.exitcode is not None, f"not done in {timeout} s: {stderr.read_text()[-2000:]}"
        finally:
            process.kill()
            process.join()
        return Result(list(map(str, arguments)), process.exitcode, stdout.read_text(), stderr.read_text())


def start_program(
    *arguments: object,
    stdout: Path,
    stderr: Path,
    env: Mapping[str, str],
    cwd: Path = ROOT,
    stdin: str = "",
    faster: Mapping[str, float] | None = None,
) -> multiprocessing.process.BaseProcess:
    """Start it; the caller waits for it or kills it. Arguments as for `run_program`, and:

    Args:
        stdout: A file, which is added to; another or the same for ``stderr``.
        stderr: See ``stdout``.
        faster: Waits of the program that last only so many seconds, by module and name.
    """
    for path in (stdout, stderr):
        path.touch()
    wanted = (list(map(str, arguments)), dict(env), cwd, stdin, stdout, stderr, dict(faster or {}))
    process = CONTEXT.Process(target=_run, args=wanted)
    process.start()
    return process


def _run(
    arguments: list[str],
    env: dict[str, str],
    cwd: Path,
    stdin: str,
    stdout: Path,
    stderr: Path,
    faster: dict[str, float],
) -> None:
    for number, path in ((1, stdout), (2, stderr)):
        os.dup2(os.open(path, os.O_WRONLY | os.O_APPEND), number)
    with tempfile.TemporaryFile() as text:
        text.write(stdin.encode())
        text.seek(0)
        os.dup2(text.fileno(), 0)
    sys.stdin = open(0, closefd=False)  # noqa: SIM115 - as long as the process
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    if threads := env.get("OMP_NUM_THREADS"):
        importlib.import_module("torch").set_num_threads(int(threads))
    for name, seconds in faster.items():
        module, _, constant = name.rpartition(".")
        assert hasattr(importlib.import_module(module), constant), name
        setattr(importlib.import_module(module), constant, seconds)
    sys.argv = ["genesis-sft", *arguments]
    main()
