"""Runs a function in several real processes that meet over gloo, as ``torchrun`` would start them, within a time limit.

The processes are forked from a server that has imported PyTorch once; see `tests.forked`.
"""

from __future__ import annotations

import io
import os
import time
import traceback
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch.distributed import TCPStore

from tests.forked import CONTEXT


def run_ranks(
    function: Callable[[], Any],
    count: int,
    *,
    local: int | None = None,
    seconds: float = 120,
    unheard: Collection[int] = (),
) -> list[Any]:
    """Return what the function returns in each of ``count`` processes.

    Args:
        function: Of a module, so that it can be found by name; `functools.partial` gives it arguments.
        count: Number of processes.
        local: Processes on one machine, as ``torchrun`` counts them; all of them when absent.
        seconds: After this, processes that still run are killed and the test fails.
        unheard: Processes that may end without a word; they return None.

    Raises:
        AssertionError: A process failed; with its traceback.
    """
    deadline, outcomes = time.monotonic() + seconds, []
    with started_ranks(function, count, local=local) as connections:
        for rank, connection in enumerate(connections):
            assert connection.poll(max(0.0, deadline - time.monotonic())), f"process {rank} is not done in {seconds} s"
            try:
                outcomes.append(torch.load(io.BytesIO(connection.recv_bytes()), weights_only=False))
            except EOFError:
                outcomes.append((rank in unheard, None if rank in unheard else "it ended without a word"))
    failed = [f"process {rank}: {text}" for rank, (good, text) in enumerate(outcomes) if not good]
    assert not failed, "\n".join(failed)
    return [value for _, value in outcomes]


@contextmanager
def started_ranks(
    function: Callable[[], Any], count: int, *, local: int | None = None
) -> Iterator[Sequence[Connection]]:
    """Start the processes; each sends (whether it did well, result or traceback). At the end those left are killed."""
    store = meeting_place()
    processes, connections = [], []
    for rank in range(count):
        mine, theirs = CONTEXT.Pipe(duplex=False)
        environment = torchrun_environment(rank, count, local or count, store.port)
        process = CONTEXT.Process(target=_work, args=(theirs, environment, function), daemon=True)
        process.start()
        theirs.close()
        processes.append(process)
        connections.append(mine)
    try:
        yield connections
    finally:
        for process in processes:
            process.join(5)
            process.kill()
            process.join()
            process.close()


def meeting_place() -> TCPStore:
    """Return where processes meet, held by the caller as torchrun's agent does, on a port that the system chooses."""
    return TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=60))


def torchrun_environment(rank: int, count: int, local: int, port: int) -> dict[str, str]:
    """Return the variables that ``torchrun`` gives one of so many processes that meet at a port."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank % local),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(local),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }


def _work(connection: Connection, environment: dict[str, str], function: Callable[[], Any]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    try:
        outcome = (True, function())
    except BaseException:
        outcome = (False, traceback.format_exc())
    buffer = io.BytesIO()
    torch.save(outcome, buffer)
    connection.send_bytes(buffer.getvalue())
    connection.close()
