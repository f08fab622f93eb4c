"""The loopback server of `server/`, started by tests in a process of its own, and sockets to this machine."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import pytest
from pytest_socket import enable_socket, socket_allow_hosts

from tests.synthesis.server.script import PAID

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class LoopbackServer:
    """A running server.

    Attributes:
        url: Its address for ``api: anthropic``; the SDK adds ``/v1/messages``.
        log_path: A line of JSON for each request, and for each item of a batch.
        process: Its process.
    """

    url: str
    log_path: Path
    process: subprocess.Popen[bytes]

    @property
    def openai_url(self) -> str:
        """Its address for ``api: openai``."""
        return f"{self.url}/v1"

    def log(self) -> list[dict[str, Any]]:
        """What it was asked so far, in order: n, key, path, status, fault, usage, billed (nano-dollars).

        The server may be writing the last line; until that line has its end, it is not part of the answer.
        """
        *lines, _unfinished = self.log_path.read_bytes().split(b"\n")
        return [orjson.loads(line) for line in lines]

    def billed(self) -> int:
        """Nano-dollars of all that it answered, also of answers that did not arrive."""
        return sum(entry["billed"] for entry in self.log())

    def answered_keys(self) -> list[str]:
        """Keys of the requests and items that it answered whole, in order; twice, if answered twice."""
        return [
            entry["key"]
            for entry in self.log()
            if entry.get("key") and entry.get("status") == 200 and entry.get("fault") not in PAID
        ]


StartServer = Callable[..., LoopbackServer]


def start_loopback_server(folder: Path, script: dict[str, Any]) -> LoopbackServer:
    """Start the server and wait until it listens. The caller ends ``process``."""
    folder.mkdir(parents=True, exist_ok=True)
    port_file, log, script_file = folder / "port", folder / "log.jsonl", folder / "script.json"
    script_file.write_bytes(orjson.dumps(script))
    log.touch()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tests.synthesis.server",
            "--port-file",
            port_file,
            "--log",
            log,
            "--script",
            script_file,
        ],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    while not port_file.exists():
        if process.poll() is not None:
            raise RuntimeError(f"the loopback server ended with status {process.returncode}")
        time.sleep(0.01)
    return LoopbackServer(f"http://127.0.0.1:{port_file.read_text()}", log, process)


@pytest.fixture(autouse=True)
def loopback() -> None:
    """Sockets, to this machine only."""
    enable_socket()
    socket_allow_hosts(["127.0.0.1"], allow_unix_socket=True)


@pytest.fixture
def start_server(tmp_path: Path) -> Iterator[StartServer]:
    """``start_server(key="...", faults=[...], ...)`` with the fields of `server.script.Script`."""
    started: list[LoopbackServer] = []

    def start(**script: Any) -> LoopbackServer:
        started.append(start_loopback_server(tmp_path / f"server{len(started)}", script))
        return started[-1]

    yield start
    for server in started:
        server.process.kill()
        server.process.wait()


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Polls of batches and new tries come at once."""
    monkeypatch.setattr("genesis_sft.synthesis.writing.pace.FIRST_WAIT_SECONDS", 0.001)
    monkeypatch.setattr("genesis_sft.synthesis.writing.batch_waiting.FIRST_POLL_SECONDS", 0.001)
    monkeypatch.setattr("genesis_sft.synthesis.writing.batch_mending.SETTLE_SECONDS", 0.0)
