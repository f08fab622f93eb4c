"""Worker processes that are fed from one stream of tasks."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self

from genesis_sft.errors import DataError, GenesisError
from genesis_sft.tokens.sources.work import BlockTask, Done, Workshop
from genesis_sft.tokens.sources.worker import receive, send


class Pool:
    """Worker processes; tasks go in one after the other, answers come out as they are ready.

    Args:
        workshop: What each worker gets; it is pickled once.
        num_workers: How many; 0 does the work in this process.
    """

    def __init__(self, workshop: Workshop, num_workers: int) -> None:
        self._workshop = workshop
        self._processes = [_start() for _ in range(num_workers)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the workers, at once: a task that is not done leaves nothing that looks like a result."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.wait()
            for pipe in (process.stdin, process.stdout):
                assert pipe is not None
                try:
                    pipe.close()
                except BrokenPipeError:  # what was still to be written has no reader now
                    continue

    def map(self, tasks: Iterable[BlockTask]) -> Iterator[tuple[BlockTask, Done]]:
        """Yield each task with its answer, in whatever order they are done; few tasks are held at once.

        Raises:
            GenesisError: As a worker raised it, or it died.
        """
        if not self._processes:
            for task in tasks:
                yield task, self._workshop.do(task)
            return
        # one waiting beside the one at work: a worker never waits for its next task
        waiting: queue.Queue[BlockTask | None] = queue.Queue(maxsize=len(self._processes))
        answers: queue.Queue[tuple[BlockTask, Done] | BaseException] = queue.Queue()
        threads = [
            threading.Thread(target=self._serve, args=(process, waiting, answers), daemon=True)
            for process in self._processes
        ]
        for thread in threads:
            thread.start()
        open_tasks = 0
        for task in tasks:
            waiting.put(task)
            open_tasks += 1
            while not answers.empty():
                yield _answer(answers.get())
                open_tasks -= 1
        for _ in threads:
            waiting.put(None)
        while open_tasks:
            yield _answer(answers.get())
            open_tasks -= 1

    def _serve(
        self,
        process: subprocess.Popen[bytes],
        waiting: queue.Queue[BlockTask | None],
        answers: queue.Queue[tuple[BlockTask, Done] | BaseException],
    ) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            send(process.stdin, self._workshop)
            while (task := waiting.get()) is not None:
                send(process.stdin, task)
                answer = receive(process.stdout)
                answers.put(answer if isinstance(answer, BaseException) else (task, answer))
        except (EOFError, OSError):
            answers.put(_death(process))
            while waiting.get() is not None:  # the feeder is not to wait for a worker that is gone
                pass


def _start() -> subprocess.Popen[bytes]:
    # every worker is one thread: there are as many of them as cores
    single = dict.fromkeys(("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    return subprocess.Popen(
        [sys.executable, "-m", "genesis_sft.tokens.sources.worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | single | {"TOKENIZERS_PARALLELISM": "false"},
    )


def _answer(answer: tuple[BlockTask, Done] | BaseException) -> tuple[BlockTask, Done]:
    if isinstance(answer, BaseException):
        raise answer
    return answer


def _death(process: subprocess.Popen[bytes]) -> GenesisError:
    status = process.wait()
    how = f"was ended by signal {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
    return DataError(
        f"a worker process {how} while it prepared conversations",
        hint="Was memory short? Run the same command again: what was finished is kept.",
    )
