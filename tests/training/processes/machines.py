"""Two machines on one: network namespaces with addresses of their own, joined by a cable, and torchrun on each."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import pytest

Side = Literal["left", "right"]
SIDES: tuple[Side, Side] = ("left", "right")
_ADDRESSES = {"left": "10.213.7.1", "right": "10.213.7.2"}
_PORT = 29511  # of the namespace: nobody else is there
_COMMAND_SECONDS = 20


class Machines:
    """Two network namespaces.

    Args:
        prefix: Of their names, unlike any other's on this machine.
    """

    def __init__(self, prefix: str) -> None:
        self._names = {side: f"{prefix}-{side}" for side in SIDES}
        self._started: list[subprocess.Popen[str]] = []

    def make(self) -> None:
        """Make the namespaces, and join them.

        Raises:
            subprocess.CalledProcessError: That is not permitted here.
        """
        left, right = self._names.values()
        for name in (left, right):
            _ip("netns", "add", name)
        _ip("link", "add", "left", "netns", left, "type", "veth", "peer", "name", "right", "netns", right)
        for side, name in self._names.items():
            _ip("-n", name, "address", "add", f"{_ADDRESSES[side]}/24", "dev", side)
            _ip("-n", name, "link", "set", "lo", "up")
            _ip("-n", name, "link", "set", side, "up")

    def start(self, side: Side, rendezvous: str, folder: Path, arguments: list[str]) -> subprocess.Popen[str]:
        """Start torchrun with one process of ``genesis-sft`` on a side; its words go to files beside ``folder``.

        Args:
            side: Where.
            rendezvous: ``"static"`` or ``"elastic"``; the meeting place is on the left in either case.
            folder: Where it runs.
            arguments: Of ``genesis-sft``.
        """
        command = ["ip", "netns", "exec", self._names[side], sys.executable, "-m", "torch.distributed.run"]
        command += ["--nnodes", "2", "--nproc-per-node", "1", "--shutdown-timeout", "5", *_meeting(side, rendezvous)]
        # the machine's name leads to the loopback interface on both sides, as on many a real machine
        environment = os.environ | {"GLOO_SOCKET_IFNAME": side, "OMP_NUM_THREADS": "1"}
        with (folder / f"{side}.out").open("w") as out:
            process = subprocess.Popen(
                [*command, "-m", "genesis_sft", *arguments],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=out,
                text=True,
            )
        self._started.append(process)
        return process

    def kill(self, side: Side) -> None:
        """Kill everything that runs on a side at once, as a power cut does; the other side is told by the kernel."""
        found = subprocess.run(["ip", "netns", "pids", self._names[side]], capture_output=True, text=True, check=False)
        for process in found.stdout.split():
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)

    def cut_cable(self) -> None:
        """Let nothing through any more, and tell nobody."""
        _ip("-n", self._names["left"], "link", "set", "left", "down")

    def join_cable(self) -> None:
        """Let everything through again."""
        _ip("-n", self._names["left"], "link", "set", "left", "up")

    def remove(self) -> None:
        """Kill what still runs, and remove the namespaces, the cable with them."""
        for side in SIDES:
            self.kill(side)
        for process in self._started:
            process.wait(_COMMAND_SECONDS)
        for name in self._names.values():
            with suppress(subprocess.CalledProcessError):
                _ip("netns", "delete", name)


@contextmanager
def two_machines() -> Iterator[Machines]:
    """Have two machines while the block runs; the test is skipped where they cannot be made."""
    if shutil.which("ip") is None:
        pytest.skip("two network namespaces need iproute2 (ip), which is not here")
    machines = Machines(f"genesis-sft-{os.getpid()}")
    try:
        machines.make()
    except subprocess.CalledProcessError as error:
        machines.remove()
        pytest.skip(f"network namespaces cannot be made here: {error.stderr.strip()}")
    try:
        yield machines
    finally:
        machines.remove()


def _meeting(side: Side, rendezvous: str) -> list[str]:
    if rendezvous == "static":
        rank = SIDES.index(side)
        return ["--node-rank", str(rank), "--master-addr", _ADDRESSES["left"], "--master-port", str(_PORT)]
    # addresses that no name leads to: who is host, and where each is found, has to be said
    is_host = str(side == "left").lower()
    meeting = ["--rdzv-backend", "c10d", "--rdzv-id", "test", "--rdzv-conf", f"is_host={is_host}"]
    return [*meeting, "--rdzv-endpoint", f"{_ADDRESSES['left']}:{_PORT}", "--local-addr", _ADDRESSES[side]]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True, timeout=_COMMAND_SECONDS)
