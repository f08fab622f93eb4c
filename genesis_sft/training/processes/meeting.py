"""How the processes that ``torchrun`` starts find each other before they train.

The first one does every stage; the others only train. They wait here until the first has prepared what is trained on,
however long that takes: no process group exists yet whose time-out could run out.
"""

from __future__ import annotations

import functools
import os
import time
from contextlib import suppress
from datetime import timedelta
from typing import TYPE_CHECKING

from genesis_sft.errors import CheckFailed

if TYPE_CHECKING:
    from torch._C._distributed_c10d import Store

_KEY = "genesis-sft/train"
_NOTHING, _FAILED = "", "\0failed"
_POLL_SECONDS = 0.5
_HEARING_SECONDS = 60


def under_torchrun() -> bool:
    """Whether several processes were started together, as ``torchrun`` does."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def is_follower() -> bool:
    """Whether this process was started as one of several and is not the first."""
    return under_torchrun() and int(os.environ.get("RANK", "0")) > 0


def call_followers(folder: str) -> None:
    """Tell the others, if there are any, that training begins in a folder of the run folder."""
    if under_torchrun():
        _store().set(_KEY, folder)


def dismiss_followers(*, failed: bool) -> None:
    """Tell the others, if there are any and they were not called, that there is nothing to train, or why not."""
    if not under_torchrun():
        return
    followers = range(1, int(os.environ["WORLD_SIZE"]))
    with suppress(RuntimeError):  # some may have gone already; what ended this process is what is to be heard of
        store = _store()
        if not store.check([_KEY]):
            store.set(_KEY, _FAILED if failed else _NOTHING)
            # the store ends with this process: not before the others have heard
            store.wait([_heard_by(rank) for rank in followers], timedelta(seconds=_HEARING_SECONDS))


def wait_for_call() -> str | None:
    """Return the folder that the first process names, or None when there is nothing to train.

    Raises:
        CheckFailed: The first process has failed before it came to that.
    """
    store = _store()
    while not store.check([_KEY]):  # looked at now and then, so that Ctrl-C is heard
        time.sleep(_POLL_SECONDS)
    folder: bytes = store.get(_KEY)
    store.set(_heard_by(int(os.environ["RANK"])), "")
    if folder.decode() == _FAILED:
        raise CheckFailed("the first process has failed before training began; it says why")
    return folder.decode() or None


def _heard_by(rank: int) -> str:
    return f"{_KEY}/heard-by-{rank}"


@functools.cache  # without torchrun the store lives in this process, for as long as it is held
def _store() -> Store:
    """Return the key-value store that ``torchrun`` keeps for its processes; another one after each restart."""
    from torch.distributed.rendezvous import rendezvous

    store: Store = next(iter(rendezvous("env://", timeout=timedelta(seconds=300))))[0]
    return store
