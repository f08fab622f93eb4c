"""Several processes that measure one model together, as ``torchrun`` starts them.

Every process builds all requests, so that prompts do not depend on how many there are; what is computed is dealt out,
and every process has all results. The first one writes and speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
import torch.distributed as dist

from genesis_sft.console import progress, say
from genesis_sft.errors import CheckFailed
from genesis_sft.recipe import BatchSection, TrainingSection
from genesis_sft.training.processes.parallel import Ranks, join_ranks

_WAIT_SECONDS = 86_400
"""The others wait while the first does what only one can, however long; that one has ended, each notices at once."""

T = TypeVar("T")


@dataclass(frozen=True)
class Team:
    """The processes that measure together, as one of them sees it.

    Attributes:
        ranks: The processes.
    """

    ranks: Ranks

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""
        return self.ranks.rank

    @property
    def size(self) -> int:
        """How many there are."""
        return self.ranks.world_size

    @property
    def is_first(self) -> bool:
        """Whether this process writes and speaks for all."""
        return self.ranks.is_first

    def say(self, line: str) -> None:
        """Write one line for the user, once."""
        if self.is_first:
            say(line)

    def progress(self, label: str, total: float, unit: str) -> Any:
        """Show how far the first process is with its share; the others show nothing."""
        return progress(label, total, unit) if self.is_first else nullcontext(_Silent())

    def sum(self, values: Sequence[float]) -> list[float]:
        """Return the sums over all processes, in float64."""
        with _others_at_work():
            return self.ranks.sum(values)

    def from_first(self, work: Callable[[], T]) -> T:
        """Return what the first process makes; the others wait for it."""
        value = work() if self.is_first else None
        with _others_at_work():
            found: T = self.ranks.from_first(value)
        return found

    def first_before_others(self, work: Callable[[], T]) -> T:
        """Do something in every process, in the first one before the others: it fills caches that they then find."""
        found = work() if self.is_first else None
        with _others_at_work():
            self.ranks.barrier()
        return found if self.is_first else work()  # type: ignore[return-value]

    def gather(self, mine: Sequence[T]) -> list[T]:
        """Return the shares of all processes as one list, when share r is every n-th of it from r on."""
        if self.size == 1:
            return list(mine)
        shares: list[Any] = [None] * self.size
        with _others_at_work():
            dist.all_gather_object(shares, list(mine))
        whole: list[Any] = [None] * sum(map(len, shares))
        for rank, share in enumerate(shares):
            whole[rank :: self.size] = share
        return whole


def alone(device: str = "cpu") -> Team:
    """Return a team of one."""
    return Team(Ranks(0, 1, 1, torch.device(device)))


@contextmanager
def join_team(device: Literal["auto", "cpu", "cuda"] = "auto") -> Iterator[Team]:
    """Meet the other processes that ``torchrun`` started, or be alone.

    Raises:
        InputError: ``device`` is cuda and there is none for this process.
        CheckFailed: The others did not come.
    """
    batch = BatchSection.model_validate({"sequences": 1})
    section = TrainingSection(batch=batch, device=device, timeout_seconds=_WAIT_SECONDS, parallel="ddp")
    with join_ranks(section) as ranks:
        yield Team(ranks)


class _Silent:
    def advance(self, amount: float = 1, note: str = "") -> None:
        """Show nothing."""


@contextmanager
def _others_at_work() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what gloo and NCCL raise when the other end has gone
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckFailed(
            f"expected all processes to measure to the end; another one has ended ({first})",
            hint="It says why above. Nothing was written; parts that were finished are used when the same command is "
            "started again.",
        ) from None
