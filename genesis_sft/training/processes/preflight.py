"""Before processes train together: can they exchange a gradient, how fast, and do they mean the same run?

A collective that hangs cannot be interrupted, and a process that trains something else is noticed by nobody: both are
found here, in seconds, with what to do about it.
"""

from __future__ import annotations

import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from genesis_sft.errors import CheckFailed, GenesisError, RunDirError
from genesis_sft.run_dir import write_text
from genesis_sft.training.processes.parallel import Ranks

CHUNK_BYTES = 256 * 1024**2
"""Most bytes in one collective: the memory that the probe takes."""

SHARED_FOLDER_SECONDS = 60.0
"""How long a new file may take to be seen from another machine: NFS keeps a folder's listing for up to a minute
(``acdirmax`` in nfs(5))."""

_ELEMENT_BYTES = 4
_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Preflight:
    """What exchanging a gradient came to.

    Attributes:
        gigabytes_per_second: Bus bandwidth: 2 (n - 1) / n x bytes / seconds with n processes, which is what goes over
            the slowest link and can be compared with the hardware's figure (NVIDIA's nccl-tests, doc/PERFORMANCE.md).
        seconds: For the whole gradient, once.
    """

    gigabytes_per_second: float
    seconds: float

    def summary(self) -> str:
        """Return one line for the user."""
        return f"exchanging one gradient takes {self.seconds:.2f} s ({self.gigabytes_per_second:.2f} GB/s)"


def preflight(ranks: Ranks, num_bytes: int, *, timeout_seconds: float) -> Preflight | None:
    """Add up as many bytes over all processes as the gradient has; all processes call it.

    The collective runs in a thread of its own, as one that hangs - also in its set-up - cannot be waited for.

    Args:
        ranks: The processes.
        num_bytes: Size of the gradient.
        timeout_seconds: For everything.

    Returns:
        What was measured; None where there is one process.

    Raises:
        CheckFailed: It did not end in time, broke off, or came to a wrong sum.
    """
    if ranks.world_size == 1:
        return None
    probe = _Probe(ranks, max(1, num_bytes // _ELEMENT_BYTES))
    thread = threading.Thread(target=probe.run, name="preflight", daemon=True)
    thread.start()
    thread.join(timeout_seconds)
    if thread.is_alive() or probe.error is not None:
        found = "no answer" if probe.error is None else _first_line(str(probe.error))
        raise CheckFailed(
            f"expected {ranks.world_size} processes to exchange {num_bytes / 1e6:,.1f} MB within "
            f"{timeout_seconds:g} s; found, in process {ranks.rank} on {socket.gethostname()}: {found}",
            hint=_hint(ranks.device),
        ) from probe.error
    share = 2 * (ranks.world_size - 1) / ranks.world_size
    return Preflight(gigabytes_per_second=share * num_bytes / probe.seconds / 1e9, seconds=probe.seconds)


def check_agreement(ranks: Ranks, identity: Mapping[str, str]) -> None:
    """Refuse to train where processes mean different things; all processes call it.

    Args:
        ranks: The processes.
        identity: What has to be equal, by name, e.g. ``{"version": "0.4.0", "recipe": "5f2c...", "data": "91ab..."}``.

    Raises:
        CheckFailed: A process differs from the first; the same error in all of them.
    """
    if ranks.world_size == 1:
        return
    found = _gather((socket.gethostname(), dict(identity)), ranks)
    first_host, first = found[0]
    for rank, (host, other) in enumerate(found):
        for name in sorted(first.keys() | other.keys()):
            if other.get(name) != first.get(name):
                raise CheckFailed(
                    f"expected all processes to train the same; process {rank} on {host} has another {name} "
                    f"({other.get(name)}) than process 0 on {first_host} ({first.get(name)})",
                    hint="Give every machine the same program, recipe and run folder.",
                )


def check_shared_folder(ranks: Ranks, folder: Path, *, timeout_seconds: float = SHARED_FOLDER_SECONDS) -> None:
    """See that all processes look at the same folder: the first writes a file, all have to find it. All call it.

    Args:
        ranks: The processes.
        folder: Where checkpoints go.
        timeout_seconds: How long the file may take to be seen.

    Raises:
        RunDirError: A process does not see it; the same error in all of them.
    """
    if ranks.world_size == 1:
        return
    token = ranks.from_first(uuid.uuid4().hex)
    path = folder / f".seen-by-all-{token}"
    problem = ranks.from_first(_try_to_write(path, token) if ranks.is_first else "")
    if problem:
        raise RunDirError(f"process 0 cannot write to {folder}: {problem}")
    found = _gather((socket.gethostname(), str(folder), _appears(path, token, timeout_seconds)), ranks)
    if ranks.is_first:
        path.unlink(missing_ok=True)
    for rank, (host, there, seen) in enumerate(found):
        if not seen:
            raise RunDirError(
                f"expected all processes to see the same folder; process {rank} on {host} does not see in {there} what "
                f"process 0 on {found[0][0]} wrote in {found[0][1]}",
                hint="Put the run folder on storage that all machines share, under the same path: --run-dir.",
            )


def _try_to_write(path: Path, text: str) -> str:
    """Return what is in the way of a file; nothing where it is written."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, text)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def lost_peer(error: BaseException, doing: str = "training") -> GenesisError | None:
    """Return a clear error for one that says that another process has gone, and None for any other error.

    Args:
        error: Raised by a collective.
        doing: What was being done, e.g. ``"step 12"``.
    """
    text = str(error)
    known = isinstance(error, dist.DistError) or any(sign in text for sign in _SIGNS)
    if not isinstance(error, RuntimeError) or not known:
        return None
    return CheckFailed(
        f"lost contact with another process during {doing}: {_first_line(text)}",
        hint="Look on its machine for the cause (killed, out of memory, network). Then start the same command again "
        "on all machines: training goes on from the last checkpoint.",
    )


# what gloo (transport/tcp/pair.cc, rendezvous/context.cc), ProcessGroupNCCL and TCPStore say when a process dies or
# does not answer
_SIGNS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "connection reset by peer",
    "Socket closed",
    "Broken pipe",
    "Timed out waiting",
    "Application timeout caused pair closure",
    "Gloo connectFullMesh failed",
    "remote process exited",
    "NCCL communicator was aborted",
    "Watchdog caught collective operation timeout",
    "failed to recv, got 0 bytes",
)


class _Probe:
    """The exchange itself, to be run in a thread.

    Attributes:
        seconds: What it took.
        error: What it raised.
    """

    def __init__(self, ranks: Ranks, num_elements: int) -> None:
        self._ranks, self._num_elements = ranks, num_elements
        self.seconds = 0.0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            if self._ranks.device.type == "cuda":
                torch.cuda.set_device(self._ranks.device)  # each thread has a current device of its own
            buffer = self._add_up_known_numbers()
            started = time.perf_counter()
            for start in range(0, self._num_elements, len(buffer)):
                dist.all_reduce(buffer[: self._num_elements - start])
            self._wait()
            self.seconds = time.perf_counter() - started
        except Exception as error:
            self.error = error

    def _add_up_known_numbers(self) -> torch.Tensor:
        """Make the connections, and see that sums are right; return the buffer, full of zeros."""
        size, count = min(self._num_elements, CHUNK_BYTES // _ELEMENT_BYTES), self._ranks.world_size
        numbers = torch.arange(size, device=self._ranks.device).remainder_(251).float()
        buffer = numbers * (self._ranks.rank + 1)
        dist.all_reduce(buffer)
        wrong = int((buffer != numbers * (count * (count + 1) // 2)).sum())  # whole numbers: float32 is exact
        if wrong:
            raise RuntimeError(f"{wrong:,} of {size:,} sums are wrong: what is sent does not arrive as it was")
        return buffer.zero_()

    def _wait(self) -> None:
        if self._ranks.device.type == "cuda":
            torch.cuda.synchronize(self._ranks.device)


def _hint(device: torch.device) -> str:
    if device.type != "cuda":
        return "See that every process still runs; GLOO_SOCKET_IFNAME names the network interface between machines."
    look = "NCCL_DEBUG=INFO shows where it stops; NCCL_SOCKET_IFNAME names the network interface between machines."
    if os.environ.get("NCCL_P2P_DISABLE") == "1":
        return look
    return f"Set NCCL_P2P_DISABLE=1, which GPUs without peer-to-peer need (two RTX 4090, for example). {look}"


def _gather(value: Any, ranks: Ranks) -> list[Any]:
    """Return every process's value, a plain one."""
    found: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(found, value)
    return found


def _appears(path: Path, text: str, timeout_seconds: float) -> bool:
    """Wait for a file to hold a text."""
    deadline = time.monotonic() + timeout_seconds
    while True:
        with suppress(OSError):
            os.listdir(path.parent)  # makes a network file system look again
            if path.read_text(encoding="utf-8") == text:
                return True
        if time.monotonic() > deadline:
            return False
        time.sleep(_POLL_SECONDS)


def _first_line(text: str) -> str:
    """Return the first line, without the place in PyTorch's sources and its guesses."""
    return re.sub(r"^\[[^]]*\] ", "", text.partition("\n")[0]).partition(". This is typically")[0]
