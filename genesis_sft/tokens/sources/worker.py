"""A worker process: reads tasks from its standard input, answers on its standard output, ends when the input does.

A process of its own rather than a fork: the tokenizer's threads do not survive a fork. And not `multiprocessing`'s
spawn: that runs the user's script a second time. Both pipes belong to the process that started this one; nothing that
comes from outside is unpickled.
"""

from __future__ import annotations

import os
import pickle
import signal
import sys
import traceback
from typing import IO, Any

from genesis_sft.errors import GenesisError


def main() -> None:
    """Do what comes in until nothing does."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the main process ends the work
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library or a user's filter prints must not end up among the answers
    tasks = sys.stdin.buffer
    workshop = receive(tasks)
    while True:
        try:
            task = receive(tasks)
        except EOFError:
            return
        try:
            answer: Any = workshop.do(task)
        except (GenesisError, OSError) as error:  # what the user can do something about
            answer = error
        except BaseException:
            answer = RuntimeError(traceback.format_exc())
        send(answers, answer)


def send(pipe: IO[bytes], value: Any) -> None:
    """Write a value and wake the reader."""
    pickle.dump(value, pipe, protocol=pickle.HIGHEST_PROTOCOL)
    pipe.flush()


def receive(pipe: IO[bytes]) -> Any:
    """Read a value that `send` wrote in the process at the other end.

    Raises:
        EOFError: The other end was closed.
    """
    return pickle.load(pipe)  # noqa: S301 - from our own process, through our own pipe


if __name__ == "__main__":
    main()
